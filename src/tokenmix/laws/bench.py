"""Where laws are tried: a mixer ready to be measured, and documents placed in rows in every way."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tokenmix.layout import Layout
from tokenmix.mixer import TokenMixer

Side = Literal["right", "left", "scattered"]
Junk = Literal["zero", "large", "nan", "inf"]
SIDES: tuple[Side, ...] = ("right", "left", "scattered")
SPACE, MODALITIES, EDGE_WIDTH, EDGES_PER_TOKEN = 3, 2, 4, 3


@dataclass(frozen=True)
class Document:
    """Tokens that belong together, with what a layout would say of them.

    Attributes:
        x: (n, dim) features.
        fields: per-token fields of the layout, each (n, ...).
        edges: (2, E) sender and receiver among the n tokens, or None.
        edge_attr: (E, k), or None.
    """

    x: Tensor
    fields: dict[str, Tensor]
    edges: Tensor | None = None
    edge_attr: Tensor | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    def part(self, start: int, stop: int) -> Document:
        """Tokens start to stop, without edges."""
        return Document(self.x[start:stop], {name: value[start:stop] for name, value in self.fields.items()})


@dataclass(frozen=True)
class Placed:
    """Documents in the rows of a batch.

    Attributes:
        x: (B, L, dim) features, junk at padding.
        layout: where the tokens live.
        slots: for each row, the places of its real tokens.
    """

    x: Tensor
    layout: Layout
    slots: list[Tensor]

    def pick(self, y: Tensor) -> list[Tensor]:
        """The real tokens of (B, L, dim) outputs, row by row."""
        return [row[slot] for row, slot in zip(y, self.slots, strict=True)]


class Bench:
    """A mixer in eval mode, float32, on the CPU, with every parameter moved a little, and inputs for it.

    Args:
        mixer: left unchanged; the bench measures copies.
        length: L of the laws, a few times the windows of the mixer.
        seed: of all random numbers.
        grid_axes: axes of the grids for a mixer that needs one.
    """

    def __init__(self, mixer: TokenMixer, *, length: int = 32, seed: int = 0, grid_axes: int = 2) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.length, self.grid_axes, self.needs = length, grid_axes, tuple(mixer.needs)
        self.subject = copy.deepcopy(mixer).to("cpu", torch.float32).eval()
        self.perturb(self.subject)

    def copy(self, dtype: torch.dtype = torch.float32) -> TokenMixer:
        """An independent copy of the mixer."""
        return copy.deepcopy(self.subject).to(dtype)

    def perturb(self, mixer: TokenMixer) -> None:
        """Move every parameter a little, so that none is zero or like its neighbours."""
        with torch.no_grad():
            for parameter in mixer.parameters():
                if parameter.is_floating_point():
                    size = 0.05 + 0.1 * parameter.abs().mean()
                    parameter.add_(size * torch.randn(parameter.shape, generator=self.generator))

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normal numbers."""
        return torch.randn(shape, generator=self.generator).to(dtype)

    def document(self, length: int, dtype: torch.dtype = torch.float32) -> Document:
        """A random document with every per-token field and edges that the mixer needs."""
        fields = {
            "coords": lambda: self.normal(length, SPACE, dtype=dtype),
            "normals": lambda: torch.nn.functional.normalize(self.normal(length, 3, dtype=dtype), dim=-1),
            "modality": lambda: torch.randint(MODALITIES, (length,), generator=self.generator),
            "positions": lambda: torch.arange(length),
        }
        wanted = {name: make() for name, make in fields.items() if name in self.needs}
        edges = edge_attr = None
        if "edges" in self.needs or "edge_attr" in self.needs:
            pairs = torch.randperm(length * length, generator=self.generator)[: EDGES_PER_TOKEN * length]
            pairs = pairs[pairs // length != pairs % length]
            edges = torch.stack([pairs // length, pairs % length])
            if "edge_attr" in self.needs:
                edge_attr = self.normal(edges.shape[1], EDGE_WIDTH, dtype=dtype)
        return Document(self.normal(length, self.subject.dim, dtype=dtype), wanted, edges, edge_attr)

    def documents(self, *lengths: int, dtype: torch.dtype = torch.float32) -> list[Document]:
        """Random documents."""
        return [self.document(length, dtype) for length in lengths]

    def grid(self, length: int) -> tuple[int, ...] | None:
        """Axes with `length` cells, as even as they can be; None unless the mixer needs a grid."""
        if "grid" not in self.needs:
            return None
        axes: list[int] = []
        for remaining in range(self.grid_axes, 0, -1):
            side = round(length ** (1 / remaining))
            axes.append(length if remaining == 1 else max(n for n in range(1, side + 1) if length % n == 0))
            length //= axes[-1]
        return tuple(axes)

    def slots(self, side: Side | None, count: int, length: int) -> Tensor:
        """Places of `count` real tokens among `length`."""
        if side == "left":
            return torch.arange(length - count, length)
        if side == "scattered":
            return torch.randperm(length, generator=self.generator)[:count].sort().values
        return torch.arange(count)

    def place(
        self, rows: list[Document], side: Side | None = None, length: int | None = None, junk: Junk = "zero"
    ) -> Placed:
        """Put one document in each row; side None: rows of one length without a mask."""
        length = max(map(len, rows)) if length is None else length
        slots = [self.slots(side, len(row), length) for row in rows]
        x = self.junk(junk, len(rows), length, rows[0].x)
        fields: dict[str, Any] = {}
        for name, value in rows[0].fields.items():
            shape = (len(rows), length, *value.shape[1:])
            noise = self.normal(*shape).to(value.dtype) if value.is_floating_point() else torch.zeros(shape)
            fields[name] = noise.to(value.dtype)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        edges = []
        for b, (row, slot) in enumerate(zip(rows, slots, strict=True)):
            x[b, slot] = row.x
            mask[b, slot] = True
            for name, value in row.fields.items():
                fields[name][b, slot] = value
            if row.edges is not None:
                edges.append(slot[row.edges] + b * length)
        attributes = [row.edge_attr for row in rows if row.edge_attr is not None]
        layout = Layout(
            mask=None if side is None else mask,
            grid=self.grid(length),
            edges=torch.cat(edges, dim=1) if edges else None,
            edge_attr=torch.cat(attributes) if attributes else None,
            **fields,
        )
        return Placed(x, layout, slots)

    def alone(self, mixer: TokenMixer, document: Document) -> Tensor:
        """(n, dim) outputs of a document in a batch of its own, without padding."""
        placed = self.place([document])
        return mixer(placed.x, placed.layout if placed.layout.fields() else None)[0]

    def junk(self, kind: Junk, rows: int, length: int, like: Tensor) -> Tensor:
        """(rows, length, dim) contents of padding, in the type of `like`."""
        shape = (rows, length, like.shape[1])
        if kind == "large":
            return 1e4 * self.normal(*shape, dtype=like.dtype)
        return torch.full(shape, {"zero": 0.0, "nan": float("nan"), "inf": float("inf")}[kind], dtype=like.dtype)


def join(documents: list[Document], numbers: list[int] | None = None) -> Document:
    """Documents one after the other: packed in segments of these numbers, or as one longer document (None)."""
    fields = {name: torch.cat([d.fields[name] for d in documents]) for name in documents[0].fields}
    x = torch.cat([d.x for d in documents])
    if numbers is not None:
        fields["segments"] = torch.cat([torch.full((len(d),), n) for d, n in zip(documents, numbers, strict=True)])
    elif "positions" in fields:
        fields["positions"] = torch.arange(len(x))
    edges, before = [], 0
    for d in documents:
        if d.edges is not None:
            edges.append(d.edges + before)
        before += len(d)
    attributes = [d.edge_attr for d in documents if d.edge_attr is not None]
    return Document(
        x, fields, torch.cat(edges, dim=1) if edges else None, torch.cat(attributes) if attributes else None
    )


def tile(layout: Layout, rows: int, length: int) -> Layout:
    """The layout of one row of `length` tokens, for `rows` equal ones."""
    changes: dict[str, Any] = {}
    for name in ("mask", "segments", "positions", "coords", "normals", "modality"):
        value = getattr(layout, name)
        if value is not None:
            changes[name] = value.expand(rows, *value.shape[1:])
    if layout.edges is not None:
        shifts = length * torch.arange(rows).repeat_interleave(layout.edges.shape[1])
        changes["edges"] = layout.edges.repeat(1, rows) + shifts
    if layout.edge_attr is not None:
        changes["edge_attr"] = layout.edge_attr.repeat(rows, 1)
    return replace(layout, **changes)


def cut(layout: Layout, start: int, stop: int) -> Layout:
    """Tokens start to stop of a layout without grid and edges."""
    fields = {name: getattr(layout, name)[:, start:stop] for name in layout.fields()}
    return Layout(**fields)


def cast(layout: Layout, dtype: torch.dtype) -> Layout:
    """The same layout with its floats in another type."""
    names = [name for name in ("coords", "normals", "edge_attr") if getattr(layout, name) is not None]
    changes: dict[str, Any] = {name: getattr(layout, name).to(dtype) for name in names}
    return replace(layout, **changes)
