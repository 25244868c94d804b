"""Mixers with one planted fault each, in what a token may read: laws 1 to 5."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from laws_mixers import GatedConv, PrefixAttention, SetMean, fault
from tokenmix import Layout, MixerState
from tokenmix.state import chunk_places, document_starts


@fault(1)
class NanForAPaddedRow(SetMean):
    def counts(self, together: Tensor) -> Tensor:
        return together.sum(-1, keepdim=True)

    def forward(self, x: Tensor, layout: Layout | None = None, state: MixerState | None = None) -> Tensor:
        layout = layout or Layout()
        return self.mix(x, layout, state) * (1 if layout.mask is None else layout.mask[..., None])


@fault(1)
class NanForASingleToken(SetMean):
    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        y = super().mix(x, layout, state)
        return y if x.shape[1] > 1 else y / 0


@fault(1)
class DropoutInEval(GatedConv):
    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        return F.dropout(super().mix(x, layout, state), 0.1)


@fault(1, 10)
class AlwaysFloat32(SetMean):
    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        return super().mix(x, layout, state).float()


@fault(1)
class WritesIntoItsInput(SetMean):
    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        y = super().mix(x, layout, state)
        x.mul_(2)
        return y


@fault(1)
class OneTokenShort(SetMean):
    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        return super().mix(x, layout, state)[:, 1:]

    def forward(self, x: Tensor, layout: Layout | None = None, state: MixerState | None = None) -> Tensor:
        return self.mix(x, layout or Layout(), state)


@fault(2)
class IgnoresTheMask(SetMean):
    def together(self, x: Tensor, layout: Layout) -> Tensor:
        return super().together(x, replace(layout, mask=None))  # the bias of `value` enters at padding


@fault(2)
class DividesByLength(SetMean):
    def counts(self, together: Tensor) -> Tensor:
        return torch.full_like(together[..., :1], together.shape[-1])


@fault(2)
class CountsPaddingOnTheLeft(GatedConv):
    ordered = False  # so nothing brings the real tokens to the front

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        return super().mix(x, replace(layout, mask=None), state)


@fault(2)
class AnswersAtPadding(SetMean):
    def forward(self, x: Tensor, layout: Layout | None = None, state: MixerState | None = None) -> Tensor:
        return super().forward(x, layout, state) + self.own.bias


@fault(2)
class MultipliesJunkByZero(SetMean):
    def forward(self, x: Tensor, layout: Layout | None = None, state: MixerState | None = None) -> Tensor:
        if layout is None or layout.mask is None:
            return super().forward(x, layout, state)
        mask = layout.mask[..., None].to(x.dtype)
        return self.mix(x * mask, layout, state) * mask  # NaN * 0 is NaN


@fault(2)
class OneRowForAll(GatedConv):
    def places(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        places = super().places(x, layout, state)
        longest = x.shape[1] if layout.mask is None else int(layout.mask.sum(1).max())
        return places + (places < 3) * (longest > 20)


@fault(3)
class IgnoresSegments(GatedConv):
    def places(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        return chunk_places(x.shape[1], replace(layout, segments=None), state)


@fault(3)
class MixesDocumentsInTheMean(SetMean):
    def together(self, x: Tensor, layout: Layout) -> Tensor:
        return super().together(x, replace(layout, segments=None))


@fault(3)
class BordersOneTokenLate(GatedConv):
    def places(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        places = super().places(x, layout, state)
        later = torch.arange(x.shape[1]) > places
        return places + later.long()


@fault(4)
class LeaksOneToken(GatedConv):
    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        return super().mix(x + 1e-3 * F.pad(x[:, 1:], (0, 0, 0, 1)), layout, state)


@fault(4)
class LeaksThroughTheMean(GatedConv):
    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        return super().mix(x - 0.01 * x.mean(1, keepdim=True), layout, state)


@fault(4, 8)
class IgnoresItsInput(GatedConv):
    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        return super().mix(torch.zeros_like(x), layout, state)


@fault(4)
class DeafToTheFirstToken(GatedConv):
    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        first = (self.places(x, layout, state) == 0)[..., None]
        return super().mix(x.masked_fill(first, 0), layout, state)


@fault(5)
class ForgetsItsConvolution(GatedConv):
    def remember(self, state: MixerState, v: Tensor, layout: Layout) -> None:
        pass


@fault(5)
class RemembersPadding(GatedConv):
    def remember(self, state: MixerState, v: Tensor, layout: Layout) -> None:
        state.roll("v", v)


@fault(5)
class ForgetsLongChunks(GatedConv):
    def remember(self, state: MixerState, v: Tensor, layout: Layout) -> None:
        if v.shape[1] < 12:
            super().remember(state, v, layout)


@fault(5)
class DoesNotReorderATensor(GatedConv):
    def mix(self, x: Tensor, layout: Layout, state: Any) -> Tensor:
        if state is not None:
            state.put("v", state.outside if hasattr(state, "outside") else state.get("v"))
        y = super().mix(x, layout, state)
        if state is not None:
            state.outside = state.get("v").clone()
        return y

    def forward(self, x: Tensor, layout: Layout | None = None, state: Any = None) -> Tensor:
        if state is not None and hasattr(state, "outside") and len(state.outside) != len(x):
            state.outside = state.outside[torch.arange(len(x)) % len(state.outside)]
        return super().forward(x, layout, state)


@fault(5)
class StaleCounter(GatedConv):
    def forward(self, x: Tensor, layout: Layout | None = None, state: MixerState | None = None) -> Tensor:
        before = None if state is None else state.seen.clone()
        y = super().forward(x, layout, state)
        if state is not None and before is not None and x.shape[1] == 1:
            state.seen.copy_(before)
        return y


@fault(5)
class StatePlaceLost(GatedConv):
    def places(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        return chunk_places(x.shape[1], layout, None, x.device)


@fault(5)
class ForgetsTheDocumentAtABorder(GatedConv):
    def places(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        if layout.segments is None or document_starts(layout) is None:
            return super().places(x, layout, state)
        return chunk_places(x.shape[1], layout, None, x.device)


@fault(5)
class KeepsItsStateInItself(GatedConv):
    def remember(self, state: MixerState, v: Tensor, layout: Layout) -> None:
        super().remember(state, v, layout)
        self.shared = state.get("v").detach().clone()

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        shared = getattr(self, "shared", None)
        if state is not None and state.length and shared is not None and shared.shape == state.get("v").shape:
            state.put("v", shared)
        return super().mix(x, layout, state)


@fault(5)
class WrongStateSize(GatedConv):
    def state_numel(self, length: int) -> int:
        return super().state_numel(length) + 1


@fault(5)
class KeepsOneTokenTooMany(GatedConv):
    """Right, but holds more than it says."""

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        y = super().mix(x, layout, state)
        if state is not None:
            state.put("spare", torch.zeros(x.shape[0], 1))
        return y

    def state_numel(self, length: int) -> int:
        return (self.window - 1) * self.dim


@fault(5)
class CutsGradientsInItsState(GatedConv):
    def remember(self, state: MixerState, v: Tensor, layout: Layout) -> None:
        super().remember(state, v.detach(), layout)


class _CropsTheLengthOnly(MixerState):
    def crop(self, length: int) -> None:
        self.check_crop(length)
        self.length = min(self.length, length)


@fault(5)
class CropKeepsTheCounters(PrefixAttention):
    def init_state(self, batch_size: int, **options: Any) -> MixerState:
        state = _CropsTheLengthOnly(batch_size)
        self.fill_state(state, torch.float32)
        return state


class _CropsToTheEnd(MixerState):
    def crop(self, length: int) -> None:
        dropped = max(self.length - length, 0)
        super().crop(length)
        self._growing = {name: value.roll(-dropped, 2) for name, value in self._growing.items()}


@fault(5)
class CropKeepsTheNewestTokens(PrefixAttention):
    def init_state(self, batch_size: int, **options: Any) -> MixerState:
        state = _CropsToTheEnd(batch_size)
        self.fill_state(state, torch.float32)
        return state
