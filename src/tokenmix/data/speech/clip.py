"""A clip: what is said in a stretch of audio, by whom, and where its samples come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tokenmix.data.speech.audio import AudioError, Samples, audio_seconds, read_audio


class AudioSource(Protocol):
    """Where the samples of a clip come from."""

    def read(self, rate: int) -> Samples:
        """(N,) float32 mono samples at a rate."""


@dataclass(frozen=True)
class FileAudio:
    """A file on disk."""

    path: Path

    def read(self, rate: int) -> Samples:
        """See `read_audio`."""
        return read_audio(self.path, rate)


@dataclass(frozen=True)
class BytesAudio:
    """The bytes of a file, such as a row of a data set of Hugging Face's hub holds."""

    data: bytes = field(repr=False)
    name: str

    def read(self, rate: int) -> Samples:
        """See `read_audio`."""
        return read_audio(self.data, rate, self.name)


@dataclass(frozen=True)
class Clip:
    """One utterance.

    Args:
        text: what is said, normalised.
        speaker: who says it.
        language: ISO 639-1, such as "en".
        name: what messages call it, such as a path.
        seconds: its length; 0 where its header cannot be read, which `ClipDataset.check` tells.
        source: of its samples.
    """

    text: str
    speaker: str
    language: str
    name: str
    seconds: float
    source: AudioSource = field(repr=False)

    def read(self, rate: int) -> Samples:
        """(N,) float32 mono samples at `rate` a second.

        Raises:
            AudioError: audio that cannot be used.
        """
        return self.source.read(rate)


def file_clip(path: Path, text: str, speaker: str, language: str) -> Clip:
    """A clip of a file; its length is read from the header, and 0 where there is none."""
    try:
        seconds = audio_seconds(path)
    except AudioError:
        seconds = 0.0
    return Clip(text, speaker, language, str(path), seconds, FileAudio(path))
