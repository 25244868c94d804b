"""Icons of the fonts that the package QtAwesome collects, captioned by their names."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from tokenmix.data.pairs.fonts import Picture, characters, draw
from tokenmix.data.pairs.pair_data import PairData
from tokenmix.data.pairs.splits import hashed, split_ids

_REMEDY = "pip install --no-deps qtawesome (2.6 MB; Qt is not needed), or give the folder of its fonts as folder"


def qtawesome(
    folder: Path | None = None, *, size: int = 32, split_by: Literal["name", "first_word"] = "name"
) -> PairData:
    """Icons in grey with their names, such as "arrow left bold"; neither the package nor Qt is imported.

    A font and its names are two files: `phosphor-1.3.0.ttf` and `phosphor-charmap-1.3.0.json`, {name: code in
    hexadecimal digits}. Names without a glyph or without ink are left out.

    Args:
        folder: of these files, or of the package that has them in `fonts`; default that of the installed package.
        size: side of the pictures in pixels.
        split_by: what the SHA-1 is taken of: the name of an icon, so that one name is in one split in every font; or
            its first word, so that "lock" and "lock outline" are in one too. Modulo ten, 0 is test and 1 is val.

    Returns:
        24,605 pairs for qtawesome 1.4.2, split by name 19,672/2,480/2,453.

    Raises:
        FileNotFoundError: no fonts there. ModuleNotFoundError: no matplotlib. ValueError: a damaged file.

    Source: data_cards/qtawesome.md.
    """
    if split_by not in ("name", "first_word"):
        raise ValueError(f"split_by: expected 'name' or 'first_word', found {split_by!r}")
    root, maps = _maps(folder)
    icons = [icon for path in maps for icon in _icons(path, size)]
    if not icons:
        raise ValueError(f"folder: expected icons that the fonts have, found none in {root}")
    names = [name for name, _ in icons]
    captions = [name.replace("-", " ").replace("_", " ") for name in names]
    keys = names if split_by == "name" else [caption.split(maxsplit=1)[0] for caption in captions]
    return PairData(
        "qtawesome",
        torch.from_numpy(np.stack([picture for _, picture in icons])[:, None]),
        captions,
        **split_ids(hashed(keys)),
        source=f"{', '.join(_font(path).stem for path in maps)}, split by {split_by}",
    )


def _maps(folder: Path | None) -> tuple[Path, list[Path]]:
    """The folder, and its files of names."""
    if folder is None:
        found = importlib.util.find_spec("qtawesome")  # finds a package without importing it
        places = list(found.submodule_search_locations or []) if found else []
        if not places:
            raise FileNotFoundError(f"folder: qtawesome expected the package qtawesome, found none; {_REMEDY}")
        folder = Path(places[0])
    for root in (folder, folder / "fonts", folder / "qtawesome" / "fonts"):
        if maps := sorted(root.glob("*-charmap-*.json")):
            return root, maps
    found_there = "no such folder" if not folder.is_dir() else "no such file"
    raise FileNotFoundError(
        f"folder: qtawesome expected *-charmap-*.json and *.ttf in {folder}, found {found_there}; {_REMEDY}"
    )


def _font(names: Path) -> Path:
    return names.with_name(names.name.replace("-charmap", "")).with_suffix(".ttf")


def _icons(path: Path, size: int) -> Iterator[tuple[str, Picture]]:
    """Name and picture of each icon of a font."""
    font = _font(path)
    if not font.is_file():
        raise FileNotFoundError(f"folder: qtawesome expected {font.name} beside {path}, found no such file; {_REMEDY}")
    try:
        codes = {name: chr(int(code, 16)) for name, code in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"folder: expected {{name: hexadecimal code}} in {path}, found {error}") from error
    known = set(characters(font))
    named = [(name, text) for name, text in codes.items() if text in known and name.strip("-_ ")]
    for (name, _), picture in zip(named, draw(font, [text for _, text in named], size), strict=True):
        if picture is not None:
            yield name, picture
