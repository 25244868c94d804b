"""Characters of a font as grey pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenmix.data.pairs.packages import check_size, require

Picture = NDArray[np.uint8]
_OF_SIDE = 0.7  # pixels of the font's em


def characters(path: Path) -> list[str]:
    """Every character that a font has a glyph for, by code point.

    Raises:
        ModuleNotFoundError: no matplotlib. ValueError: no font, or a damaged one.
    """
    fonts = require("matplotlib.ft2font", "drawing glyphs")
    try:
        return [chr(code) for code in sorted(fonts.FT2Font(str(path)).get_charmap())]
    except RuntimeError as error:
        raise ValueError(f"font: expected a font in {path}, found {error}") from error


def draw(path: Path, texts: Iterable[str], size: int) -> list[Picture | None]:
    """Each character white on black, the box of its ink in the middle; what is larger than the picture is cut off.

    Args:
        path: of a TrueType or OpenType font.
        texts: one character each.
        size: side of the pictures; an em is seven tenths of it, rounded down.

    Returns:
        (size, size) uint8 for each text, None where there is no ink.

    Raises:
        ModuleNotFoundError: no Pillow. ValueError: no font, a damaged one, or a size that is none.
    """
    check_size(size)
    font = _font(path, int(size * _OF_SIDE))
    return [_draw(font, text, size) for text in texts]


def _font(path: Path, em: int) -> Any:
    fonts = require("PIL.ImageFont", "drawing glyphs")
    try:
        # the basic layout draws single characters the same wherever it runs; the other one depends on what is installed
        return fonts.truetype(str(path), em, layout_engine=fonts.Layout.BASIC)
    except OSError as error:
        raise ValueError(f"font: expected a font in {path}, found {error}") from error


def _draw(font: Any, text: str, size: int) -> Picture | None:
    picture = require("PIL.Image", "drawing glyphs").new("L", (size, size), 0)
    pen = require("PIL.ImageDraw", "drawing glyphs").Draw(picture)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    if right <= left or bottom <= top:
        return None
    pen.text(((size - (right - left)) / 2 - left, (size - (bottom - top)) / 2 - top), text, fill=255, font=font)
    drawn: Picture = np.array(picture)
    return drawn if drawn.any() else None
