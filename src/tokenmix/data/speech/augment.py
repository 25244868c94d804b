"""Changing how a clip sounds, but not what is said."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tokenmix.data.speech.audio import Samples, resample


@dataclass(frozen=True)
class Augment:
    """Speed, loudness and noise, drawn for each clip; what is drawn depends on the generator alone.

    Args:
        speeds: one of them is chosen, by which a clip is played: 0.9 is slower and lower (Ko et al. 2015). None for 1.
        gain_db: (low, high) decibels of gain, uniform; None for 0.
        noise_snr_db: (low, high) decibels between speech and noise, uniform; None adds no noise.
        noise: "white" (equal power at every frequency) or "pink" (power falls with 1/f).
        noise_share: share of the clips that noise is added to.

    Raises:
        ValueError: an option out of its range.

    Example:
        >>> noisy = Augment(speeds=(0.5,), noise_snr_db=(20.0, 20.0), noise_share=1.0)
        >>> samples = np.sin(np.arange(8000, dtype=np.float32))
        >>> noisy(samples, 8000, random.Random(0)).shape
        (16000,)
    """

    speeds: Sequence[float] | None = None
    gain_db: tuple[float, float] | None = None
    noise_snr_db: tuple[float, float] | None = None
    noise: Literal["white", "pink"] = "white"
    noise_share: float = 0.5

    def __post_init__(self) -> None:
        if self.speeds is not None and (len(self.speeds) == 0 or min(self.speeds) <= 0):
            raise ValueError(f"speeds: expected positive numbers, found {list(self.speeds)}")
        for name in ("gain_db", "noise_snr_db"):
            bounds = getattr(self, name)
            if bounds is not None and (len(bounds) != 2 or not bounds[0] <= bounds[1]):
                raise ValueError(f"{name}: expected (low, high), found {bounds}")
        if self.noise not in ("white", "pink"):
            raise ValueError(f"noise: expected 'white' or 'pink', found {self.noise!r}")
        if not 0 <= self.noise_share <= 1:
            raise ValueError(f"noise_share: expected 0 to 1, found {self.noise_share}")

    def __call__(self, samples: Samples, rate: int, draw: random.Random) -> Samples:
        """Samples as they sound.

        Args:
            samples: (N,) in [-1, 1].
            rate: samples a second.
            draw: generator of what is drawn.

        Returns:
            (ceil(N / speed),) float32 samples, which gain and noise may take beyond 1: nothing is clipped.
        """
        if self.speeds is not None:
            speed = draw.choice(list(self.speeds))
            samples = resample(samples, max(1, round(rate * speed)), rate)
        if self.gain_db is not None:
            samples = samples * np.float32(10 ** (draw.uniform(*self.gain_db) / 20))
        if self.noise_snr_db is not None and draw.random() < self.noise_share:
            snr, seed = draw.uniform(*self.noise_snr_db), draw.getrandbits(32)
            power = float(np.mean(np.square(samples, dtype=np.float64))) * 10 ** (-snr / 10)
            samples = samples + (power**0.5 * _noise(len(samples), self.noise, seed)).astype(np.float32)
        return samples


def _noise(count: int, kind: str, seed: int) -> NDArray[np.float64]:
    """(count,) samples of a mean power of 1."""
    noise = np.random.default_rng(seed).standard_normal(count)
    if kind == "pink" and count > 1:
        spectrum = np.fft.rfft(noise)
        spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
        spectrum[0] = 0
        noise = np.fft.irfft(spectrum, count)
    power = float(np.mean(np.square(noise)))
    return noise / power**0.5 if power > 0 else noise
