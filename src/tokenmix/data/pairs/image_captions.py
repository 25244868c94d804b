"""Photographs with captions, from a folder in the layout of a published set."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

from tokenmix.data.pairs.caption_files import LAYOUTS, Captioned, read_layout
from tokenmix.data.pairs.pair_data import PairData
from tokenmix.data.pairs.pictures import read_pictures
from tokenmix.data.pairs.splits import hashed, split_ids


def image_captions(
    folder: Path | None = None,
    *,
    size: int = 32,
    column: str = "text",
    year: int | None = None,
    captions_per_image: int | None = None,
    max_images: int | None = None,
) -> PairData:
    """Pictures in colour, their middle square, with the captions of a set on disk; nothing is downloaded.

    A row is a pair: a picture with five captions is five rows. White space in captions becomes single spaces; empty
    captions are left out. The splits are the set's own where it tells train and another one, and pictures in none of
    them are left out: a missing test split is then its val, and a missing val split a tenth of train. Otherwise, and
    for that tenth, they go by the SHA-1 of the picture's name as it is listed, modulo ten: 0 is test, 1 is val.

    Args:
        folder: in one of these layouts:
            COCO: annotations/captions_{train,val}2017.json, pictures in {train,val}2017 (also in images/).
            Flickr8k: Flickr8k.token.txt and Flickr_8k.{train,dev,test}Images.txt, pictures in Flicker8k_Dataset.
            Flickr30k: results_20130124.token, pictures in flickr30k-images.
            Hugging Face's ImageFolder: metadata.jsonl or metadata.csv, for all or in train, validation and test.
        size: side of the pictures in pixels.
        column: of captions, in an ImageFolder; in metadata.jsonl it may hold a list of captions.
        year: of COCO, where several are there.
        captions_per_image: the first ones at most; default all.
        max_images: so many at most, chosen by the SHA-1 of their names; default all.

    Raises:
        FileNotFoundError: no such layout, or pictures that are not there. ValueError: broken pictures or lists; the
            message names them. ModuleNotFoundError: no Pillow.

    Source: data_cards/image_captions.md.
    """
    for name, most in (("captions_per_image", captions_per_image), ("max_images", max_images)):
        if most is not None and most < 1:
            raise ValueError(f"{name}: expected at least 1, or None, found {most}")
    if folder is None or not folder.is_dir():
        found = "none given" if folder is None else f"nothing at {folder}"
        raise FileNotFoundError(f"folder: image_captions expected a folder with {LAYOUTS}; found {found}")
    layout, listed = read_layout(folder, column, year)
    rows, splits = _split([row for row in listed if row.caption])
    kept = _chosen(rows, captions_per_image, max_images)
    if not kept:
        raise ValueError(f"folder: expected captions in {folder}, found none")
    rows = [rows[i] for i in kept]
    paths = list(dict.fromkeys(row.path for row in rows))
    place = {path: i for i, path in enumerate(paths)}
    images = read_pictures(paths, size, crop=True)
    return PairData(
        "image_captions",
        images if len(paths) == len(rows) else images[[place[row.path] for row in rows]],
        [row.caption for row in rows],
        **split_ids([splits[i] for i in kept]),
        source=f"{layout} in {folder}, {len(paths):,} pictures",
    )


def _split(rows: list[Captioned]) -> tuple[list[Captioned], list[str]]:
    """Rows with their splits: the set's own ones, or those of a hash."""
    own = {row.split for row in rows} - {None}
    if "train" not in own or len(own) < 2:
        return rows, hashed(row.name for row in rows)
    rows = [row for row in rows if row.split is not None]
    splits = [str(row.split) for row in rows]
    if len(own) == 3:
        return rows, splits
    # one is missing: its val is the test, and a tenth of train is val
    drawn = hashed(row.name for row in rows)
    pairs = zip(splits, drawn, strict=True)
    return rows, ["test" if split != "train" else "val" if draw == "val" else "train" for split, draw in pairs]


def _chosen(rows: list[Captioned], captions: int | None, images: int | None) -> list[int]:
    """Places of rows: the first ones of each picture, of some pictures."""
    names = {row.path: row.name for row in rows}
    order = sorted(names, key=lambda path: hashlib.sha1(f"choose {names[path]}".encode()).digest())
    wanted, seen, kept = set(order[:images]), Counter[Path](), []
    for i, row in enumerate(rows):
        seen[row.path] += 1
        if row.path in wanted and (captions is None or seen[row.path] <= captions):
            kept.append(i)
    return kept
