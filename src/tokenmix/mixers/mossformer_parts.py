"""What a MossFormer layer is built of: a norm, affine copies, a shift by one token, a projection with a convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenmix.mixer import set_parameter
from tokenmix.ops.conv import depthwise_conv
from tokenmix.ops.precision import at_least_float32
from tokenmix.routed.base import Where, per_token


class ScaleNorm(nn.Module):
    """One learned length for every token: g x / max(|x| / sqrt(d), eps).

    Args:
        eps: smallest root mean square that is divided by.

    Example:
        >>> ScaleNorm()(torch.tensor([[3.0, 3.0], [0.0, 0.0]])).tolist()
        [[1.0, 1.0], [0.0, 0.0]]

    Source:
        Nguyen and Salazar 2019, arXiv 1910.05895, with the root mean square in the place of the length.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.g = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) to (..., d), computed in float32."""
        wide = at_least_float32(x)
        length = wide.square().mean(-1, keepdim=True).clamp(min=self.eps**2).rsqrt()
        return (wide * length * at_least_float32(self.g)).to(x.dtype)


class OffsetScale(nn.Module):
    """Affine copies of one feature: x * gamma_k + beta_k, gamma drawn from N(0, 0.02^2), beta 0.

    Args:
        width: of the feature.
        copies: how many.

    Example:
        >>> [copy.shape for copy in OffsetScale(3, copies=2)(torch.ones(5, 3))]
        [torch.Size([5, 3]), torch.Size([5, 3])]

    Source:
        Hua et al. 2022 (FLASH), arXiv 2202.10447.
    """

    def __init__(self, width: int, copies: int = 4) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(copies, width))
        self.beta = nn.Parameter(torch.empty(copies, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As above."""
        set_parameter(self.gamma, torch.empty_like(self.gamma).normal_(std=0.02))
        set_parameter(self.beta, torch.zeros_like(self.beta))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(..., width) to as many copies of (..., width)."""
        return [x * gamma + beta for gamma, beta in zip(self.gamma, self.beta, strict=True)]


class FFConvM(nn.Module):
    """A projection that looks at its neighbours: y = silu(W norm(x) + b), out = dropout(y + conv(y)).

    The convolution has one filter of `kernel` taps a channel and no bias. Padding and other documents count as 0 in it.

    Args:
        width, out: of x and of the result.
        kernel: taps of the convolution; odd unless `causal`.
        causal: whether they reach back only.
        dropout: share of the result that is dropped in training.

    Example:
        >>> FFConvM(4, 6, kernel=3, causal=False, dropout=0.0)(torch.ones(1, 5, 4))[0].shape
        torch.Size([1, 5, 6])
    """

    def __init__(self, width: int, out: int, *, kernel: int, causal: bool, dropout: float) -> None:
        super().__init__()
        self.causal = causal
        self.norm = ScaleNorm()
        self.proj = nn.Linear(width, out)
        self.conv1d = nn.Conv1d(out, out, kernel, groups=out, bias=False)
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self) -> None:
        """The projection and the filters as torch draws them, the norm 1."""
        set_parameter(self.norm.g, torch.ones_like(self.norm.g))
        self.proj.reset_parameters()
        self.conv1d.reset_parameters()

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        starts: Tensor | None = None,
        before: Tensor | None = None,
        where: Where = None,
    ) -> tuple[Tensor, Tensor]:
        """Project.

        Args:
            x: (B, L, width).
            mask: (B, L) bool, False at padding.
            starts: (B, L) bool, first tokens of documents.
            before: (B, kernel - 1, out) inputs of the convolution before the first token, if causal.
            where: the layout, for a routed projection.

        Returns:
            (B, L, out), and the inputs of the convolution, for those that come after.
        """
        y = F.silu(per_token(self.proj, self.norm(x), where))
        if mask is not None:
            y = y.masked_fill(~mask[..., None], 0)  # the bias makes something of nothing
        weight = self.conv1d.weight[:, 0]
        return self.dropout(y + depthwise_conv(y, weight, starts=starts, state=before, causal=self.causal)), y


def token_shift(x: Tensor, starts: Tensor | None = None, before: Tensor | None = None) -> Tensor:
    """Delay the first half of the channels by one token; the first token of a document gets 0 there.

    Args:
        x: (B, L, d); of an odd d, the first half has the channel more.
        starts: (B, L) bool, first tokens of documents.
        before: (B, 1, d - d // 2), the first half of the token before the first; default 0.

    Returns:
        (B, L, d).

    Example:
        >>> token_shift(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).tolist()
        [[[0.0, 2.0], [1.0, 4.0]]]
    """
    half = x.shape[2] - x.shape[2] // 2
    first = x[:, :1, :half] * 0 if before is None else before
    shifted = torch.cat([first, x[:, :-1, :half]], dim=1)
    if starts is not None:
        shifted = shifted.masked_fill(starts[..., None], 0)
    return torch.cat([shifted, x[..., half:]], dim=2)
