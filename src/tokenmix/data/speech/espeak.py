"""Synthetic speech: as much as is wanted, of known texts, in many voices of espeak-ng."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tokenmix.data.speech.audio import Samples, resample
from tokenmix.data.speech.clip import Clip, file_clip
from tokenmix.data.speech.espeak_texts import docstring_sentences, number_texts, word_texts
from tokenmix.data.speech.espeak_voice import require_espeak, speak
from tokenmix.data.speech.splits import Splits, by_split, split_of

ACCENTS = ("en", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029", "en-us-nyc")
VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4")
NUMBERS = 2000  # texts of numbers where nothing else is said
_A_CHARACTER, _A_TEXT = 9.15, 0.19  # seconds: least squares over 3,000 clips, 11 % off for one clip and 4 % for a sum


@dataclass(frozen=True)
class SpokenText:
    """A text as a voice of espeak-ng says it, each time it is read.

    Args:
        text: what is said.
        voice: such as "en-us+f2".
        speed: words a minute.
        pitch: 0 to 100.
    """

    text: str
    voice: str
    speed: int
    pitch: int

    @property
    def seconds(self) -> float:
        """An estimate of its length, before anything is spoken."""
        return len(self.text) * _A_CHARACTER / self.speed + _A_TEXT

    def read(self, rate: int) -> Samples:
        """(N,) float32 mono samples, `rate` a second; the same ones each time."""
        samples, found = speak(self.text, self.voice, self.speed, self.pitch)
        return np.clip(resample(samples, found, rate), -1.0, 1.0)


def load_espeak(
    folder: str | Path | None = None,
    *,
    hours: float = 5.0,
    texts: Literal["sentences", "words", "numbers", "both"] = "both",
    max_words: int = 12,
    max_seconds: float = 15.0,
    test_clips: int = 300,
    accents: Sequence[str] = ACCENTS,
    variants: Sequence[str] = VARIANTS,
    unseen: str = "f5",
    speeds: tuple[int, int] = (130, 200),
    pitches: tuple[int, int] = (30, 70),
    seed: int = 0,
) -> Splits:
    """Synthetic English speech in many voices; the test splits hold texts, and one of them a voice, not trained on.

    The splits are train; valid; test, of texts that are in neither; and test_voice, of the same texts as test said by a
    voice that is in none of the others. The split of a text is a function of the text alone: a tenth is test, a tenth
    valid. What is said how in valid, test and test_voice depends on neither `hours` nor `test_clips`, and fewer hours
    are a part of more.

    Args:
        folder: where clips are written as FLAC files at the first use, and read from later; default nowhere: they are
            synthesised whenever they are read, to the same samples.
        hours: of training speech, about: texts are said again in other voices until there is as much.
        texts: sentences of the standard library's docstrings, words of them in random lists, numbers in words, or both
            sentences and numbers (one text in eight).
        max_words: of a sentence.
        max_seconds: texts that take longer, as estimated, are left out.
        test_clips: clips of each of the splits valid, test and test_voice, at most.
        accents, variants: of espeak-ng; a voice is one of each, drawn for each clip.
        unseen: the variant of the split test_voice.
        speeds: words a minute, from and to.
        pitches: on espeak-ng's scale from 0 to 100, from and to.
        seed: of everything drawn.

    Raises:
        ModuleNotFoundError: espeak-ng is not there; the message says what to install.
        ValueError: an option that is none, or so few seconds that nothing is left.

    Example:
        >>> splits = load_espeak(hours=0.01, texts="numbers", test_clips=2)
        >>> clip = splits["test"][0]
        >>> clip.text, clip.speaker, 1 < len(clip.read(8000)) / 8000 < 2
        ('two two five eight four one', 'en-us+m8', True)
    """
    require_espeak()
    if texts not in ("sentences", "words", "numbers", "both"):
        raise ValueError(f"texts: expected 'sentences', 'words', 'numbers' or 'both', found {texts!r}")
    if hours <= 0:
        raise ValueError(f"hours: expected a positive number, found {hours}")
    if not accents or not variants or unseen in variants:
        raise ValueError(f"variants: expected some, and some accents, and not {unseen!r} of the test, found {variants}")

    def spoken(text: str, split: str, own: Sequence[str] = variants, time: int = 0) -> SpokenText:
        draw = random.Random(f"{seed} {split} {time} {text}")
        voice = f"{draw.choice(list(accents))}+{draw.choice(list(own))}"
        return SpokenText(text, voice, draw.randint(*speeds), draw.randint(*pitches))

    parts: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for text in _texts(texts, max_words, seed):
        if len(text) * _A_CHARACTER / min(speeds) + _A_TEXT <= max_seconds:
            parts[split_of(text)].append(text)
    if empty := [split for split, said in parts.items() if not said]:
        raise ValueError(f"max_seconds: expected enough for texts in every split, found none in {empty}")
    said = [("train", audio) for audio in _repeat(parts["train"], hours * 3600, spoken)]
    for split, source, own in (
        ("valid", "valid", variants),
        ("test", "test", variants),
        ("test_voice", "test", (unseen,)),
    ):
        said += [(split, spoken(text, split, own)) for text in parts[source][:test_clips]]
    return by_split((split, _clip(audio, folder)) for split, audio in said)


def _texts(kind: str, max_words: int, seed: int) -> list[str]:
    """In an order that the text alone decides."""
    found = docstring_sentences(max_words) if kind in ("sentences", "both") else []
    if kind == "words":
        found = word_texts(5000, seed)
    if kind in ("numbers", "both"):
        found += number_texts(len(found) // 7 or NUMBERS, seed)
    return sorted(set(found), key=lambda text: hashlib.sha1(f"{seed} {text}".encode()).digest())


def _repeat(texts: Sequence[str], seconds: float, spoken: Callable[..., SpokenText]) -> Iterator[SpokenText]:
    """Texts again and again, in new voices, until they take as long as wanted."""
    total, place = 0.0, 0
    while total < seconds:
        audio = spoken(texts[place % len(texts)], "train", time=place // len(texts))
        total, place = total + audio.seconds, place + 1
        yield audio


def _clip(audio: SpokenText, folder: str | Path | None) -> Clip:
    name = f"espeak {audio.voice} {audio.speed} {audio.pitch}: {audio.text}"
    if folder is None:
        return Clip(audio.text, audio.voice, "en", name, audio.seconds, audio)
    import soundfile

    path = Path(folder) / f"{hashlib.sha1(name.encode()).hexdigest()}.flac"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        samples, rate = speak(audio.text, audio.voice, audio.speed, audio.pitch)
        half = path.with_suffix(f".{os.getpid()}.half")
        soundfile.write(half, (samples * 32768).astype(np.int16), rate, format="FLAC")
        half.replace(path)
    return file_clip(path, audio.text, audio.voice, "en")
