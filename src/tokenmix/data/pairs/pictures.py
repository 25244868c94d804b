"""Picture files as small squares of pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, from_numpy

from tokenmix.data.pairs.packages import check_size, require

NAMED = 5  # files that a message names


def read_pictures(paths: Sequence[Path], size: int, *, crop: bool) -> Tensor:
    """Files that Pillow reads, as squares in colour; their aspect is kept, and what is transparent becomes white.

    Args:
        paths: of the files.
        size: side of the squares in pixels.
        crop: cut the middle square out; otherwise white is added at the shorter sides.

    Returns:
        (N, 3, size, size) uint8.

    Raises:
        FileNotFoundError: files that are not there. ValueError: files that cannot be read. Both name the first ones.
        ModuleNotFoundError: no Pillow.
    """
    check_size(size)
    image, ops = (require(module, "reading pictures") for module in ("PIL.Image", "PIL.ImageOps"))
    refuse_missing(paths)
    found, broken = np.empty((len(paths), 3, size, size), dtype=np.uint8), []
    for i, path in enumerate(paths):
        try:
            with image.open(path) as opened:
                found[i] = _square(opened, size, crop, image, ops)
        except Exception as error:  # damaged files make Pillow raise errors of many kinds
            broken.append(f"{path} ({str(error) or type(error).__name__})")
    if broken:
        raise ValueError(f"images: expected pictures that Pillow reads, found {listed(broken, len(paths))}")
    return from_numpy(found)


def refuse_missing(paths: Sequence[Path]) -> None:
    """Say which files are not there.

    Raises:
        FileNotFoundError: some are not; the message names the first ones.
    """
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"images: expected picture files, found nothing at {listed(missing, len(paths))}")


def listed(names: Sequence[str], among: int) -> str:
    """The first names, and how many there are.

    Example:
        >>> listed(["a.jpg", "b.jpg"], 10)
        '2 of 10: a.jpg, b.jpg'
    """
    more = ", ..." if len(names) > NAMED else ""
    return f"{len(names):,} of {among:,}: {', '.join(names[:NAMED])}{more}"


def _square(opened: Any, size: int, crop: bool, image: Any, ops: Any) -> Any:
    """(3, size, size) of an opened file."""
    opened.draft("RGB", (2 * size, 2 * size))  # JPEG alone: decodes fewer pixels, but never below twice the side
    picture = ops.exif_transpose(opened)
    if picture.mode.startswith(("I", "F")):
        raise ValueError(f"more than 8 bits a pixel, mode {picture.mode}")  # Pillow would clip them
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = image.alpha_composite(image.new("RGBA", picture.size, "white"), picture)
    flat = picture.convert("RGB")
    make: Callable[..., Any] = ops.fit if crop else ops.pad
    shape = make(flat, (size, size), method=image.Resampling.BICUBIC, **({} if crop else {"color": "white"}))
    return np.asarray(shape).transpose(2, 0, 1)
