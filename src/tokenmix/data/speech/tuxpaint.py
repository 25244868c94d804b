"""The recorded names of Tux Paint's stamps, which Debian packages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenmix.data.speech.clip import Clip, file_clip
from tokenmix.data.speech.missing import require_folder
from tokenmix.data.speech.splits import Splits, by_split, split_of
from tokenmix.data.speech.texts import check_languages, normalise_text

LANGUAGES = ("be", "bg", "ca", "da", "el", "en", "es", "fr", "ro", "ru")
_STAMPS = Path("/usr/share/tuxpaint/stamps")
_RECORDING = re.compile(r"(.+)_desc(?:_([a-z]{2}))?\.ogg")


def load_tuxpaint(
    folder: str | Path | None = None,
    *,
    languages: Sequence[str] = ("es",),
    min_seconds: float = 0.25,
    max_seconds: float = 12.0,
) -> Splits:
    """Recorded names of stamps, by volunteers, 44.1 kHz.

    Splits go by the SHA-1 of the stamp's path, so that one stamp is in one split in every language: a tenth is test, a
    tenth valid.

    Args:
        folder: of stamps, each with its texts in <stamp>.txt and its recordings in <stamp>_desc_<language>.ogg; or with
            a manifest.json of {"key", "caption", "split"} and recordings <key>.<language>.ogg. Default where Debian's
            package tuxpaint-stamps-default puts them.
        languages: of be, bg, ca, da, el, en, es, fr, ro, ru.
        min_seconds, max_seconds: shorter and longer clips are left out.

    Raises:
        FileNotFoundError: nothing there; the message says what to install. ValueError: an unknown language.
    """
    check_languages(languages, LANGUAGES)
    remedy = "apt-get install tuxpaint-stamps-default"
    root = require_folder("tuxpaint", folder, remedy, _STAMPS)
    walk = _listed if (root / "manifest.json").is_file() else _stamps
    clips = list(walk(root, frozenset(languages)))
    if not clips:
        raise FileNotFoundError(
            f"folder: tuxpaint expected recordings in {', '.join(languages)} in {root}, found none; {remedy}"
        )
    # a file whose header cannot be read has 0 seconds, and stays for ClipDataset.check to name
    return by_split(item for item in clips if not item[1].seconds or min_seconds <= item[1].seconds <= max_seconds)


def _stamps(root: Path, languages: frozenset[str]) -> Iterator[tuple[str, Clip]]:
    """Each recording of a stamp that has a text in its language."""
    for path in sorted(root.rglob("*_desc*.ogg")):
        match = _RECORDING.fullmatch(path.name)
        language = match[2] or "en" if match else ""
        texts = path.with_name(f"{match[1]}.txt") if match else path
        if match is None or language not in languages or not texts.is_file():
            continue
        text = _text_in(texts.read_text(encoding="utf-8", errors="replace").splitlines(), language)
        if text:
            stamp = path.relative_to(root).with_name(match[1]).as_posix()
            yield split_of(stamp), file_clip(path, text, f"tuxpaint-{language}", language)


def _text_in(lines: Sequence[str], language: str) -> str | None:
    """The line of a language; the first line, without a language, is English."""
    mark = f"{language}.utf8="
    found = lines[:1] if language == "en" else [line.removeprefix(mark) for line in lines if line.startswith(mark)]
    return normalise_text(found[0], language) if found else None


def _listed(root: Path, languages: frozenset[str]) -> Iterator[tuple[str, Clip]]:
    for stamp in json.loads((root / "manifest.json").read_text(encoding="utf-8")):
        for language in sorted(languages & set(stamp["caption"])):
            path, text = root / f"{stamp['key']}.{language}.ogg", normalise_text(stamp["caption"][language], language)
            if text and path.is_file():
                yield stamp["split"], file_clip(path, text, f"tuxpaint-{language}", language)
