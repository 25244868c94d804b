"""SpecAugment: hide runs of bands and of frames in training."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenmix.models.speech.config import SpeechConfig


def spec_augment(mel: Tensor, lengths: Tensor | None, config: SpeechConfig) -> Tensor:
    """Set random runs of bands and of frames to the mean: 0 for normalised energies, else that of the row.

    Each row has runs of its own: `frequency_masks` of up to `frequency_mask_width` bands, and `time_masks` of up to
    `time_mask_width` frames, but at most `time_mask_share` of the row's frames. They are drawn from torch's generator,
    which a resumed training restores.

    Args:
        mel: (B, T, mels) normalised frames.
        lengths: (B,) frames of each row; None means all T.
        config: numbers and widths.

    Returns:
        (B, T, mels).

    Example:
        >>> config = SpeechConfig(num_mel_bins=20, frequency_masks=1, frequency_mask_width=5, time_masks=0)
        >>> hidden = spec_augment(torch.ones(1, 9, 20), None, config) == 0
        >>> bool((hidden.sum(2) <= 5).all()), bool((hidden == hidden[:, :1]).all())
        (True, True)

    Source:
        Park et al. 2019, arXiv 1904.08779, section 2, without time warping.
    """
    rows, frames, bands = mel.shape
    whole = torch.full((rows,), frames, device=mel.device) if lengths is None else lengths
    wide = torch.full((rows,), min(config.frequency_mask_width, bands), device=mel.device)
    hidden = _runs(config.frequency_masks, wide, torch.full_like(whole, bands), bands)[:, None, :]
    longest = (whole * config.time_mask_share).long().clamp(max=config.time_mask_width)
    hidden = hidden | _runs(config.time_masks, longest, whole, frames)[:, :, None]
    if config.normalise != "none":
        return mel.masked_fill(hidden, 0)
    real = torch.arange(frames, device=mel.device)[:, None] < whole[:, None, None]
    return torch.where(hidden & real, _mean(mel, whole), mel)


def _mean(mel: Tensor, lengths: Tensor) -> Tensor:
    """(B, 1, 1) mean of each row's real frames; behind its end they are 0."""
    return mel.sum((1, 2), keepdim=True) / (lengths[:, None, None].clamp(min=1) * mel.shape[2])


def _runs(count: int, widest: Tensor, within: Tensor, size: int) -> Tensor:
    """(B, size) bool: the union of `count` runs a row, each of 0 to `widest` places inside the first `within`."""
    draw = torch.rand(2, len(widest), count, device=widest.device)
    width = (draw[0] * (widest[:, None] + 1)).long()
    start = (draw[1] * (within[:, None] - width + 1)).long()
    place = torch.arange(size, device=widest.device)
    inside = (place >= start[..., None]) & (place < (start + width)[..., None])  # (B, count, size)
    return inside.any(1)
