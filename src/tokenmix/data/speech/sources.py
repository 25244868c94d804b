"""Speech by the name of where it comes from."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenmix.data.speech.asterisk import load_asterisk
from tokenmix.data.speech.espeak import load_espeak
from tokenmix.data.speech.fsdd import load_fsdd
from tokenmix.data.speech.hub import load_hub
from tokenmix.data.speech.splits import Splits
from tokenmix.data.speech.standard import load_librispeech, load_manifest, load_speech_commands
from tokenmix.data.speech.tuxpaint import load_tuxpaint
from tokenmix.nearest import nearest

SOURCES: dict[str, Callable[..., Splits]] = {
    "asterisk": load_asterisk,
    "espeak": load_espeak,
    "fsdd": load_fsdd,
    "hub": load_hub,
    "librispeech": load_librispeech,
    "manifest": load_manifest,
    "speech_commands": load_speech_commands,
    "tuxpaint": load_tuxpaint,
}


def load_speech(name: str, folder: str | Path | None = None, **options: Any) -> Splits:
    """Clips of a source by split: train, valid, test, and further splits whose names begin with "test".

    Args:
        name: of the source, one of `SOURCES`.
        folder: where it is; some have a place of their own.
        options: those of the source's function, such as `languages` of "asterisk".

    Raises:
        ValueError: an unknown source or option, with the nearest. FileNotFoundError, ModuleNotFoundError: it is not
            there; the message says which command or path would mend it.

    Example:
        >>> load_speech("fsd")
        Traceback (most recent call last):
        ...
        ValueError: name: unknown source of speech 'fsd'; did you mean 'fsdd'?
    """
    if name not in SOURCES:
        raise ValueError(f"name: unknown source of speech {name!r}; {nearest(name, SOURCES)}")
    load = SOURCES[name]
    known = [option for option in inspect.signature(load).parameters if option != "folder"]
    for option in options:
        if option not in known:
            raise ValueError(f"{option}: not an option of the source {name!r}; {nearest(option, known)}")
    return load(folder, **options)
