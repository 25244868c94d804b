"""Small tokenisers and what they are fed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokenmix.models.tokenisers import (
    ImageTokeniser,
    ImageTokeniserConfig,
    SpeechTokeniser,
    SpeechTokeniserConfig,
)


def image_model(**options: Any) -> ImageTokeniser:
    """Of 8 x 8 pixels, 2 x 2 a token, that has seen one batch."""
    torch.manual_seed(0)
    sizes = {"image_size": 8, "patch_size": 2, "num_channels": 2, "hidden_size": 8, "codes": 12, "code_size": 4}
    model = ImageTokeniser(ImageTokeniserConfig(**{**sizes, **options}))
    seen = pictures(6, seed=9, channels=model.config.num_channels)
    model.fit_scale(seen)
    model(seen)
    return model.eval()


def speech_model(**options: Any) -> SpeechTokeniser:
    """Of 5 bands, 4 frames a token, that has seen one batch."""
    torch.manual_seed(0)
    sizes = {"num_mel_bins": 5, "frames_per_token": 4, "hidden_size": 8, "codes": 12, "code_size": 4}
    model = SpeechTokeniser(SpeechTokeniserConfig(**{**sizes, **options}))
    model.fit_scale(frames(6, 17, seed=9))
    model(frames(6, 17, seed=9))
    return model.eval()


def pictures(count: int, seed: int = 0, channels: int = 2) -> Tensor:
    """(count, channels, 8, 8) from 0 to 1."""
    return torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


def frames(count: int, length: int, seed: int = 0) -> Tensor:
    """(count, length, 5) about as log energies are."""
    return 3 * torch.randn(count, length, 5, generator=torch.Generator().manual_seed(seed)) - 9


def buffers(model: nn.Module) -> dict[str, Tensor]:
    """Copies."""
    return {name: value.clone() for name, value in model.named_buffers()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether all of them are equal, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
