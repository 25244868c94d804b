"""Asterisk's telephone prompts, which Debian packages."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from pathlib import Path

from tokenmix.data.speech.clip import Clip, file_clip
from tokenmix.data.speech.missing import require_folder
from tokenmix.data.speech.splits import Splits, by_split, split_of
from tokenmix.data.speech.texts import check_languages, normalise_text

LANGUAGES = ("en", "es", "fr", "it", "ru")
_SOUNDS, _DOCUMENTS = Path("/usr/share/asterisk/sounds"), Path("/usr/share/doc")
_NOT_SPOKEN = re.compile(r"[()]|\?.*\w")  # remarks, and Italian accents that were lost: "il numero ? stato"


def load_asterisk(
    folder: str | Path | None = None, *, languages: Sequence[str] = ("en",), max_seconds: float = 12.0
) -> Splits:
    """Telephone prompts, one professional voice a language, 8 kHz.

    Splits go by the SHA-1 of the normalised text: a tenth is test, a tenth valid. Left out are tones and silences,
    texts with remarks, texts that `normalise_text` refuses (all with digits, but in English), and clips of more than
    `max_seconds`.

    Args:
        folder: of sounds, with a folder such as `en` and a transcript `core-sounds-en.txt` or .txt.gz a language;
            default where Debian's packages asterisk-core-sounds-XX and asterisk-core-sounds-XX-wav put them.
        languages: of en, es, fr, it, ru.
        max_seconds: longer clips are left out.

    Raises:
        FileNotFoundError: nothing there; the message says what to install. ValueError: an unknown language.
    """
    check_languages(languages, LANGUAGES)
    packages = " ".join(f"asterisk-core-sounds-{language}{part}" for language in languages for part in ("", "-wav"))
    remedy = f"apt-get install {packages}"
    root = require_folder("asterisk", folder, remedy, _SOUNDS)
    clips: list[tuple[str, Clip]] = []
    for language in languages:
        own = _clips(root, language, remedy)
        if not own:
            raise FileNotFoundError(
                f"folder: asterisk expected .wav files of {language!r} in {root}, found none; {remedy}"
            )
        clips += [(split_of(clip.text), clip) for clip in own if clip.seconds <= max_seconds]
    return by_split(clips)


def _clips(root: Path, language: str, remedy: str) -> list[Clip]:
    name = f"core-sounds-{language}.txt"
    documents = _DOCUMENTS / f"asterisk-core-sounds-{language}"
    paths = [place / (name + end) for place in (root, documents) for end in ("", ".gz")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"folder: asterisk expected the transcript {name} in {root}, found none; {remedy}")
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    clips = []
    folders = sorted(root.glob(f"{language}*/"))
    for line in data.decode("utf-8", errors="replace").splitlines():
        key, _, said = line.partition(":")
        text = None if line.startswith(";") or _NOT_SPOKEN.search(said) else normalise_text(said, language)
        sound = next((place for place in folders if (place / f"{key.strip()}.wav").is_file()), None)
        if text and sound:
            clips.append(file_clip(sound / f"{key.strip()}.wav", text, f"asterisk-{language}", language))
    return clips
