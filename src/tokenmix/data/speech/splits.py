"""Splits that depend on the text alone, so that no sentence is in two of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from tokenmix.data.speech.clip import Clip

Splits = dict[str, list[Clip]]


def split_of(key: str, parts: int = 10) -> str:
    """The split of a text, by its SHA-1: one in `parts` is "test", another one "valid", the rest "train".

    Example:
        >>> [split_of(word) for word in ("one", "two", "three")]
        ['train', 'valid', 'train']
    """
    place = int(hashlib.sha1(key.encode()).hexdigest(), 16) % parts
    return {0: "test", 1: "valid"}.get(place, "train")


def by_split(clips: Iterable[tuple[str, Clip]]) -> Splits:
    """Clips by the split that comes with each; the three usual ones are there if empty.

    Example:
        >>> by_split([])
        {'train': [], 'valid': [], 'test': []}
    """
    found: Splits = {"train": [], "valid": [], "test": []}
    for split, clip in clips:
        found.setdefault(split, []).append(clip)
    return found
