"""Lists of pictures and their captions, in the layouts in which caption sets are published."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
_FLICKR8K, _FLICKR30K = "Flickr8k.token.txt", "results_20130124.token"
_NO_PICTURE = "2258277193_586949ec62.jpg.1"  # Flickr8k lists captions of it, and has no such file
LAYOUTS = (
    "metadata.jsonl or metadata.csv with file_name and text (Hugging Face's ImageFolder), "
    f"annotations/captions_*.json (COCO), {_FLICKR8K} or {_FLICKR30K}"
)


class Captioned(NamedTuple):
    """One caption of a picture; the split where the set tells it."""

    path: Path
    name: str  # as it is listed
    caption: str
    split: str | None


def read_layout(root: Path, column: str, year: int | None) -> tuple[str, list[Captioned]]:
    """What a folder holds, and its captions in the order of its lists.

    Args:
        root: the folder.
        column: of captions, for ImageFolder.
        year: of COCO.

    Raises:
        FileNotFoundError: none of `LAYOUTS`. ValueError: a damaged list; the message names file and line.
    """
    if listings := sorted(root.glob("annotations/captions_*.json")):
        return "COCO", list(_coco(root, listings, year))
    for name in (_FLICKR8K, _FLICKR30K):
        if listings := sorted((*root.glob(name), *root.glob(f"*/{name}"))):
            return name, list(_flickr(root, listings[0]))
    kinds = [f"{place}metadata.{kind}" for place in ("", "*/") for kind in ("jsonl", "csv")]
    if listings := [path for kind in kinds for path in sorted(root.glob(kind))]:
        return "ImageFolder", [row for path in listings for row in _image_folder(root, path, column)]
    there = ", ".join(sorted(path.name for path in root.iterdir())[:5]) or "nothing"
    raise FileNotFoundError(f"folder: image_captions expected {LAYOUTS} in {root}, found {there}")


def _image_folder(root: Path, listing: Path, column: str) -> Iterator[Captioned]:
    """The split is the first folder of a picture's place."""
    rows = _json_lines(listing) if listing.suffix == ".jsonl" else _table(listing)
    for line, row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or column not in row:
            found = ", ".join(map(str, row)) if isinstance(row, dict) else repr(row)
            raise ValueError(f"{listing}:{line}: expected file_name and {column}, found {found}")
        name, texts = row["file_name"], row[column]
        part = (listing.parent.relative_to(root) / name).parts[0]
        for text in texts if isinstance(texts, list) else [texts]:
            yield Captioned(listing.parent / name, name, _clean(text, f"{listing}:{line}"), _PARTS.get(part))


def _coco(root: Path, listings: list[Path], year: int | None) -> Iterator[Captioned]:
    """Of captions_<part><year>.json; pictures are in <part><year>, in images/<part><year> or in images."""
    years: dict[int, list[Path]] = defaultdict(list)
    for path in listings:
        years[int("".join(re.findall(r"\d+", path.stem)) or 0)].append(path)
    if len(years) > 1 if year is None else year not in years:
        raise ValueError(f"year: expected one of {', '.join(map(str, sorted(years)))} in {root}, found {year}")
    for path in years[next(iter(years)) if year is None else year]:
        part = path.stem.removeprefix("captions_")
        try:
            content = json.loads(_text(path))
            names = {image["id"]: str(image["file_name"]) for image in content["images"]}
            pairs = [(names[note["image_id"]], note["caption"]) for note in content["annotations"]]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: expected COCO's images and annotations, found {error!r}") from error
        folder = _first_folder(root / part, root / "images" / part, root / "images")
        for name, caption in pairs:
            yield Captioned(folder / name, name, _clean(caption, str(path)), _PARTS.get(part.rstrip("0123456789")))


def _flickr(root: Path, listing: Path) -> Iterator[Captioned]:
    """Lines of <picture>#<number>, a tab and a caption; Flickr8k lists its splits in files, Flickr30k has none."""
    eight = listing.name == _FLICKR8K
    parts: dict[str, str] = {}
    for part, name in {"train": "trainImages", "val": "devImages", "test": "testImages"}.items():
        path = listing.with_name(f"Flickr_8k.{name}.txt")
        if eight and path.is_file():
            parts |= dict.fromkeys(_text(path).split(), part)
    inner = ("Flicker8k_Dataset", "Flickr8k_Dataset") if eight else ("flickr30k-images", "flickr30k_images")
    folder = _first_folder(*(base / name for base in (root, listing.parent) for name in (*inner, "images", "Images")))
    for number, line in enumerate(_text(listing).split("\n"), 1):
        if not line.strip():
            continue
        picture, tab, caption = line.partition("\t")
        name, mark, _ = picture.rpartition("#")
        if not tab or not mark:
            raise ValueError(f"{listing}:{number}: expected <picture>#<number>, a tab and a caption, found {line!r}")
        if name != _NO_PICTURE:
            yield Captioned(folder / name, name, _clean(caption, str(listing)), parts.get(name))


def _first_folder(*places: Path) -> Path:
    """The first one that is there, else the usual one."""
    return next((place for place in places if place.is_dir()), places[0])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8, found {error}") from error


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: expected JSON, found {error}") from error


def _table(path: Path) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    for row in reader:
        yield reader.line_num, row


def _clean(caption: Any, place: str) -> str:
    """With single spaces; nothing where there is no caption."""
    if caption is None or isinstance(caption, str):
        return " ".join((caption or "").split())
    raise ValueError(f"{place}: expected a text as caption, found {caption!r}")
