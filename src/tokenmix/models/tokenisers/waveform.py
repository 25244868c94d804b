"""From log-Mel frames back to audio, roughly."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from tokenmix.models.speech.front_end import LogMel

_FITS = 50  # updates that spread a band's energy over its bins
_LEAST = 1e-10


def griffin_lim(frames: Tensor, log_mel: LogMel, steps: int = 32) -> Tensor:
    """Samples whose log-Mel frames are near to those given; their phases are made up.

    Energies of bins that give the bands' are found by multiplicative updates, s <- s * (e A^T) / (s A A^T) for bands
    e = s A, which keep them above 0. Griffin-Lim then finds phases that agree between frames that overlap.

    Args:
        frames: (B, T, mels) log-Mel frames.
        log_mel: what made them.
        steps: of Griffin-Lim.

    Returns:
        (B, T * hop) float32 samples.

    Raises:
        ValueError: frames of another number of bands.
        ModuleNotFoundError: torchaudio is missing.

    Source:
        Griffin and Lim 1984; updates of Lee and Seung 2001.
    """
    if frames.dim() != 3 or frames.shape[2] != log_mel.filters.shape[1]:
        expected = f"(B, T, num_mel_bins={log_mel.filters.shape[1]})"
        raise ValueError(f"features: expected shape {expected}, found {tuple(frames.shape)}")
    from torchaudio.functional import griffinlim

    filters, energy = log_mel.filters, frames.float().exp()
    power = energy @ filters.T + _LEAST
    for _ in range(_FITS):
        power = power * (energy @ filters.T) / (power @ filters @ filters.T + _LEAST)
    hop, width = log_mel.hop_samples, log_mel.window_samples
    late = width // 2 - hop  # its frames stand around t * hop, ours end at (t + 1) * hop
    samples: Tensor = griffinlim(
        power.transpose(1, 2),
        log_mel.window,
        n_fft=log_mel.transform_size,
        hop_length=hop,
        win_length=width,
        power=2.0,
        n_iter=steps,
        momentum=0.99,
        length=None,
        rand_init=False,
    )
    wanted = frames.shape[1] * hop
    samples = samples[:, max(late, 0) :]
    samples = F.pad(samples, (max(-late, 0), 0))
    return F.pad(samples, (0, max(0, wanted - samples.shape[1])))[:, :wanted]
