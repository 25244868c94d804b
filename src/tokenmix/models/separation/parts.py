"""What the separator is built of beside its stack: frames and back, a norm over time, places."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenmix.models.sinusoids import sinusoids
from tokenmix.ops.precision import at_least_float32


class FilterBank(nn.Module):
    """A learned filter bank and its learned inverse: frames of `kernel` samples, half of them overlapping.

    Args:
        size: filters.
        kernel: samples a filter, even.

    Example:
        >>> bank = FilterBank(size=4, kernel=8)
        >>> frames = bank.encode(torch.randn(2, 21), count=5)
        >>> frames.shape, bank.decode(frames).shape
        (torch.Size([2, 5, 4]), torch.Size([2, 24]))
    """

    def __init__(self, size: int, kernel: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, kernel // 2
        self.encoder = nn.Conv1d(1, size, kernel, stride=self.stride, bias=False)
        self.decoder = nn.ConvTranspose1d(size, 1, kernel, stride=self.stride, bias=False)

    def encode(self, samples: Tensor, count: int) -> Tensor:
        """(B, N) samples to (B, count, size) frames, none negative; silence follows the samples."""
        wanted = (count - 1) * self.stride + self.kernel
        return self.encoder(F.pad(samples, (0, wanted - samples.shape[1]))[:, None]).relu().transpose(1, 2)

    def decode(self, frames: Tensor) -> Tensor:
        """(B, T, size) frames to (B, (T + 1) * kernel / 2) samples."""
        y: Tensor = self.decoder(frames.transpose(1, 2))[:, 0]  # the channel alone: a batch of one stays a batch
        return y


class GlobalNorm(nn.Module):
    """One mean and variance for all real frames and features of a row, then a scale and a shift a feature.

        y = (x - mean) / sqrt(variance + eps) * w + b

    It is `torch.nn.GroupNorm` with one group, but padding counts for nothing.

    Args:
        width: features a frame.
        eps: added to the variance.

    Example:
        >>> x = torch.tensor([[[1.0, 3.0], [3.0, 1.0], [100.0, 100.0]]])
        >>> mask = torch.tensor([[True, True, False]])
        >>> GlobalNorm(2)(x, mask).round(decimals=4).tolist()
        [[[-1.0, 1.0], [1.0, -1.0], [0.0, 0.0]]]
    """

    def __init__(self, width: int, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def reset_parameters(self) -> None:
        """Scales of 1, shifts of 0."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, width) to (B, T, width), computed in float32; 0 where `mask` (B, T) is False."""
        wide = at_least_float32(x)
        if mask is None:
            centred = wide - wide.mean((1, 2), keepdim=True)
            variance = centred.square().mean((1, 2), keepdim=True)
        else:
            real = mask[..., None]
            count = (mask.sum(1) * x.shape[2]).clamp(min=1)[:, None, None]
            mean = wide.masked_fill(~real, 0).sum((1, 2), keepdim=True) / count
            centred = (wide - mean).masked_fill(~real, 0)
            variance = centred.square().sum((1, 2), keepdim=True) / count
        y = centred * (variance + self.eps).rsqrt() * at_least_float32(self.weight) + at_least_float32(self.bias)
        return (y if mask is None else y.masked_fill(~mask[..., None], 0)).to(x.dtype)


class ScaledSinusoid(nn.Module):
    """Places as sines and cosines of 10000^(-2i/width) t, times a learned number that starts at 1.

    Args:
        width: features, even.

    Example:
        >>> ScaledSinusoid(4)(torch.zeros(1, 2, 4))[0, 0].tolist()
        [0.0, 0.0, 1.0, 1.0]
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"hidden_size: expected an even number, found {width}")
        self.scale = nn.Parameter(torch.ones(1))

    def reset_parameters(self) -> None:
        """A scale of 1."""
        nn.init.ones_(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) plus the places."""
        return x + (sinusoids(0, x.shape[1], x.shape[2], x.device) * self.scale.float()).to(x.dtype)
