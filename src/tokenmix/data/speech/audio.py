"""Reading audio: any file that soundfile opens, as mono samples at the rate that is asked for."""

from __future__ import annotations

import io
import math
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenmix.data.speech.cut_off import cut_off

Samples = NDArray[np.float32]
LOUDEST = 8.0  # samples beyond it are no audio between -1 and 1 that was clipped or compressed


class AudioError(ValueError):
    """Audio that cannot be used; the message names the file and says why."""


def read_audio(source: str | os.PathLike[str] | bytes, rate: int, name: str | None = None) -> Samples:
    """Read a file of any rate, width and number of channels.

    Args:
        source: a path, or the bytes of a file.
        rate: samples a second of the result; another rate is resampled (windowed sinc, torchaudio).
        name: what messages call it; default the path.

    Returns:
        (N,) float32 samples in [-1, 1], the mean of all channels. What lies just beyond 1, as resampling and lossy
        formats leave it, is clipped.

    Raises:
        AudioError: missing, empty, no audio, cut off, or with samples that are no numbers or far beyond 1.
        ModuleNotFoundError: soundfile or torchaudio is missing.

    Example:
        >>> import soundfile, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "stereo.wav"
        >>> soundfile.write(path, np.zeros((4410, 2)), 44100, subtype="PCM_24")
        >>> read_audio(path, 8000).shape
        (800,)
    """
    soundfile, name = _soundfile(), _name(source, name)
    _refuse_missing(source, name)
    try:
        opened = io.BytesIO(source) if isinstance(source, bytes) else source
        with soundfile.SoundFile(opened) as file:
            found, promised = file.samplerate, file.frames
            samples = file.read(promised, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{name}: expected audio that soundfile reads, found {why_unreadable(error)}") from error
    if len(samples) < promised:
        raise AudioError(f"{name}: expected {promised:,} samples, found {len(samples):,}: the file is cut off")
    if missing := cut_off(source):
        raise AudioError(f"{name}: expected a whole file, found {missing}: the file is cut off")
    if len(samples) == 0:
        raise AudioError(f"{name}: expected samples, found none")
    mono: Samples = samples.mean(axis=1)
    finite = np.isfinite(mono)
    if not finite.all():
        raise AudioError(f"{name}: expected numbers, found NaN or infinity at sample {int(np.argmin(finite)):,}")
    if (peak := float(np.abs(mono).max())) > LOUDEST:
        raise AudioError(f"{name}: expected samples between -1 and 1, found {peak:.3g}: integers stored as floats?")
    return np.clip(resample(mono, found, rate), -1.0, 1.0)


def audio_seconds(source: str | os.PathLike[str] | bytes, name: str | None = None) -> float:
    """Length of a file in seconds, from its header.

    Raises:
        AudioError: as `read_audio`, as far as a header tells.

    Example:
        >>> import soundfile, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "second.flac"
        >>> soundfile.write(path, np.zeros(8000), 8000)
        >>> audio_seconds(path)
        1.0
    """
    soundfile, name = _soundfile(), _name(source, name)
    _refuse_missing(source, name)
    try:
        info = soundfile.info(io.BytesIO(source) if isinstance(source, bytes) else source)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{name}: expected audio that soundfile reads, found {why_unreadable(error)}") from error
    if info.frames <= 0:
        raise AudioError(f"{name}: expected samples, found none")
    return float(info.frames / info.samplerate)


def resample(samples: Samples, found: int, rate: int) -> Samples:
    """Samples at one rate to another, by a sinc under a Hann window, as torchaudio does it.

    Args:
        samples: (N,).
        found: samples a second.
        rate: of the result.

    Returns:
        (ceil(N * rate / found),) samples.

    Raises:
        ValueError: a rate below 1.

    Example:
        >>> resample(np.ones(100, dtype=np.float32), 10, 20).shape
        (200,)
    """
    if found < 1 or rate < 1:
        raise ValueError(f"rate: expected samples a second, at least 1, found {min(found, rate)}")
    if found == rate:
        return samples
    import torch

    shared = math.gcd(found, rate)
    result: Samples = _resampler(found // shared, rate // shared)(torch.from_numpy(samples)).numpy()
    return result


@lru_cache(maxsize=32)
def _resampler(found: int, rate: int) -> Any:
    """Making its filter takes longer than a short clip does, so that it is kept."""
    try:
        from torchaudio.transforms import Resample
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("resampling needs torchaudio: pip install 'tokenmix[speech]'") from error
    return Resample(found, rate)


def _name(source: str | os.PathLike[str] | bytes, name: str | None) -> str:
    return name if name is not None else "bytes" if isinstance(source, bytes) else str(source)


def _refuse_missing(source: str | os.PathLike[str] | bytes, name: str) -> None:
    if isinstance(source, bytes):
        size = len(source)
    else:
        path = Path(source)
        if not path.is_file():
            raise AudioError(f"{name}: expected a file, found {'a folder' if path.is_dir() else 'nothing'} there")
        size = path.stat().st_size
    if size == 0:
        raise AudioError(f"{name}: expected audio, found an empty file")


def _soundfile() -> Any:
    try:
        import soundfile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading audio needs soundfile: pip install 'tokenmix[speech]'") from error
    return soundfile


def why_unreadable(error: Exception) -> str:
    """What soundfile says of a file that it cannot read."""
    why = str(getattr(error, "error_string", error)).strip().rstrip(".")
    return "damaged data" if not why or why.startswith("File does not exist") else why  # so of MP3s without a frame
