"""Packages that pictures and fonts need, loaded when they do."""

from __future__ import annotations

import importlib
from typing import Any

_REMEDY = "pip install 'tokenmix[recipes]'"  # matplotlib brings Pillow along


def require(module: str, what: str) -> Any:
    """A module, or what would bring it.

    Args:
        module: such as "PIL.Image".
        what: what it is needed for.

    Raises:
        ModuleNotFoundError: it is not there; the message says what to install.

    Example:
        >>> require("no_such_module", "drawing glyphs")
        Traceback (most recent call last):
        ...
        ModuleNotFoundError: drawing glyphs needs no_such_module: pip install 'tokenmix[recipes]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0].replace("PIL", "Pillow")
        raise ModuleNotFoundError(f"{what} needs {package}: {_REMEDY}") from error


def check_size(size: int) -> None:
    """Refuse a side of pictures that is no number of pixels.

    Raises:
        ValueError: below 4, or no whole number.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 4:
        raise ValueError(f"size: expected a side of at least 4 pixels, found {size!r}")
