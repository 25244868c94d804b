"""Glyphs of a font, captioned by the names that Unicode gives to characters."""

from __future__ import annotations

import platform
import unicodedata
from pathlib import Path

import numpy as np
import torch

from tokenmix.data.pairs.fonts import characters, draw
from tokenmix.data.pairs.packages import require
from tokenmix.data.pairs.pair_data import PairData
from tokenmix.data.pairs.splits import hashed, split_ids
from tokenmix.nearest import nearest


def unicode_glyphs(folder: Path | None = None, *, size: int = 32, font: str = "DejaVuSans.ttf") -> PairData:
    """Every character of a font that has a name and ink: its glyph in grey, and its name.

    The caption is the name in lower case with spaces for hyphens: "latin small letter e with acute". Combining marks,
    spaces and control characters are left out. Splits go by the SHA-1 of the Unicode name as it is, modulo ten: 0 is
    test, 1 is val.

    Args:
        folder: of fonts; default those that come with matplotlib.
        size: side of the pictures in pixels.
        font: a file in the folder; of matplotlib's, DejaVuSans, DejaVuSerif and DejaVuSansMono have most characters.

    Returns:
        5,573 pairs for DejaVuSans.ttf and the names of Unicode 14 (Python 3.11), split 4,447/544/582.

    Raises:
        FileNotFoundError: no such font. ModuleNotFoundError: no matplotlib. ValueError: a damaged font.

    Source: data_cards/unicode_glyphs.md.

    Example:
        >>> data = unicode_glyphs()
        >>> data.images.shape[1:], data.captions[0], data.captions[-1]
        (torch.Size([1, 32, 32]), 'exclamation mark', 'weary cat face')
    """
    path = _font_file(folder, font)
    texts = [text for text in characters(path) if unicodedata.category(text)[0] not in "ZCM"]
    named = [(text, name) for text in texts if (name := unicodedata.name(text, ""))]
    pictures = draw(path, [text for text, _ in named], size)
    found = [(name, picture) for (_, name), picture in zip(named, pictures, strict=True) if picture is not None]
    if not found:
        raise ValueError(f"font: expected characters with Unicode names, found none in {path}")
    return PairData(
        "unicode_glyphs",
        torch.from_numpy(np.stack([picture for _, picture in found])[:, None]),
        [name.lower().replace("-", " ") for name, _ in found],
        **split_ids(hashed(name for name, _ in found)),
        source=f"{font}, Unicode {unicodedata.unidata_version} of Python {platform.python_version()}",
    )


def _font_file(folder: Path | None, font: str) -> Path:
    if folder is None:
        folder = Path(require("matplotlib", "drawing glyphs").get_data_path()) / "fonts" / "ttf"
    path = folder / font
    if path.is_file():
        return path
    if not folder.is_dir():
        raise FileNotFoundError(f"folder: unicode_glyphs expected a folder of fonts, found nothing at {folder}")
    there = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in (".ttf", ".otf"))
    raise FileNotFoundError(f"font: expected {font} in {folder}, found no such file; {nearest(font, there)}")
