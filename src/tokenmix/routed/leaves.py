"""Linear layers and norms with parameters for each modality."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenmix.layout import Layout
from tokenmix.ops.common import check_positive
from tokenmix.ops.precision import at_least_float32
from tokenmix.ops.route import Route, routed_linear
from tokenmix.routed.base import RoutedModule, route_of, token_modality


class RoutedLinear(RoutedModule):
    """y_t = W_m x_t + b_m with m the modality of token t.

    Args:
        modalities: n.
        inputs, outputs: widths.
        bias: add b_m.

    Attributes:
        weight: (n, outputs, inputs); bias: (n, outputs), or None.

    Raises:
        ValueError: sizes below 1; at a call, a layout without `modality`.

    Example:
        >>> layer = RoutedLinear(2, 4, 3)
        >>> layer(torch.zeros(1, 5, 4), Layout(modality=torch.tensor([[0, 1, 1, 0, 0]]))).shape
        torch.Size([1, 5, 3])

    Source: Liang et al. 2024, arXiv 2411.04996.
    """

    def __init__(self, modalities: int, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        for name, value in (("modalities", modalities), ("inputs", inputs), ("outputs", outputs)):
            check_positive(name, value)
        self.modalities, self.in_features, self.out_features = modalities, inputs, outputs
        self.weight = nn.Parameter(torch.empty(modalities, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(modalities, outputs)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each modality as `torch.nn.Linear` draws it."""
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    @classmethod
    def from_dense(cls, linear: nn.Linear, modalities: int) -> RoutedLinear:
        """The same function for every modality."""
        routed = cls.__new__(cls)
        nn.Module.__init__(routed)
        routed.modalities, routed.in_features, routed.out_features = modalities, linear.in_features, linear.out_features
        routed.weight = _repeat(linear.weight, modalities)
        routed.bias = None if linear.bias is None else _repeat(linear.bias, modalities)
        return routed

    def forward(self, x: Tensor, where: Layout | Route, *, add_bias: bool = True) -> Tensor:
        """(B, L, inputs) -> (B, L, outputs), or the same of (T, inputs) sorted tokens."""
        bias = self.bias if add_bias else None
        if isinstance(where, Route):
            return routed_linear(x, self.weight, bias, where)
        route = route_of(where, self.modalities)
        return route.put(routed_linear(route.take(x), self.weight, bias, route), x)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.in_features}, {self.out_features}, modalities={self.modalities}, bias={self.bias is not None}"


class RoutedNorm(RoutedModule):
    """RMS norm or layer norm whose weights are those of the token's modality.

    Nothing is sorted: the norm itself is the same for all tokens, and its weights are looked up.

    Args:
        modalities: n.
        dim: width that is normalised.
        kind: "rmsnorm" or "layernorm" (with biases).
        eps: added to the variance.

    Attributes:
        weight: (n, dim); bias: (n, dim), or None.

    Example:
        >>> norm = RoutedNorm(2, 8)
        >>> norm(torch.randn(1, 3, 8), Layout(modality=torch.tensor([[0, 1, 1]]))).shape
        torch.Size([1, 3, 8])
    """

    def __init__(self, modalities: int, dim: int, *, kind: str = "rmsnorm", eps: float | None = 1e-5) -> None:
        super().__init__()
        check_positive("modalities", modalities)
        if kind not in ("rmsnorm", "layernorm"):
            raise ValueError(f"kind: expected 'rmsnorm' or 'layernorm', found {kind!r}")
        self.modalities, self.dim, self.kind, self.eps = modalities, dim, kind, eps
        self.weight = nn.Parameter(torch.ones(modalities, dim))
        self.bias = nn.Parameter(torch.zeros(modalities, dim)) if kind == "layernorm" else None

    def reset_parameters(self) -> None:
        """Weights 1, biases 0."""
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @classmethod
    def from_dense(cls, norm: nn.Module, modalities: int) -> RoutedNorm:
        """The same function for every modality.

        Raises:
            ValueError: a norm without weights, or over several axes.
        """
        source: Any = norm
        if source.weight is None or len(source.normalized_shape) != 1:
            raise ValueError(f"norm: expected one with weights over one axis, found {norm}")
        kind = "layernorm" if isinstance(norm, nn.LayerNorm) else "rmsnorm"
        routed = cls(modalities, source.normalized_shape[0], kind=kind, eps=source.eps)
        routed.weight = _repeat(source.weight, modalities)
        if kind == "layernorm":
            bias = nn.Parameter(torch.zeros_like(source.weight)) if source.bias is None else source.bias
            routed.bias = _repeat(bias, modalities)
        return routed

    def forward(self, x: Tensor, where: Layout | Route) -> Tensor:
        """(B, L, ..., dim) or (T, dim) to the same."""
        ids = where.ids if isinstance(where, Route) else token_modality(where)
        if self.bias is None:
            y = F.rms_norm(x, (self.dim,), eps=self.eps)
        else:
            y = F.layer_norm(x, (self.dim,), eps=1e-5 if self.eps is None else self.eps)
        y = y * self._of(self.weight, ids, x)
        return y if self.bias is None else y + self._of(self.bias, ids, x)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.dim}, modalities={self.modalities}, kind={self.kind!r}, eps={self.eps}"

    @staticmethod
    def _of(parameter: Tensor, ids: Tensor, x: Tensor) -> Tensor:
        chosen = F.embedding(ids, parameter.to(at_least_float32(x).dtype))
        between = (1,) * (x.dim() - ids.dim() - 1)
        return chosen.view(*ids.shape, *between, -1).to(x.dtype)


def _repeat(parameter: Tensor, modalities: int) -> nn.Parameter:
    repeated = parameter.detach()[None].expand(modalities, *parameter.shape)
    return nn.Parameter(repeated.contiguous(), requires_grad=parameter.requires_grad)
