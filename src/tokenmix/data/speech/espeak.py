"""Speech that espeak-ng makes on the spot, from the sentences of Python's own documentation and from numbers."""

from __future__ import annotations

import ctypes
import hashlib
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tokenmix.data.speech.audio import Samples, resample
from tokenmix.data.speech.clip import Clip
from tokenmix.data.speech.espeak_texts import docstring_sentences, number_texts
from tokenmix.data.speech.splits import Splits, by_split, split_of

ACCENTS = ("en", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029", "en-us-nyc")
VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4")
NUMBERS = 2000  # texts, where there are no sentences
UNSEEN = "f5"  # the variant of the split test_voice
RATES, PITCHES = (130, 200), (30, 70)  # words a minute, and espeak's scale from 0 to 100
_SECONDS_A_CHARACTER = 0.075  # for lengths before anything is spoken: it is corrected when it is
_library: Any = None
_heard: list[Any] = []


@dataclass(frozen=True)
class SpokenText:
    """A text as one voice of espeak-ng says it.

    espeak-ng does not give the same samples twice, so they are kept: in `cache` as int16 at the rate asked for.

    Args:
        text: what is said.
        voice: such as "en-us+f2".
        rate: words a minute.
        pitch: 0 to 100.
        cache: folder to keep samples in; None keeps nothing.
    """

    text: str
    voice: str
    rate: int
    pitch: int
    cache: Path | None = field(default=None, repr=False)

    def read(self, rate: int) -> Samples:
        """(N,) float32 mono samples at `rate` a second."""
        path = None if self.cache is None else self.cache / f"{self.key(rate)}.npy"
        if path is not None and path.is_file():
            return _floats(np.load(path))
        spoken, found = speak(self.text, self.voice, self.rate, self.pitch)
        whole = np.clip(resample(spoken, found, rate) * 32768, -32768, 32767).astype(np.int16)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{random.getrandbits(64):x}.tmp.npy")
            np.save(temporary, whole)
            temporary.replace(path)
        return _floats(whole)

    def key(self, rate: int) -> str:
        """A name for the file of its samples."""
        return hashlib.sha1(f"{self.text}|{self.voice}|{self.rate}|{self.pitch}|{rate}".encode()).hexdigest()


def load_espeak(
    folder: str | Path | None = None,
    *,
    hours: float = 5.0,
    texts: Literal["sentences", "numbers", "both"] = "both",
    max_words: int = 12,
    test_clips: int = 300,
    seed: int = 0,
) -> Splits:
    """Synthetic English speech in many voices; sentences and one voice of the test splits are not in training.

    The splits: train and valid; test, of sentences that are in neither; test_voice, of the same sentences said by a
    voice that is in none of them. Which split a sentence is in depends on its text alone.

    Args:
        folder: where samples are kept; default none is kept, and each reading synthesises anew.
        hours: of training speech, about: sentences are said again by other voices until there is as much.
        texts: sentences of the standard library's docstrings, numbers in words, or both (one in eight is a number).
        max_words: of a sentence.
        test_clips: clips of each test split, and of valid, at most.
        seed: of voices, rates and pitches.

    Raises:
        ModuleNotFoundError: espeak-ng is not there: `pip install 'tokenmix[synth]'`.
    """
    _load()
    if texts not in ("sentences", "numbers", "both"):
        raise ValueError(f"texts: expected 'sentences', 'numbers' or 'both', found {texts!r}")
    cache = None if folder is None else Path(folder)
    said = [] if texts == "numbers" else docstring_sentences(max_words)
    if texts != "sentences":
        said = said + number_texts(len(said) // 7 if said else NUMBERS, seed)
    draw = random.Random(seed)
    draw.shuffle(said)
    parts: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for text in said:
        parts[split_of(text, 20)].append(text)

    def clip(text: str, variant: str) -> Clip:
        voice = f"{draw.choice(ACCENTS)}+{variant}"
        source = SpokenText(text, voice, draw.randint(*RATES), draw.randint(*PITCHES), cache)
        seconds = len(text) * _SECONDS_A_CHARACTER * 170 / source.rate
        return Clip(text, voice, "en", f"espeak {voice}: {text}", seconds, source)

    found: list[tuple[str, Clip]] = []
    spoken, place = 0.0, 0
    while parts["train"] and spoken < hours * 3600:
        made = clip(parts["train"][place % len(parts["train"])], draw.choice(VARIANTS))
        found.append(("train", made))
        spoken, place = spoken + made.seconds, place + 1
    for split in ("valid", "test"):
        found += [(split, clip(text, draw.choice(VARIANTS))) for text in parts[split][:test_clips]]
    found += [("test_voice", clip(text, UNSEEN)) for text in parts["test"][:test_clips]]
    return by_split(found)


def speak(text: str, voice: str, rate: int, pitch: int) -> tuple[Samples, int]:
    """Samples of a text, and their rate.

    Raises:
        ModuleNotFoundError: espeak-ng is not there. ValueError: an unknown voice.
    """
    library, found = _load()
    _heard.clear()
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"voice: expected one that espeak-ng knows, such as 'en-us+f2', found {voice!r}")
    library.espeak_SetParameter(1, rate, 0)
    library.espeak_SetParameter(3, pitch, 0)
    data = text.encode()
    library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 0, 0, 1, None, None)
    library.espeak_Synchronize()
    whole = np.concatenate(_heard) if _heard else np.zeros(1, np.int16)
    return _floats(whole), found


def _floats(samples: NDArray[np.int16]) -> Samples:
    return samples.astype(np.float32) / np.float32(32768)


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
def _receive(samples: Any, count: int, _events: Any) -> int:
    if samples and count > 0:
        _heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
    return 0


def _load() -> tuple[Any, int]:
    """The library, without a sound card, and its rate."""
    global _library  # noqa: PLW0603  # one a process
    if _library is None:
        try:
            import espeakng_loader
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "espeak: synthetic speech needs espeak-ng: pip install 'tokenmix[synth]'"
            ) from error
        library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
        rate = library.espeak_Initialize(2, 0, str(espeakng_loader.get_data_path()).encode(), 0)
        library.espeak_SetSynthCallback(_receive)
        _library = library, rate
    found: tuple[Any, int] = _library
    return found
