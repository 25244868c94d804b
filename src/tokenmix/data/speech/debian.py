"""Recordings that Debian packages: Asterisk's telephone prompts, and the names of Tux Paint's stamps."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenmix.data.speech.clip import Clip, file_clip
from tokenmix.data.speech.missing import require_folder
from tokenmix.data.speech.splits import Splits, by_split, split_of
from tokenmix.data.speech.texts import normalise_text

_ASTERISK = Path("/usr/share/asterisk/sounds")
_ASTERISK_TEXTS = Path("/usr/share/doc")
_TUXPAINT = Path("/usr/share/tuxpaint/stamps")
_STAMP = re.compile(r"(.+)_desc(?:_([a-z]{2}))?\.ogg")
TUXPAINT_LANGUAGES = ("be", "bg", "ca", "da", "el", "es", "fr", "ro", "ru")


def load_asterisk(
    folder: str | Path | None = None, *, languages: Sequence[str] = ("en",), max_seconds: float = 12.0
) -> Splits:
    """Telephone prompts, one professional voice a language, 8 kHz.

    Splits go by the SHA-1 of the normalised text: a tenth is test, a tenth valid. Left out: tones and silences, texts
    with digits in languages other than English, and clips that are longer than `max_seconds`.

    Args:
        folder: of sounds, with a folder such as `en` and a transcript `core-sounds-en.txt` or .txt.gz a language;
            default where Debian's packages asterisk-core-sounds-XX and asterisk-core-sounds-XX-wav put them.
        languages: of en, es, fr, it, ru.
        max_seconds: longer clips are left out.

    Raises:
        FileNotFoundError: nothing there; the message says what to install.
    """
    packages = " ".join(f"asterisk-core-sounds-{language}{part}" for language in languages for part in ("", "-wav"))
    remedy = f"apt-get install {packages}"
    root = require_folder("asterisk", folder, remedy, _ASTERISK)
    found = []
    for language in languages:
        texts = _transcripts(language, root)
        if texts is None:
            raise FileNotFoundError(f"languages: found no transcript core-sounds-{language}.txt of asterisk; {remedy}")
        for name, text in texts:
            paths = sorted(root.glob(f"{language}*/{name}.wav"))
            clean = None if re.search(r"[\[\]{}<>?]", text) else normalise_text(text, language)
            if paths and clean:
                clip = file_clip(paths[0], clean, f"asterisk-{language}", language)
                if clip.seconds <= max_seconds:
                    found.append((split_of(clean), clip))
    if not found:
        raise FileNotFoundError(
            f"folder: asterisk expected .wav files of {list(languages)} in {root}, found none; {remedy}"
        )
    return by_split(found)


def _transcripts(language: str, root: Path) -> list[tuple[str, str]] | None:
    """(name, text) of each line, from beside the sounds or from Debian's documentation."""
    name = f"core-sounds-{language}.txt"
    documents = _ASTERISK_TEXTS / f"asterisk-core-sounds-{language}"
    for path in (root / name, root / f"{name}.gz", documents / name, documents / f"{name}.gz"):
        if path.is_file():
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", errors="replace")
            lines = (line.partition(":") for line in text.splitlines() if line and not line.startswith(";"))
            return [(key.strip(), value.strip()) for key, _, value in lines if value.strip()]
    return None


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
        folder: of stamps; default where Debian's package tuxpaint-stamps-default puts them.
        languages: of be, bg, ca, da, el, en, es, fr, ro, ru.
        min_seconds, max_seconds: shorter and longer clips are left out.

    Raises:
        FileNotFoundError: nothing there; the message says what to install.
    """
    remedy = "apt-get install tuxpaint-stamps-default"
    root = require_folder("tuxpaint", folder, remedy, _TUXPAINT)
    found = [
        (split_of(stamp), clip)
        for stamp, clip in _stamps(root, tuple(languages))
        if min_seconds <= clip.seconds <= max_seconds
    ]
    if not found:
        raise FileNotFoundError(
            f"folder: tuxpaint expected recordings of {list(languages)} in {root}, found none; {remedy}"
        )
    return by_split(found)


def _stamps(root: Path, languages: tuple[str, ...]) -> Iterator[tuple[str, Clip]]:
    """Each recording of a stamp that has a text in its language, with the stamp's path."""
    for path in sorted(root.rglob("*_desc*.ogg")):
        match = _STAMP.fullmatch(path.name)
        language = "en" if match is None else match[2] or "en"
        beside = path.with_name(f"{match[1]}.txt") if match else None
        if match is None or beside is None or language not in languages or not beside.is_file():
            continue
        text = _text_in(beside.read_text(encoding="utf-8", errors="replace").splitlines(), language)
        clean = None if text is None else normalise_text(text, language)
        if clean:
            stamp = str(path.relative_to(root).with_name(match[1]))
            yield stamp, file_clip(path, clean, f"tuxpaint-{language}", language)


def _text_in(lines: list[str], language: str) -> str | None:
    """The line of a language; the first line, without a language, is English."""
    if language == "en":
        return lines[0] if lines else None
    mark = f"{language}.utf8="
    return next((line.removeprefix(mark).strip() for line in lines if line.startswith(mark)), None)
