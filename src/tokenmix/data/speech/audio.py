"""Reading audio: any file that soundfile opens, as mono samples at the rate that is asked for."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


class AudioError(ValueError):
    """Audio that cannot be used; the message names the file and says why."""


def read_audio(source: str | os.PathLike[str] | bytes, rate: int, name: str | None = None) -> Samples:
    """Read a file of any rate, width and number of channels.

    Args:
        source: a path, or the bytes of a file.
        rate: samples a second of the result; another rate is resampled (torchaudio, windowed sinc).
        name: what messages call it; default the path.

    Returns:
        (N,) float32 samples, channels averaged, in [-1, 1] up to what resampling overshoots.

    Raises:
        AudioError: missing, empty, no audio, cut off, or with samples that are no numbers.
        ModuleNotFoundError: soundfile or torchaudio is missing.

    Example:
        >>> import soundfile, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "stereo.wav"
        >>> soundfile.write(path, np.zeros((4410, 2)), 44100, subtype="PCM_24")
        >>> read_audio(path, 8000).shape
        (800,)
    """
    soundfile = _soundfile()
    name = name if name is not None else str(source) if not isinstance(source, bytes) else "bytes"
    _refuse_empty(source, name)
    try:
        opened = io.BytesIO(source) if isinstance(source, bytes) else source
        with soundfile.SoundFile(opened) as file:
            samples, found, promised = file.read(dtype="float32", always_2d=True), file.samplerate, file.frames
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{name}: expected audio that soundfile reads, found {_why(error)}") from error
    if len(samples) < promised:
        raise AudioError(f"{name}: expected {promised:,} samples, as its header says, found {len(samples):,}: cut off?")
    if len(samples) == 0:
        raise AudioError(f"{name}: expected samples, found none")
    mono: Samples = samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise AudioError(
            f"{name}: expected numbers, found NaN or infinity at sample {int(np.argmin(np.isfinite(mono)))}"
        )
    return resample(mono, found, rate)


def resample(samples: Samples, found: int, rate: int) -> Samples:
    """(N,) samples at one rate to another.

    Example:
        >>> resample(np.ones(100, dtype=np.float32), 10, 20).shape
        (200,)
    """
    if found == rate:
        return samples
    import torch
    from torchaudio.functional import resample as resampled

    result: Samples = resampled(torch.from_numpy(samples), found, rate).numpy()
    return result


def audio_seconds(source: str | os.PathLike[str] | bytes, name: str | None = None) -> float:
    """Length of a file in seconds, from its header.

    Raises:
        AudioError: as `read_audio`, as far as a header tells.
    """
    soundfile = _soundfile()
    name = name if name is not None else str(source) if not isinstance(source, bytes) else "bytes"
    _refuse_empty(source, name)
    try:
        info = soundfile.info(io.BytesIO(source) if isinstance(source, bytes) else source)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{name}: expected audio that soundfile reads, found {_why(error)}") from error
    if info.frames <= 0:
        raise AudioError(f"{name}: expected samples, found none")
    return float(info.frames / info.samplerate)


def _refuse_empty(source: str | os.PathLike[str] | bytes, name: str) -> None:
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


def _why(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).strip().rstrip(".")
