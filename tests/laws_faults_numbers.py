"""Mixers with one planted fault each, in what is claimed and computed: laws 6 to 10."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laws_mixers import GatedConv, Points, PrefixAttention, SetMean, fault
from tokenmix import Layout, MixerState, TokenMixer


@fault(6)
class WindowWiderThanItsReach(GatedConv):
    window = 5

    def reach(self, layout: Layout, length: int) -> Tensor | None:
        narrow = GatedConv(self.dim)
        return narrow.reach(layout, length)


@fault(6)
class WindowNarrowerThanItsReach(GatedConv):
    window = 3

    def reach(self, layout: Layout, length: int) -> Tensor | None:
        return GatedConv(self.dim).reach(layout, length)


@fault(6)
class ReachForgetsSegments(SetMean):
    def reach(self, layout: Layout, length: int) -> Tensor | None:
        return super().reach(replace(layout, segments=None), length)


@fault(6)
class ReachForgetsScatteredPadding(GatedConv):
    def reach(self, layout: Layout, length: int) -> Tensor | None:
        if layout.mask is not None:
            layout = replace(layout, mask=None)
        return super().reach(layout, length)


@fault(6)
class ReachOfAnotherShape(SetMean):
    def reach(self, layout: Layout, length: int) -> Tensor | None:
        return torch.ones(length, length, dtype=torch.bool)


@fault(7)
class AddsPositions(SetMean):
    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        places = torch.arange(x.shape[1], dtype=x.dtype)[:, None]
        return super().mix(x + 0.01 * places, layout, state)


@fault(7)
class ReadsRawCoordinates(Points):
    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        assert layout.coords is not None
        return super().mix(x + 0.01 * layout.coords.sum(-1, keepdim=True), layout, state)


@fault(7)
class MeasuresFromTheOrigin(Points):
    def weights(self, coords: Tensor) -> Tensor:
        return (-coords.square().sum(-1) / 4).exp()[:, None, :].expand(-1, coords.shape[1], -1)


@fault(7)
class MeasuresAlongTheAxes(Points):
    """Follows translations, but not rotations."""

    def weights(self, coords: Tensor) -> Tensor:
        return (-(coords[:, :, None] - coords[:, None]).abs().sum(-1) / 4).exp()


@fault(7)
class UnknownSymmetry(SetMean):
    equivariance = ("mirror",)


@fault(8)
class DeadParameter(GatedConv):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.unused = nn.Parameter(torch.zeros(dim))


@fault(8)
class ZeroGradient(GatedConv):
    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        return super().mix(x, layout, state) + 0 * self.kernel.sum() + self._gate_again(x)

    def _gate_again(self, x: Tensor) -> Tensor:
        return x * self.scale.round()

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.scale = nn.Parameter(torch.ones(dim))


class _WrongSquare(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (x,) = context.saved_tensors
        return 1.98 * x * gradient


@fault(8)
class WrongGradient(GatedConv):
    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        return _WrongSquare.apply(super().mix(x, layout, state))


@fault(8)
class NanGradientAtAPaddedRow(SetMean):
    """Finite outputs: the 0 / 0 of a padded row is overwritten, its gradient is not."""

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        together = self.together(x, layout)
        scores = x @ self.value(x).transpose(1, 2) + together.log()
        return self.own(x) + scores.softmax(-1).nan_to_num(0) @ self.value(x)


@fault(8)
class Float32Inside(SetMean):
    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        return super().mix(x, layout, state).float().sin().to(x.dtype)


@fault(9)
class QuadraticInElements(GatedConv):
    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        places = torch.arange(x.shape[1])
        near = (places[:, None] - places).abs().clamp(max=0).sum(1)
        return super().mix(x, layout, state) + near[:, None]


@fault(9)
class QuadraticInProducts(SetMean):
    cost = "L"


@fault(9)
class FusedAttentionClaimsLinear(TokenMixer):
    cost = "L"

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]


@fault(9)
class QuadraticClaimsLogLinear(PrefixAttention):
    cost = "L log L"


@fault(9)
class UnknownCost(SetMean):
    cost = "cheap"


@fault(10)
class ForgetsABufferAtSave(GatedConv):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("average", torch.zeros(dim), persistent=False)

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        if self.training:
            self.average = self.average.lerp(x.mean((0, 1)).detach(), 0.1)
        return super().mix(x - self.average, layout, state)


@fault(10)
class CountsInBfloat16(GatedConv):
    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        steps = torch.full_like(x[..., :1], 0.3).cumsum(1) * 40
        return super().mix(x, layout, state) * steps.sin()


@fault(10)
class DriftsInBfloat16WithAState(GatedConv):
    """Right without a state, and in float32."""

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        y = super().mix(x, layout, state)
        return y if state is None or x.dtype == torch.float32 else y * 1.2


@fault(10)
class DiffersWhenCompiled(GatedConv):
    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        y = super().mix(x, layout, state)
        return 1.001 * y if torch.compiler.is_compiling() else y


@fault(10)
class NamesParametersAnew(GatedConv):
    """Saves under names that it does not load."""

    def state_dict(self, *args: Any, **options: Any) -> Any:
        return {f"{name}_old": value for name, value in super().state_dict(*args, **options).items()}
