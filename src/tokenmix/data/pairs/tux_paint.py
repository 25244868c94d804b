"""The stamps of Tux Paint: pictures, their names in many languages, and recordings of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenmix.data.pairs.pair_data import PairData
from tokenmix.data.pairs.pictures import read_pictures
from tokenmix.data.pairs.splits import hashed, split_ids
from tokenmix.data.pairs.spoken import Recordings

_STAMPS = Path("/usr/share/tuxpaint/stamps")
_REMEDY = "apt-get install tuxpaint-stamps-default"
_KINDS = (".ogg", ".wav")


class _Stamp(NamedTuple):
    picture: Path
    captions: dict[str, str]  # by language
    split: str
    said: str  # start of the recordings' names, behind which a language comes


def tux_paint(
    folder: Path | None = None,
    *,
    size: int = 32,
    languages: Sequence[str] = ("en",),
    speech: str = "none",
    sampling_rate: int = 16_000,
) -> PairData:
    """Stamps in colour on white, padded to a square, with captions as they are written: "A head of lettuce.".

    A row is a stamp in a language; a stamp without a caption in it has none. Splits go by the SHA-1 of the picture's
    file name, modulo ten (0 is test, 1 is val), so that a stamp is in one split in every language. Stamps that are SVG
    drawings alone are left out, as nothing here renders them.

    Args:
        folder: of stamps, each with its captions in <stamp>.txt and its recordings in <stamp>_desc_<language>.ogg or
            .wav; or with a manifest.json of {"key", "caption", "split"}, pictures <key>.png and recordings
            <key>.<language>.ogg. Default where Debian's package tuxpaint-stamps-default puts them.
        size: side of the pictures in pixels.
        languages: of captions and recordings, as in the files: "en", "es", "pt_BR".
        speech: "recorded" for the recordings of these languages, which most stamps have in fr, ro, ru, es, bg, ca, be
            and el, but few in en.
        sampling_rate: of the recordings; they are resampled.

    Returns:
        785 pairs a language for Debian 12's package, split 618/91/76.

    Raises:
        FileNotFoundError: no stamps there; the message says what to install. ValueError: an unknown language, one
            without any recording, or a damaged file.

    Source: data_cards/tux_paint_stamps.md.
    """
    from tokenmix.data.speech.missing import require_folder
    from tokenmix.data.speech.texts import check_languages

    root = require_folder("tux_paint", folder, _REMEDY, _STAMPS)
    stamps = list(_listed(root) if (root / "manifest.json").is_file() else _walked(root))
    if not stamps:
        raise FileNotFoundError(f"folder: tux_paint expected stamps with captions in {root}, found none; {_REMEDY}")
    check_languages(languages, sorted({language for stamp in stamps for language in stamp.captions}))
    rows = [(stamp, language) for stamp in stamps for language in languages if language in stamp.captions]
    images = read_pictures([stamp.picture for stamp in stamps], size, crop=False)
    place = {stamp.picture: i for i, stamp in enumerate(stamps)}
    return PairData(
        "tux_paint",
        images[[place[stamp.picture] for stamp, _ in rows]],
        [stamp.captions[language] for stamp, language in rows],
        **split_ids([stamp.split for stamp, _ in rows]),
        speech=_recordings(root, rows, sampling_rate) if speech == "recorded" else None,
        sampling_rate=sampling_rate,
        languages=[language for _, language in rows],
        source=f"{len(stamps)} stamps of {root}, in {', '.join(languages)}",
    )


def _walked(root: Path) -> Iterator[_Stamp]:
    """Stamps with captions; of those without, most are mirrored forms of another one."""
    pictures = [path for path in sorted(root.rglob("*.png")) if path.with_suffix(".txt").is_file()]
    for path, split in zip(pictures, hashed(path.name for path in pictures), strict=True):
        captions = _captions(path.with_suffix(".txt"))
        if captions:
            yield _Stamp(path, captions, split, f"{path.with_suffix('')}_desc")


def _captions(path: Path) -> dict[str, str]:
    """By language: the first line is English, the others are marked like "es.utf8=Una lechuga."."""
    try:
        first, *others = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"folder: expected captions in UTF-8 in {path}, found {error}") from error
    found = {"en": first.strip()}
    for line in others:
        language, mark, caption = line.partition(".utf8=")
        if mark:
            found[language] = caption.strip()
    return {language: caption for language, caption in found.items() if caption}


def _listed(root: Path) -> Iterator[_Stamp]:
    path = root / "manifest.json"
    try:
        for stamp in json.loads(path.read_text(encoding="utf-8")):
            split, key = {"valid": "val"}.get(stamp["split"], stamp["split"]), stamp["key"]
            yield _Stamp(root / f"{key}.png", dict(stamp["caption"]), split, str(root / key))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"folder: expected stamps with key, caption and split in {path}, found {error!r}") from error


def _recordings(root: Path, rows: Sequence[tuple[_Stamp, str]], rate: int) -> Recordings:
    paths = [_recording(stamp, language) for stamp, language in rows]
    if not any(paths):
        wanted = ", ".join(sorted({language for _, language in rows}))
        there = Counter(
            language
            for stamp in {stamp.picture: stamp for stamp, _ in rows}.values()
            for language in stamp.captions
            if _recording(stamp, language)
        )
        have = ", ".join(f"{language} ({count})" for language, count in there.most_common()) or "no language"
        raise ValueError(f"languages: expected recordings in {wanted}, found none in {root}; there are some in {have}")
    return Recordings(paths, rate)


def _recording(stamp: _Stamp, language: str) -> Path | None:
    """The file of a recording; an English one may come without its language."""
    names = [f"{stamp.said}{mark}{language}" for mark in "_."] + [stamp.said] * (language == "en")
    places = (Path(name + kind) for name in names for kind in _KINDS)
    return next((path for path in places if path.is_file()), None)
