"""A clip: what is said in a stretch of audio, by whom, and where its samples come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tokenmix.data.speech.audio import AudioError, Samples, audio_seconds, read_audio


class AudioSource(Protocol):
    """Where the samples of a clip come from."""

    def read(self, rate: int) -> Samples:
        """(N,) float32 mono samples in [-1, 1], `rate` a second."""


@dataclass(frozen=True)
class FileAudio:
    """A file on disk.

    Args:
        path: of the file.
    """

    path: Path

    def read(self, rate: int) -> Samples:
        """See `read_audio`."""
        return read_audio(self.path, rate)


@dataclass(frozen=True)
class Clip:
    """One utterance.

    Args:
        text: what is said, normalised.
        speaker: who says it.
        language: ISO 639-1, such as "en".
        name: what messages call it, such as a path.
        seconds: its length, as the file's header tells; 0 where it cannot be read, which `ClipDataset.check` tells.
            Of speech that is synthesised when it is read, an estimate.
        source: of its samples.

    Example:
        >>> import soundfile, tempfile, numpy
        >>> path = Path(tempfile.mkdtemp()) / "no.wav"
        >>> soundfile.write(path, numpy.zeros(4000), 8000)
        >>> clip = file_clip(path, "no", "nobody", "en")
        >>> clip.seconds, clip.read(16000).shape
        (0.5, (8000,))
    """

    text: str
    speaker: str
    language: str
    name: str
    seconds: float
    source: AudioSource = field(repr=False)

    def read(self, rate: int) -> Samples:
        """(N,) float32 mono samples in [-1, 1], `rate` a second.

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
