"""How well waveforms are separated: the scale-invariant signal-to-distortion ratio, in the best order of speakers."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor

from tokenmix.ops.precision import at_least_float32

MOST_SPEAKERS = 8  # 40,320 orders
SILENCE = 1e-20  # energy


def si_sdr(estimate: Tensor, target: Tensor, mask: Tensor | None = None, eps: float = 1e-8) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in decibels.

        a = <e, s> / |s|^2,   si_sdr = 10 log10(|a s|^2 / |e - a s|^2),   e and s without their means

    Args:
        estimate, target: (..., N) samples.
        mask: (..., N) bool, True where samples count; it broadcasts.
        eps: share of the estimate's energy that is added to both energies: a perfect estimate has -10 log10(eps)
            = 80 dB, at any loudness. Silence, estimated or to be estimated, has -80 dB.

    Returns:
        (...), float32 or better.

    Raises:
        ValueError: shapes that do not broadcast.

    Example:
        >>> target = torch.tensor([1.0, -1.0, 1.0, -1.0])
        >>> noise = torch.tensor([1.0, 1.0, -1.0, -1.0])
        >>> round(si_sdr(5 * target + 0.5 * noise, target).item(), 4)
        20.0

    Source:
        Le Roux et al. 2019, "SDR - half-baked or well done?", arXiv 1811.02508.
    """
    estimate, target = at_least_float32(estimate), at_least_float32(target)
    try:
        estimate, target = torch.broadcast_tensors(estimate, target)
        real = None if mask is None else mask.expand(estimate.shape)
    except RuntimeError:
        shapes = [tuple(x.shape) for x in (estimate, target, mask) if x is not None]
        raise ValueError(f"estimate, target, mask: expected shapes that broadcast, found {shapes}") from None
    estimate, target = _centred(estimate, real), _centred(target, real)
    energy = target.square().sum(-1, keepdim=True)
    along = (estimate * target).sum(-1, keepdim=True) / (energy + SILENCE) * target
    floor = eps * estimate.square().sum(-1)
    kept, lost = along.square().sum(-1) + floor, (estimate - along).square().sum(-1) + floor
    return 10 * ((kept + eps * SILENCE).log10() - (lost + SILENCE).log10())


def _centred(x: Tensor, real: Tensor | None) -> Tensor:
    if real is None:
        return x - x.mean(-1, keepdim=True)
    x = x.masked_fill(~real, 0)
    mean = x.sum(-1, keepdim=True) / real.sum(-1, keepdim=True).clamp(min=1)
    return (x - mean).masked_fill(~real, 0)


def best_order(estimates: Tensor, targets: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Pair the estimates with the speakers so that the mean si_sdr is the largest (permutation-invariant training).

    Args:
        estimates, targets: (B, S, N) samples.
        mask: (B, N) bool, True where samples count.

    Returns:
        ratios: (B, S), si_sdr of each speaker in decibels, in the order of the targets.
        order: (B, S) int64, which estimate is each speaker's.

    Raises:
        ValueError: shapes that differ, or more than 8 speakers.

    Example:
        >>> voices = torch.tensor([[[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 2.0, -2.0]]])
        >>> best_order(voices.flip(1), voices)[1].tolist()
        [[1, 0]]

    Source:
        Yu et al. 2017, "Permutation invariant training of deep models for speaker-independent multi-talker speech
        separation", arXiv 1607.00325.
    """
    if estimates.shape != targets.shape or targets.dim() != 3:
        raise ValueError(
            f"estimates, targets: expected one shape (B, S, N), found {tuple(estimates.shape)} and "
            f"{tuple(targets.shape)}"
        )
    speakers = targets.shape[1]
    if speakers > MOST_SPEAKERS:
        raise ValueError(f"targets: expected at most {MOST_SPEAKERS} speakers, found {speakers}")
    every = si_sdr(estimates[:, None], targets[:, :, None], None if mask is None else mask[:, None, None])
    orders = torch.tensor(list(permutations(range(speakers))), device=targets.device)  # (S!, S)
    place = torch.arange(speakers, device=targets.device)
    ratios = every[:, place, orders]  # (B, S!, S)
    best = ratios.mean(-1).argmax(1)
    return ratios[torch.arange(len(best), device=best.device), best], orders[best]
