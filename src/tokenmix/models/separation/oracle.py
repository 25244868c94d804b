"""What masks of the spectrum can reach at best."""

from __future__ import annotations

import torch
from torch import Tensor


def ideal_ratio_mask(mixture: Tensor, sources: Tensor, window: int = 512) -> Tensor:
    """Sources estimated with the best soft masks of the mixture's spectrogram, made with the sources themselves.

        mask_s = |S_s| / sum over r of |S_r|,   estimate_s = inverse STFT of mask_s times the mixture's STFT

    Args:
        mixture: (B, N) samples.
        sources: (B, S, N) samples.
        window: samples of a Hann window, a quarter of it from frame to frame; 512 are 64 ms at 8 kHz.

    Returns:
        (B, S, N).

    Example:
        >>> voices = torch.stack([torch.sin(torch.arange(2000) * f) for f in (0.1, 1.0)])[None]
        >>> estimate = ideal_ratio_mask(voices.sum(1), voices)
        >>> from tokenmix.models.separation import si_sdr
        >>> bool((si_sdr(estimate, voices) > 15).all())
        True
    """
    batch, speakers, length = sources.shape
    hann = torch.hann_window(window, device=mixture.device, dtype=mixture.dtype)
    options = {"n_fft": window, "hop_length": window // 4, "window": hann}
    whole = torch.stft(mixture, **options, return_complex=True)  # type: ignore[arg-type]  # one dict of several types
    parts = torch.stft(sources.flatten(0, 1), **options, return_complex=True)  # type: ignore[arg-type]  # see above
    size = parts.abs().unflatten(0, (batch, speakers))
    masked = size / size.sum(1, keepdim=True).clamp(min=1e-8) * whole[:, None]
    found = torch.istft(masked.flatten(0, 1), **options, length=length)  # type: ignore[arg-type]  # see above
    return found.unflatten(0, (batch, speakers))
