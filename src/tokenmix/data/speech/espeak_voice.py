"""espeak-ng, called through ctypes so that a text always gives the same samples."""

from __future__ import annotations

import ctypes
import os
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tokenmix.data.speech.audio import Samples

_SYNCHRONOUS, _RATE, _PITCH, _UTF8 = 2, 1, 3, 1  # espeak-ng's own numbers
_lock, _heard = threading.Lock(), list[Any]()


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
def _receive(samples: Any, count: int, _events: Any) -> int:
    if samples and count > 0:
        _heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
    return 0


def speak(text: str, voice: str, speed: int = 170, pitch: int = 50) -> tuple[Samples, int]:
    """Samples of a text in a voice of espeak-ng, as a function of these arguments alone.

    The library keeps the state of its pitch flutter and of its random numbers from one text to the next, and offers no
    way to begin anew. So it is loaded for each text (2 ms), and its random numbers are seeded.

    Args:
        text: what is said.
        voice: an accent, or an accent and a variant, such as "en-us+f2".
        speed: words a minute, 80 to 450.
        pitch: 0 to 100.

    Returns:
        (N,) samples in [-1, 1], and how many of them are a second.

    Raises:
        ModuleNotFoundError: espeak-ng is not there. ValueError: an unknown voice, a speed or pitch out of range, or a
            text that it says nothing for.

    Example:
        >>> samples, rate = speak("hello", "en-us+f2")
        >>> rate, 0.2 < len(samples) / rate < 2, np.array_equal(samples, speak("hello", "en-us+f2")[0])
        (22050, True, True)
    """
    if not 80 <= speed <= 450 or not 0 <= pitch <= 100:
        raise ValueError(f"speed, pitch: expected 80 to 450 and 0 to 100, found {speed} and {pitch}")
    path, data = _installed()
    _, _, variant = voice.partition("+")
    if variant and not (data / "voices" / "!v" / variant).is_file():
        raise ValueError(f"voice: expected a variant that espeak-ng has, such as 'en-us+f2', found {voice!r}")
    with _lock:
        library = ctypes.CDLL(str(path))
        try:
            rate = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), 0)
            library.espeak_SetSynthCallback(_receive)
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise ValueError(f"voice: expected one that espeak-ng has, such as 'en-us+f2', found {voice!r}")
            library.espeak_SetParameter(_RATE, speed, 0)
            library.espeak_SetParameter(_PITCH, pitch, 0)
            said = text.encode()
            library.espeak_Synth(said, ctypes.c_size_t(len(said) + 1), 0, 0, 0, _UTF8, None, None)
            library.espeak_Synchronize()
            library.espeak_Terminate()
            if not _heard:
                raise ValueError(f"text: expected something that can be said, found {text!r}")
            return np.concatenate(_heard).astype(np.float32) / np.float32(32768), int(rate)
        finally:
            _heard.clear()
            _unload(library)


@lru_cache(maxsize=1)
def _installed() -> tuple[Path, Path]:
    """The library, and the folder of its data."""
    try:
        import espeakng_loader
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("espeak: synthetic speech needs espeak-ng: pip install 'tokenmix[synth]'") from error
    return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


def require_espeak() -> None:
    """Say what to install, where espeak-ng is not there.

    Raises:
        ModuleNotFoundError: it is not.
    """
    _installed()


def _unload(library: ctypes.CDLL) -> None:
    """Give a library back, so that its next loading begins with fresh variables."""
    import _ctypes

    close = getattr(_ctypes, "dlclose", None) or getattr(_ctypes, "FreeLibrary")  # noqa: B009  # Windows has the other
    close(library._handle)
