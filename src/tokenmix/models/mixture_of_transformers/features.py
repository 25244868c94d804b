"""Continuous tokens: patches of real numbers, read, predicted, noised and denoised."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class FeatureModality(nn.Module):
    """Into the model and out of it for one continuous modality.

    Args:
        input_size: F, numbers a token.
        hidden_size: d.
        diffusion: a token is told how noisy it is.

    Example:
        >>> FeatureModality(4, 8, diffusion=True).read(torch.zeros(1, 3, 4), torch.zeros(1, 3)).shape
        torch.Size([1, 3, 8])
    """

    def __init__(self, input_size: int, hidden_size: int, *, diffusion: bool) -> None:
        super().__init__()
        self.input_size = input_size
        self.in_proj = nn.Linear(input_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, input_size)
        self.noise_proj = nn.Linear(hidden_size, hidden_size) if diffusion else None

    def read(self, features: Tensor, noise_level: Tensor | None) -> Tensor:
        """(B, L, at least F) features, (B, L) noise levels from 0 to 1 -> (B, L, d)."""
        x: Tensor = self.in_proj(features[..., : self.input_size].to(self.in_proj.weight.dtype))
        if self.noise_proj is None or noise_level is None:
            return x
        waves = sinusoids(noise_level, self.noise_proj.in_features).to(x.dtype)
        return x + self.noise_proj(waves)

    def predict(self, x: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, F): the next token's features, or the velocity of this one's."""
        y: Tensor = self.out_proj(x)
        return y


def sinusoids(level: Tensor, width: int) -> Tensor:
    """(B, L) numbers from 0 to 1 -> (B, L, width) sines and cosines of 1 to 1000 radians."""
    half = max(1, width // 2)
    rates = torch.exp(torch.linspace(0.0, math.log(1000.0), half, device=level.device))
    angles = level.float()[..., None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
    return nn.functional.pad(waves, (0, width - waves.shape[-1])) if width > waves.shape[-1] else waves[..., :width]


def add_noise(features: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """cos(pi t / 2) x + sin(pi t / 2) e: clean at t = 0, noise alone at t = 1, of one variance in between.

    Args:
        features, noise: (B, L, F) x and e. level: (B, L) t.

    Example:
        >>> add_noise(torch.ones(1, 1, 1), torch.zeros(1, 1, 1), torch.zeros(1, 1)).item()
        1.0
    """
    signal, spread = _shares(level)
    return signal * features + spread * noise


def velocity(features: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """What is predicted: cos(pi t / 2) e - sin(pi t / 2) x, which keeps its scale at every level.

    Source: Salimans and Ho 2022, arXiv 2202.00512, section 4. Transfusion predicts e.
    """
    signal, spread = _shares(level)
    return signal * noise - spread * features


def step_towards(noisy: Tensor, predicted: Tensor, level: Tensor, target: Tensor) -> Tensor:
    """A deterministic step (DDIM) from noise level t to a lower one.

    Args:
        noisy: (B, L, F) at `level`. predicted: (B, L, F) the velocity there.
        level, target: (B, L) t, before and after.

    Source: Song et al. 2021, arXiv 2010.02502, equation 12 with eta = 0.

    Example:
        >>> x, e, t = torch.ones(1, 1, 2), torch.randn(1, 1, 2), torch.full((1, 1), 0.7)
        >>> clean = step_towards(add_noise(x, e, t), velocity(x, e, t), t, torch.zeros(1, 1))
        >>> torch.allclose(clean, x, atol=1e-6)
        True
    """
    signal, spread = _shares(level)
    features = signal * noisy - spread * predicted
    noise = spread * noisy + signal * predicted
    return add_noise(features, noise, target)


def _shares(level: Tensor) -> tuple[Tensor, Tensor]:
    angle = (level * (math.pi / 2))[..., None]
    return angle.cos(), angle.sin()
