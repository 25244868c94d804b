"""Correct small mixers, and the list of faulty ones, for the mutation tests of the laws."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenmix import Layout, MixerState, TokenMixer
from tokenmix.state import chunk_places


class GatedConv(TokenMixer):
    """y_t = W_o (sigmoid(W_g x_t) * mean over the last w tokens of k_j * (W_v x_(t-j)))."""

    causal = "always"
    cost = "L"
    window = 4

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.value, self.gate, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.kernel = nn.Parameter(torch.randn(self.window, dim))

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        v, length, kept = self.value(x), x.shape[1], self.window - 1
        places = self.places(x, layout, state)
        past = v.new_zeros(v.shape[0], kept, v.shape[2]) if state is None else state.get("v")
        joined = torch.cat([past.to(v.dtype), v], dim=1)
        mixed = torch.zeros_like(v)
        for j in range(self.window):
            shifted = joined[:, kept - j : kept - j + length]
            mixed = mixed + self.kernel[j] * shifted * (places >= j)[..., None].to(v.dtype)
        mixed = mixed / (places + 1).clamp(max=self.window)[..., None].to(v.dtype)
        if state is not None:
            self.remember(state, v, layout)
        return self.out(torch.sigmoid(self.gate(x)) * mixed)

    def places(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        return chunk_places(x.shape[1], layout, state, x.device)

    def remember(self, state: MixerState, v: Tensor, layout: Layout) -> None:
        state.roll("v", v, layout.counts())

    def fill_state(self, state: MixerState, dtype: torch.dtype) -> None:
        shape = (state.batch_size, self.window - 1, self.dim)
        state.put("v", torch.zeros(shape, dtype=dtype, device=state.seen.device))

    def reach(self, layout: Layout, length: int) -> Tensor | None:
        aligned, order = layout.aligned()
        places = chunk_places(length, aligned, None).expand(1 if order is None else order.shape[0], -1)
        i = torch.arange(length)
        before = i[:, None] - i[None, :]
        seen = (before >= 0) & (before < self.window) & (before <= places[..., None])
        if order is None:
            return seen
        back = order.argsort(1)
        rows = torch.arange(len(back))[:, None, None]
        return seen[rows, back[:, :, None], back[:, None, :]]


class PrefixAttention(TokenMixer):
    """Causal softmax attention with one head, which keeps every token."""

    causal = "always"
    cost = "L^2"

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        index = torch.arange(x.shape[1])[None]
        low = index - chunk_places(x.shape[1], layout, state)
        if state is not None:
            k, v = state.append("k", k[:, None])[:, 0], state.append("v", v[:, None])[:, 0]
            index, low = index + state.seen[:, None], low + state.seen[:, None]
        slots = torch.arange(k.shape[1])
        seen = (slots <= index[..., None]) & (slots >= low[..., None])
        scores = (q @ k.transpose(1, 2) / self.dim**0.5).masked_fill(~seen, float("-inf"))
        return scores.softmax(-1) @ v

    def fill_state(self, state: MixerState, dtype: torch.dtype) -> None:
        state.grow("k", 1, self.dim, dtype)
        state.grow("v", 1, self.dim, dtype)


class SetMean(TokenMixer):
    """y_i = W_q x_i + mean over the tokens of its document of W_v x_j."""

    cost = "L^2"
    equivariance = ("permutation",)
    ordered = False

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.own, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        together = self.together(x, layout)
        weights = together / self.counts(together)
        return self.own(x) + weights @ self.value(x)

    def together(self, x: Tensor, layout: Layout) -> Tensor:
        seen = torch.ones(x.shape[0], x.shape[1], x.shape[1], dtype=torch.bool)
        if layout.mask is not None:
            seen = seen & layout.mask[:, None, :]
        if layout.segments is not None:
            seen = seen & (layout.segments[:, :, None] == layout.segments[:, None, :])
        return seen.to(x.dtype)

    def counts(self, together: Tensor) -> Tensor:
        return together.sum(-1, keepdim=True).clamp(min=1)

    def reach(self, layout: Layout, length: int) -> Tensor | None:
        rows = 1 if layout.mask is None else layout.mask.shape[0]
        return self.together(torch.zeros(rows, length, 1), layout).bool()


class Points(SetMean):
    """A mean weighted by distance; turning and moving the cloud changes nothing."""

    needs = ("coords",)
    equivariance = ("permutation", "se3")

    def together(self, x: Tensor, layout: Layout) -> Tensor:
        assert layout.coords is not None
        return super().together(x, layout) * self.weights(layout.coords)

    def weights(self, coords: Tensor) -> Tensor:
        return (-(coords[:, :, None] - coords[:, None]).square().sum(-1) / 4).exp()

    def reach(self, layout: Layout, length: int) -> Tensor | None:
        return None


class Oriented(Points):
    """As Points, weighted by the angle between normals too, with a weight a modality."""

    needs = ("coords", "normals", "modality")

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.scale = nn.Parameter(torch.rand(2, dim))

    def together(self, x: Tensor, layout: Layout) -> Tensor:
        assert layout.normals is not None
        return super().together(x, layout) * (1 + (layout.normals @ layout.normals.transpose(1, 2)))

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        assert layout.modality is not None
        return super().mix(x * self.scale[layout.modality], layout, state)


class Messages(TokenMixer):
    """y_i = W_q x_i + sum over edges j -> i of W_v x_j + W_e edge_attr."""

    cost = "L + E"
    needs = ("edges", "edge_attr")
    equivariance = ("permutation",)
    ordered = False

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.own, self.value, self.edge = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(4, dim)

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        assert layout.edges is not None
        assert layout.edge_attr is not None
        sender, receiver = layout.edges
        messages = self.value(x).flatten(0, 1)[sender] * self.edge(layout.edge_attr)
        return (self.own(x).flatten(0, 1).index_add(0, receiver, messages)).view_as(x)

    def reach(self, layout: Layout, length: int) -> Tensor | None:
        assert layout.edges is not None
        seen = torch.eye(length, dtype=torch.bool)
        seen[layout.edges[1], layout.edges[0]] = True
        return seen[None]


class GridBlur(TokenMixer):
    """A mean over the cells next to a cell of an image, masked cells apart."""

    cost = "L"
    needs = ("grid",)
    ordered = False

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.value = nn.Linear(dim, dim)

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        mask = torch.ones(x.shape[:2], dtype=x.dtype) if layout.mask is None else layout.mask.to(x.dtype)
        assert layout.grid is not None
        v = (self.value(x) * mask[..., None]).unflatten(1, layout.grid).permute(0, 3, 1, 2)
        total = F.avg_pool2d(v, 3, 1, 1, divisor_override=1)
        count = F.avg_pool2d(mask.unflatten(1, layout.grid)[:, None], 3, 1, 1, divisor_override=1)
        return (total / count.clamp(min=1)).flatten(2).transpose(1, 2)


CORRECT = (GatedConv, PrefixAttention, SetMean, Points, Oriented, Messages, GridBlur)


FAULTS: dict[int, list[type[TokenMixer]]] = {number: [] for number in range(1, 11)}


def fault(*numbers: int) -> Any:
    """Register a faulty mixer under the laws that must catch it."""

    def register(cls: type[TokenMixer]) -> type[TokenMixer]:
        for number in numbers:
            FAULTS[number].append(cls)
        return cls

    return register
