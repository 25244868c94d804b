"""Audio of `tokenmix transcribe`: read a chunk at a time, from a file or a pipe, at the model's rate."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenmix.data.speech import AudioError, audio_seconds
from tokenmix.data.speech.audio import LOUDEST, why_unreadable
from tokenmix.data.speech.cut_off import cut_off
from tokenmix.models.speech.streaming import check_samples

STDIN = "-"
_GROUP_SECONDS = 0.1  # of audio that is resampled at a time, whatever the chunks


class AudioFile:
    """One channel of audio, a chunk at a time, of what `tokenmix.data.speech.read_audio` reads whole.

    Args:
        name: a file of any kind that soundfile reads; or "-" for a stream of WAV from the standard input.

    Raises:
        AudioError: no such file, one that is no audio or cut off, or one without a sample.

    Attributes:
        rate: samples a second.
        piped: whether it is the standard input.
    """

    def __init__(self, name: str) -> None:
        import soundfile

        self.name, self.piped = name, name == STDIN
        source: Any = sys.stdin.fileno() if self.piped else str(Path(name).expanduser())
        if not self.piped:
            audio_seconds(source, name)
            if missing := cut_off(source):
                raise AudioError(f"{name}: expected a whole file, found {missing}: the file is cut off")
        try:
            self._file: Any = soundfile.SoundFile(source, closefd=not self.piped)
        except soundfile.LibsndfileError as error:  # of a file audio_seconds has raised it
            raise AudioError(f"{name}: expected a stream of WAV, found {why_unreadable(error)}") from error
        self.rate = int(self._file.samplerate)

    def chunks(self, seconds: float) -> Iterator[NDArray[np.float32]]:
        """Samples (n,), `seconds` at a time.

        Raises:
            AudioError: audio that breaks off, without a sample, or with samples that are no numbers or far beyond 1.
        """
        size, done = max(1, round(seconds * self.rate)), 0
        with self._file:
            while len(samples := self._read(size)):
                if not np.isfinite(samples).all():
                    place = done + int(np.argmin(np.isfinite(samples)))
                    raise AudioError(f"{self.name}: expected numbers, found NaN or infinity at sample {place:,}")
                if (peak := float(np.abs(samples).max())) > LOUDEST:
                    raise AudioError(f"{self.name}: expected samples between -1 and 1, found {peak:.3g}")
                done += len(samples)
                yield samples
            promised = self._file.frames
        if done == 0:
            raise AudioError(f"{self.name}: expected samples, found none")
        if done < promised and not self.piped:  # a recorder cannot know its length
            raise AudioError(f"{self.name}: expected {promised:,} samples, found {done:,}: the file is cut off")

    def _read(self, size: int) -> NDArray[np.float32]:
        import soundfile

        try:
            samples: NDArray[np.float32] = self._file.read(size, dtype="float32", always_2d=True).mean(1)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{self.name}: the audio breaks off: {why_unreadable(error)}") from error
        return samples


class Resampler:
    """Audio at another rate and clipped to [-1, 1], a chunk at a time, not a bit of which depends on the chunks.

    Windowed sinc interpolation of torchaudio. Groups of one size are resampled, each with as many of its neighbours'
    samples as the window reads; before the start and behind the end are zeros, so N samples give ceil(N new / old).

    Args:
        old, new: samples a second.

    Example:
        >>> resampler = Resampler(8000, 16000)
        >>> len(resampler.read(torch.randn(3000))) + len(resampler.read(torch.randn(1))) + len(resampler.finish())
        6002
    """

    def __init__(self, old: int, new: int) -> None:
        shared = math.gcd(old, new)
        self._old, self._new = old // shared, new // shared  # the shortest times in which both have whole samples
        self._same = old == new
        if self._same:
            return
        from torchaudio.transforms import Resample

        self._resample: Any = Resample(old, new)
        self._frames = max(1, round(_GROUP_SECONDS * old / self._old))
        self._context = math.ceil(self._resample.width / self._old) + 1
        self._waiting = torch.zeros(self._context * self._old)

    def read(self, samples: Tensor | NDArray[Any]) -> Tensor:
        """What (n,) samples make certain.

        Raises:
            TypeError, ValueError: samples that are not finite, or of another type or shape.
        """
        samples = check_samples(samples).float()
        if self._same:
            return samples.clamp(-1, 1)
        self._waiting = torch.cat([self._waiting, samples])
        return self._run()

    def finish(self) -> Tensor:
        """The rest of the stream, of which there is one in a resampler."""
        if self._same:
            return torch.zeros(0)
        left = len(self._waiting) - self._context * self._old  # of samples, none of which was resampled
        group = self._frames * self._old
        behind = -left % group + self._context * self._old
        self._waiting = torch.cat([self._waiting, torch.zeros(behind)])
        return self._run()[: math.ceil(left * self._new / self._old)]

    def _run(self) -> Tensor:
        """Resample all groups whose neighbours are there."""
        group, context = self._frames * self._old, self._context * self._old
        done, start = [torch.zeros(0)], 0
        while start + group + 2 * context <= len(self._waiting):
            known = self._waiting[start : start + group + 2 * context].clone()
            done.append(self._resample(known)[self._context * self._new :][: self._frames * self._new])
            start += group
        self._waiting = self._waiting[start:].clone()
        return torch.cat(done).clamp(-1, 1)
