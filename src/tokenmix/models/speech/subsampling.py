"""Convolutions over frames that make fewer and wider ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenmix.models.speech.config import SpeechConfig


class ConvSubsampling(nn.Module):
    """Strided convolutions with GELU, and a linear layer to the width of the mixers.

        y_t = gelu(b + sum_j W_j x_(s t + j - r)),   r = K - 1 if causal, (K - 1) / 2 if not

    for each layer of kernel K and stride s. Frames outside a row count as 0 in every layer, so T frames give
    ceil(T / s) whatever stands behind them.

    Args:
        config: its mel bands, channels, kernels, strides, and whether it is causal.

    Example:
        >>> ConvSubsampling(SpeechConfig(hidden_size=16))(torch.randn(1, 7, 80))[0].shape
        torch.Size([1, 4, 16])

    Source:
        Kernels and strides by default as in Whisper (Radford et al. 2022, arXiv 2212.04356).
    """

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        self.causal, self.strides = config.causal, list(config.conv_strides)
        width = config.hidden_size if config.conv_size is None else config.conv_size
        sizes = [config.num_mel_bins, *[width] * len(config.conv_kernels)]
        self.layers = nn.ModuleList(
            nn.Conv1d(sizes[i], sizes[i + 1], kernel, stride=stride)
            for i, (kernel, stride) in enumerate(zip(config.conv_kernels, config.conv_strides, strict=True))
        )
        self.out_proj = nn.Linear(width, config.hidden_size)

    def reset_parameters(self) -> None:
        """All layers as torch draws them."""
        for convolution in self._convolutions():
            convolution.reset_parameters()
        self.out_proj.reset_parameters()

    def init_state(self, rows: int) -> list[Tensor]:
        """Inputs that the next outputs of each layer read, (B, n, channels): before the first frame, zeros."""
        weight = self.out_proj.weight
        return [weight.new_zeros(rows, conv.kernel_size[0] - 1, conv.in_channels) for conv in self._convolutions()]

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, mels) frames to (B, ceil(T / strides), hidden_size), and the rows' lengths.

        Args:
            x: frames, zero behind each row's end.
            lengths: (B,) frames of each row; None means all T.
            state: of a stream, advanced in place; only if causal.
        """
        for i, conv in enumerate(self._convolutions()):
            kernel, stride = conv.kernel_size[0], self.strides[i]
            if state is None:
                left = kernel - 1 if self.causal else kernel // 2
                x = F.pad(x, (0, 0, left, kernel - 1 - left))
            else:
                x = torch.cat([state[i], x], dim=1)
                count = max((x.shape[1] - kernel) // stride + 1, 0)
                state[i] = x[:, count * stride :].clone()
                if count == 0:
                    return x.new_zeros(x.shape[0], 0, self.out_proj.out_features), None
                x = x[:, : (count - 1) * stride + kernel]
            x = F.gelu(conv(x.transpose(1, 2)).transpose(1, 2))
            if lengths is not None:
                lengths = subsampled(lengths, [stride])
                x = x.masked_fill(torch.arange(x.shape[1], device=x.device)[:, None] >= lengths[:, None, None], 0)
        return self.out_proj(x), lengths

    def _convolutions(self) -> list[nn.Conv1d]:
        return list(self.layers)  # type: ignore[arg-type]  # each is one


def subsampled(lengths: Tensor, strides: list[int]) -> Tensor:
    """Lengths after layers with these strides, each rounded up.

    Example:
        >>> subsampled(torch.tensor([0, 1, 7]), [1, 2]).tolist()
        [0, 1, 4]
    """
    for stride in strides:
        lengths = (lengths + stride - 1) // stride
    return lengths
