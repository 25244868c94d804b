"""Real files with known contents, clips of them, and what is measured in samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from tokenmix.data.speech import Clip, build_ctc_tokenizer, file_clip

SHARED = Path(__file__).parents[4] / "shared" / "data"
TEXTS = ("one", "two", "three", "four", "five", "six")
TOKENIZER = build_ctc_tokenizer(TEXTS)
LEVEL, PITCH = 0.5, 440.0


def tone(rate: int, seconds: float = 1.0, pitch: float = PITCH, level: float = LEVEL) -> NDArray[np.float64]:
    """(N,) samples of a sine."""
    return level * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)


def write(path: Path, samples: NDArray[Any] | None = None, rate: int = 8000, **options: Any) -> Path:
    """A file as soundfile writes it; a tone of a second unless other samples are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(rate) if samples is None else samples, rate, **options)
    return path


def heard(samples: NDArray[Any], rate: int) -> tuple[float, float]:
    """Pitch and level of the loudest sine: the maximum of a windowed spectrum, between bins by a parabola."""
    window = np.hanning(len(samples))
    spectrum = np.abs(np.fft.rfft(samples * window, 8 * len(samples)))
    top = int(spectrum.argmax())
    left, middle, right = np.log(spectrum[top - 1 : top + 2] + 1e-30)
    shift = (left - right) / (left - 2 * middle + right) / 2
    return float((top + shift) * rate / (8 * len(samples))), float(2 * spectrum[top] / window.sum())


def clips_in(folder: Path, count: int = 6, seconds: float = 0.3) -> list[Clip]:
    """Tones of different pitch and length, one of `TEXTS` each."""
    made = []
    for i in range(count):
        path = write(folder / f"clip{i}.wav", tone(8000, seconds + 0.05 * i, 200 + 50 * i), 8000)
        made.append(file_clip(path, TEXTS[i % len(TEXTS)], f"speaker{i % 2}", "en"))
    return made


def bad_clips(folder: Path) -> dict[str, Clip]:
    """One clip of each kind of bad file, by what is wrong with it."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = write(folder / "whole.wav").read_bytes()
    flac = write(folder / "whole.flac").read_bytes()
    (folder / "whole.wav").unlink()
    (folder / "whole.flac").unlink()
    contents = {
        "empty.wav": b"",
        "text.wav": b"This is a letter, and no audio at all.\n" * 20,
        "half_a_header.wav": whole[:20],
        "half.wav": whole[: len(whole) // 2],
        "half.flac": flac[: len(flac) // 2],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    write(folder / "no_samples.wav", np.zeros(0))
    for name, value in (("nan.wav", np.nan), ("infinity.wav", np.inf)):
        samples = tone(8000)
        samples[4321] = value
        write(folder / name, samples, subtype="FLOAT")
    write(folder / "integers.wav", tone(8000) * 32768, subtype="FLOAT")
    (folder / "folder.wav").mkdir()
    names = [*contents, "no_samples.wav", "nan.wav", "infinity.wav", "integers.wav", "folder.wav", "missing.wav"]
    return {name.replace(".", "_"): file_clip(folder / name, "six", "nobody", "en") for name in names}


BY_HEADER = {"empty_wav", "text_wav", "half_a_header_wav", "no_samples_wav", "folder_wav", "missing_wav"}
BY_DECODING = {"half_wav", "half_flac", "nan_wav", "infinity_wav", "integers_wav"}
