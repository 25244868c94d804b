"""What a `Layout` must look like to fit its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tokenmix.layout import Layout

INTEGER = (torch.int64, torch.int32, torch.int16, torch.uint8)
PER_TOKEN = ("mask", "segments", "positions", "coords", "normals", "modality")


def check_layout(layout: Layout, batch: int, length: int, device: torch.device | None) -> None:
    """Refuse a field that does not fit (batch, length) tokens on `device`; see `Layout.validate`."""
    tokens = f"({batch}, {length})"
    for name in PER_TOKEN:
        value = getattr(layout, name)
        if value is None:
            continue
        _check_tensor(name, value, device)
        extra = {"coords": 1, "normals": 1}.get(name, 0)
        wanted = {"coords": f"({batch}, {length}, k)", "normals": f"({batch}, {length}, 3)"}.get(name, tokens)
        fits = value.dim() == 2 + extra and tuple(value.shape[:2]) == (batch, length)
        if not fits or (name == "normals" and value.shape[2] != 3):
            raise ValueError(f"Layout.{name}: expected shape {wanted}, found {tuple(value.shape)}")
    _check_dtypes(layout)
    if layout.grid is not None:
        _check_grid(layout.grid, length)
    if layout.edges is not None:
        _check_edges(layout.edges, layout.edge_attr, batch * length, device)
    elif layout.edge_attr is not None:
        raise ValueError("Layout.edge_attr: expected together with edges, found edges=None")


def _check_tensor(name: str, value: Any, device: torch.device | None) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"Layout.{name}: expected a tensor, found {type(value).__name__}")
    if device is not None and value.device != device:
        raise ValueError(f"Layout.{name}: expected device {device} (that of the tokens), found {value.device}")


def _check_dtypes(layout: Layout) -> None:
    for name in PER_TOKEN:
        value = getattr(layout, name)
        if value is None:
            continue
        if name == "mask":
            fits, wanted = value.dtype == torch.bool, "bool (see Layout.from_padding_mask for a 0/1 mask)"
        elif name in ("coords", "normals"):
            fits, wanted = value.is_floating_point(), "floats"
        else:
            fits, wanted = value.dtype in INTEGER, "integers"
        if not fits:
            raise TypeError(f"Layout.{name}: expected {wanted}, found {value.dtype}")


def _check_grid(grid: tuple[int, ...], length: int) -> None:
    axes = tuple(grid) if isinstance(grid, (tuple, list)) else ()
    if not 1 <= len(axes) <= 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in axes):
        raise ValueError(f"Layout.grid: expected 1 to 3 positive integers, found {grid}")
    cells = 1
    for n in axes:
        cells *= n
    if cells != length:
        raise ValueError(f"Layout.grid: expected axes whose product is {length} tokens, found {axes} ({cells})")


def _check_edges(edges: Tensor, edge_attr: Tensor | None, tokens: int, device: torch.device | None) -> None:
    _check_tensor("edges", edges, device)
    if edges.dim() != 2 or edges.shape[0] != 2:
        raise ValueError(f"Layout.edges: expected shape (2, E), found {tuple(edges.shape)}")
    if edges.dtype not in INTEGER:
        raise TypeError(f"Layout.edges: expected integers, found {edges.dtype}")
    if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= tokens):
        raise ValueError(
            f"Layout.edges: expected indices from 0 to {tokens - 1}, found {int(edges.min())} to {int(edges.max())}"
        )
    if edge_attr is not None:
        _check_tensor("edge_attr", edge_attr, device)
        if not edge_attr.is_floating_point():
            raise TypeError(f"Layout.edge_attr: expected floats, found {edge_attr.dtype}")
        if edge_attr.dim() != 2 or edge_attr.shape[0] != edges.shape[1]:
            raise ValueError(f"Layout.edge_attr: expected shape ({edges.shape[1]}, k), found {tuple(edge_attr.shape)}")
