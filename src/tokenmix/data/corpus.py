"""A corpus: text as bytes, in three splits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

SPLITS = ("train", "valid", "test")
SEPARATOR = b"\n\x00\n"  # stands between documents; a zero byte occurs in no text


@dataclass(frozen=True)
class Corpus:
    r"""Text in three splits, as bytes.

    Args:
        name: what the corpus is called in a config and in a table.
        train: bytes to fit models, tokenizers and n-gram baselines on, and nothing else.
        valid: bytes to choose a model by.
        test: bytes to report a score on.
        separator: the bytes between two documents of a split; empty where documents are not marked.
        origin: where the text comes from and how it was split, in a sentence.

    Raises:
        ValueError: if a split holds no bytes.

    Example:
        >>> corpus = Corpus("tiny", train=b"one\n\x00\ntwo", valid=b"three", test=b"four", origin="by hand")
        >>> corpus.documents
        {'train': 2, 'valid': 1, 'test': 1}
        >>> print(corpus.description)
        tiny: by hand; bytes: train 9, valid 5, test 4; documents: train 2, valid 1, test 1
    """

    name: str
    train: bytes
    valid: bytes
    test: bytes
    separator: bytes = SEPARATOR
    origin: str = ""

    def __post_init__(self) -> None:
        sizes = {split: len(self.split(split)) for split in SPLITS}
        empty = [split for split, size in sizes.items() if size == 0]
        if empty:
            raise ValueError(f"{self.name}: expected bytes in every split, found none in {', '.join(empty)} ({sizes})")

    def split(self, split: str) -> bytes:
        """The bytes of one split.

        Args:
            split: "train", "valid" or "test".

        Returns:
            The bytes.

        Raises:
            ValueError: for any other name.
        """
        if split not in SPLITS:
            raise ValueError(f"split: expected one of {', '.join(SPLITS)}, found {split!r}")
        data: bytes = getattr(self, split)
        return data

    @property
    def documents(self) -> dict[str, int]:
        """How many documents each split holds; 1 where documents are not marked."""
        return {name: 1 + self.split(name).count(self.separator) if self.separator else 1 for name in SPLITS}

    @property
    def description(self) -> str:
        """One line to print beside a score: origin, bytes and documents of each split."""
        sizes = ", ".join(f"{split} {len(self.split(split)):,}" for split in SPLITS)
        counts = ", ".join(f"{split} {count:,}" for split, count in self.documents.items())
        return f"{self.name}: {self.origin}; bytes: {sizes}; documents: {counts}"


def cut(data: bytes, fractions: Sequence[float]) -> list[bytes]:
    r"""Cut text into consecutive pieces, each cut moved on to the end of its line (or of its UTF-8 character).

    Args:
        data: the text.
        fractions: where to cut, rising, each between 0 and 1.

    Returns:
        One piece more than there are fractions; joined, they are `data`.

    Example:
        >>> cut(b"one\ntwo\nthree\nfour\n", [0.5, 0.8])
        [b'one\ntwo\nthree\n', b'four\n', b'']
    """
    cuts = [0, *(_end_of_line(data, int(len(data) * fraction)) for fraction in fractions), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(cuts)]


def _end_of_line(data: bytes, position: int) -> int:
    if position == 0:
        return 0
    newline = data.find(b"\n", position - 1)
    if newline >= 0:
        return newline + 1
    while position < len(data) and data[position] & 0xC0 == 0x80:  # inside a UTF-8 character
        position += 1
    return position
