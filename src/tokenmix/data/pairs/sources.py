"""Pairs by the name of where they come from."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tokenmix.data.pairs.image_captions import image_captions
from tokenmix.data.pairs.pair_data import PairData
from tokenmix.data.pairs.qtawesome import qtawesome
from tokenmix.data.pairs.spoken import SpokenCaptions
from tokenmix.data.pairs.tux_paint import tux_paint
from tokenmix.data.pairs.unicode_glyphs import unicode_glyphs
from tokenmix.nearest import nearest
from tokenmix.plugins import registered_name

Source = Callable[..., PairData]

SOURCES: dict[str, Source] = {
    "unicode_glyphs": unicode_glyphs,
    "qtawesome": qtawesome,
    "tux_paint": tux_paint,
    "image_captions": image_captions,
}
_SHARED = ("folder", "size", "speech", "sampling_rate")  # of `load_pairs`, passed on where a source has them


def load_pairs(
    name: str = "unicode_glyphs",
    *,
    folder: str | os.PathLike[str] | None = None,
    size: int = 32,
    speech: Literal["none", "espeak", "recorded"] = "none",
    sampling_rate: int = 16_000,
    voices: Sequence[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    **options: Any,
) -> PairData:
    """Pictures with captions and, if asked for, speech.

    Args:
        name: of the source, one of `SOURCES`, or "my_file.py:NAME", a file that registers it under this name.
        folder: of its files; unicode_glyphs, qtawesome and tux_paint have a place of their own.
        size: side of the pictures in pixels.
        speech: "none"; "espeak", each caption as espeak-ng says it; or "recorded", what the source has (tux_paint).
        sampling_rate: of the speech, samples a second.
        voices: of espeak-ng, from which one is drawn for each caption; default one of the caption's language.
        cache: where espeak-ng's speech is kept; default tokenmix's cache folder.
        options: those of the source's function, such as `font` of unicode_glyphs and `languages` of tux_paint.

    Raises:
        ValueError: an unknown source or option, with the nearest; data that cannot be. FileNotFoundError,
            ModuleNotFoundError: something is missing; the message says which command or folder would mend it.

    Example:
        >>> load_pairs("unicode_glyphs", font="DejaVuSansDisplay.ttf")
        PairData('unicode_glyphs': 47 pairs, 47 pictures of 1 x 32 x 32, 47 captions, no speech, 37/5/5)
        >>> load_pairs("glyphs")
        Traceback (most recent call last):
        ...
        ValueError: name: unknown pairs 'glyphs'; did you mean 'unicode_glyphs'?
    """
    name = registered_name(name, SOURCES)
    if name not in SOURCES:
        raise ValueError(f"name: unknown pairs {name!r}; {nearest(name, SOURCES)}")
    if speech not in ("none", "espeak", "recorded"):
        raise ValueError(f"speech: expected 'none', 'espeak' or 'recorded', found {speech!r}")
    load = SOURCES[name]
    takes = list(inspect.signature(load).parameters)
    known = [option for option in takes if option not in _SHARED]
    for option in options:
        if option not in known:
            raise ValueError(f"{option}: not an option of the pairs {name!r}; {nearest(option, known)}")
    place = None if folder is None else Path(folder).expanduser()
    shared = {"size": size, "speech": speech, "sampling_rate": sampling_rate}
    data = load(place, **{option: value for option, value in shared.items() if option in takes}, **options)
    if not isinstance(data, PairData):
        raise TypeError(f"name: the source {name!r} gave {type(data).__name__}, expected PairData")
    if speech == "none":
        return replace(data, speech=None)
    if speech == "recorded":
        if data.speech is None:
            raise ValueError(f"speech: expected a source with recordings, such as 'tux_paint', found {name!r}")
        return data
    keep = None if cache is None else Path(cache)
    said = SpokenCaptions(data.captions, data.languages, rate=sampling_rate, voices=voices, folder=keep)
    return replace(data, speech=said, sampling_rate=sampling_rate)


def register_pairs(name: str) -> Callable[[Source], Source]:
    """Add a source of your own: a function of `folder` and keywords, of which `size` is one, that gives `PairData`.

    Args:
        name: under which `load_pairs` and the recipe find it.

    Raises:
        ValueError: the name is taken.

    Example:
        >>> @register_pairs("serif")
        ... def serif(folder, *, size=32):
        ...     return unicode_glyphs(folder, size=size, font="DejaVuSerif.ttf")
        >>> load_pairs("serif", size=16).images.shape[1:]
        torch.Size([1, 16, 16])
        >>> del SOURCES["serif"]
    """

    def add(load: Source) -> Source:
        if name in SOURCES:
            raise ValueError(f"name: expected a new name, found {name!r}, which is registered")
        SOURCES[name] = load
        return load

    return add
