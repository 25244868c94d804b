"""Where tokens live: one description for text, speech, images, point clouds, graphs and proteins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from tokenmix.layout_checks import INTEGER, PER_TOKEN, check_layout
from tokenmix.token_order import Aligned, put_tokens, reversal, take_tokens

__all__ = ["Aligned", "Layout", "put_tokens", "take_tokens"]

T = TypeVar("T")


@dataclass(frozen=True, eq=False, kw_only=True)
class Layout:
    """Where the tokens of a batch live. Every field is optional.

    A layout says nothing about features: the same layout serves every mixer of a stack, and the
    same mixer serves a sequence, an image, a cloud or a graph, as far as the fields it needs are there.

    Args:
        mask: (B, L) bool, True where a token is real. None means that all are.
        segments: (B, L) integers, one number for each document packed in a row; tokens mix only
            inside a segment. In a row that is streamed, a new document is where the number changes.
        positions: (B, L) integers, the place in the sequence. Default: the count of real tokens so
            far in the document, so that left padding costs nothing.
        grid: 1 to 3 axis lengths whose product is L (image, video, volume, spectrogram).
        coords: (B, L, k) floats, the place in space.
        normals: (B, L, 3) floats, the orientation at a point.
        edges: (2, E) integers, sender and receiver, as indices into the flattened (B*L) tokens.
        edge_attr: (E, k) floats, features of the edges.
        modality: (B, L) integers, which modality a token belongs to.

    Raises:
        ValueError, TypeError: when the layout is used with tokens that it does not fit; the message
            names the field, what was expected and what was found.

    Example:
        >>> layout = Layout.from_lengths([3, 1])
        >>> layout.mask.tolist()
        [[True, True, True], [True, False, False]]
    """

    mask: Tensor | None = None
    segments: Tensor | None = None
    positions: Tensor | None = None
    grid: tuple[int, ...] | None = None
    coords: Tensor | None = None
    normals: Tensor | None = None
    edges: Tensor | None = None
    edge_attr: Tensor | None = None
    modality: Tensor | None = None
    _aligned: bool = dataclasses.field(default=False, init=False, repr=False)
    _route: Any = dataclasses.field(default=None, init=False, repr=False)  # of `tokenmix.routed.with_route`
    _memory: dict[tuple[object, ...], tuple[object, object]] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    # ------------------------------------------------------------------ constructors

    @classmethod
    def from_lengths(cls, lengths: Tensor | list[int], length: int | None = None) -> Layout:
        """Right-padded rows of the given lengths.

        Args:
            lengths: (B,) number of real tokens in each row.
            length: L; default the longest row.

        Raises:
            ValueError: lengths of another shape or type, or outside 0 to L.

        Example:
            >>> Layout.from_lengths([2, 1]).mask.tolist()
            [[True, True], [True, False]]
        """
        counts = torch.as_tensor(lengths)
        if counts.dim() != 1 or counts.is_floating_point():
            raise ValueError(
                f"lengths: expected one integer a row, found shape {tuple(counts.shape)} of {counts.dtype}"
            )
        longest = int(counts.max()) if counts.numel() else 0
        if length is None:
            length = longest
        if longest > length or (counts.numel() and int(counts.min()) < 0):
            raise ValueError(f"lengths: expected values from 0 to {length}, found {counts.tolist()}")
        return cls(mask=torch.arange(length, device=counts.device) < counts[:, None])

    @classmethod
    def from_padding_mask(cls, attention_mask: Tensor) -> Layout:
        """From Hugging Face's `attention_mask`: (B, L), 1 where a token is real and 0 where it is padding.

        Raises:
            TypeError, ValueError: no tensor, another shape, or values other than 0 and 1.

        Example:
            >>> Layout.from_padding_mask(torch.tensor([[0, 1, 1]])).mask.tolist()
            [[False, True, True]]
        """
        if not isinstance(attention_mask, Tensor):
            raise TypeError(f"attention_mask: expected a tensor, found {type(attention_mask).__name__}")
        if attention_mask.dim() != 2:
            raise ValueError(f"attention_mask: expected shape (B, L), found {tuple(attention_mask.shape)}")
        if attention_mask.dtype == torch.bool:
            return cls(mask=attention_mask)
        if not bool(((attention_mask == 0) | (attention_mask == 1)).all()):
            raise ValueError(
                "attention_mask: expected only 0 (padding) and 1 (real), found values from "
                f"{attention_mask.min().item()} to {attention_mask.max().item()}"
            )
        return cls(mask=attention_mask != 0)

    @classmethod
    def from_cu_seqlens(cls, cu_seqlens: Tensor) -> Layout:
        """Documents packed in one row, from their cumulative lengths (FlashAttention's convention).

        Documents are numbered from 0 in each call: a streamed chunk that opens with a new document needs
        `segments` of its own, with another number than the document before.

        Args:
            cu_seqlens: (documents + 1,) integers that start at 0 and increase; the last is L.

        Raises:
            ValueError: another shape or type, or numbers that do not increase from 0.

        Example:
            >>> Layout.from_cu_seqlens(torch.tensor([0, 2, 5])).segments.tolist()
            [[0, 0, 1, 1, 1]]
        """
        if not isinstance(cu_seqlens, Tensor):
            raise TypeError(f"cu_seqlens: expected a tensor, found {type(cu_seqlens).__name__}")
        if cu_seqlens.dim() != 1 or cu_seqlens.numel() < 2 or cu_seqlens.dtype not in INTEGER:
            raise ValueError(
                "cu_seqlens: expected 1-D integers, at least [0, L], "
                f"found shape {tuple(cu_seqlens.shape)} of {cu_seqlens.dtype}"
            )
        lengths = cu_seqlens.long().diff()
        if int(cu_seqlens[0]) != 0 or bool((lengths <= 0).any()):
            raise ValueError(f"cu_seqlens: expected increasing integers from 0, found {cu_seqlens.tolist()}")
        documents = torch.arange(lengths.numel(), device=cu_seqlens.device)
        return cls(segments=documents.repeat_interleave(lengths)[None])

    @classmethod
    def from_pyg(cls, data: Any) -> Layout:
        """From a `torch_geometric` Data or Batch: one row that holds all nodes, one segment a graph.

        Args:
            data: any object with `num_nodes` and, where it has them, `edge_index` (2, E), `edge_attr`,
                `pos` (nodes, k), `normal` (nodes, 3) and `batch` (nodes,).
        """
        if getattr(data, "num_nodes", None) is None:
            raise TypeError(f"data: expected a torch_geometric Data or Batch, found {type(data).__name__}")
        batch, pos, normal = (getattr(data, name, None) for name in ("batch", "pos", "normal"))
        edge_attr = getattr(data, "edge_attr", None)
        if edge_attr is not None and edge_attr.dim() == 1:
            edge_attr = edge_attr[:, None]
        return cls(
            segments=None if batch is None else batch[None],
            coords=None if pos is None else pos[None],
            normals=None if normal is None else normal[None],
            edges=getattr(data, "edge_index", None),
            edge_attr=edge_attr,
        )

    # ------------------------------------------------------------------ use

    def fields(self) -> tuple[str, ...]:
        """Names of the fields that are there.

        Example:
            >>> Layout(grid=(2, 2)).fields()
            ('grid',)
        """
        names = (f.name for f in dataclasses.fields(self) if f.init)
        return tuple(name for name in names if getattr(self, name) is not None)

    def validate(self, batch: int, length: int, device: torch.device | None = None) -> None:
        """Refuse a field that does not fit (batch, length) tokens on `device`.

        Raises:
            ValueError: wrong shape, value or device. TypeError: wrong type.
        """
        self.remember(("valid", batch, length, device), None, lambda: check_layout(self, batch, length, device))

    def remember(self, key: tuple[object, ...], of: object, make: Callable[[], T]) -> T:
        """What `make()` gives, computed once for all layers that read this layout.

        Outside torch.compile, one value is kept for each key, as long as it is asked for with the same `of`. The
        tensors of a layout must not be written to while it is in use.

        Args:
            key: what is computed, and from which values.
            of: the object that it is computed from, besides the layout.
            make: computes it.

        Example:
            >>> layout, numbers = Layout(), [1, 2]
            >>> layout.remember(("sum",), numbers, lambda: sum(numbers)), layout.remember(("sum",), numbers, int)
            (3, 3)
        """
        if torch.compiler.is_compiling():
            return make()
        key = (*key, torch.is_inference_mode_enabled())  # what is made there cannot be used in training
        found = self._memory.get(key)
        if found is None or found[0] is not of:
            found = self._memory[key] = (of, make())
        return cast(T, found[1])

    def aligned(self, *, streamed: bool = False) -> Aligned:
        """Bring each row's real tokens to its front, documents one after the other, order kept.

        Left, right and scattered padding become the same thing, so a mixer that runs along the row
        needs no other case. A layout with neither mask nor segments is returned as it is. The grid
        is dropped where tokens move.

        Args:
            streamed: the row is a chunk of a longer one, so its documents stay in the order they came.

        Example:
            >>> layout, order = Layout(mask=torch.tensor([[False, True, True]])).aligned()
            >>> layout.mask.tolist(), order.tolist()
            ([[True, True, False]], [[1, 2, 0]])
        """
        segments = None if streamed else self.segments
        fields = [f for f in (self.mask, segments) if f is not None]
        if self._aligned or not fields:
            return Aligned(self, None)
        key = torch.zeros_like(fields[0], dtype=torch.int64) if segments is None else segments.long()
        if self.mask is not None:
            key = key.masked_fill(~self.mask, torch.iinfo(torch.int64).max)
        order = key.argsort(dim=1, stable=True)
        layout = self.permuted(order)
        object.__setattr__(layout, "_aligned", True)  # frozen for users; `dataclasses.replace` forgets it
        return Aligned(layout, order)

    def permuted(self, order: Tensor) -> Layout:
        """The same layout for tokens taken in another order.

        Args:
            order: (B, L) int64; new token i of row b is old token `order[b, i]`. The grid is dropped.
        """
        changes: dict[str, Any] = {}
        for name in PER_TOKEN:
            value = getattr(self, name)
            if value is not None:
                changes[name] = take_tokens(value, order)
        if self.edges is not None:
            rows, length = order.shape
            place = torch.empty_like(order).scatter_(
                1, order, torch.arange(length, device=order.device).expand(rows, -1)
            )
            place = (place + length * torch.arange(rows, device=order.device)[:, None]).flatten()
            changes["edges"] = place[self.edges.long()]
        return dataclasses.replace(self, grid=None, **changes)

    def reversed(self, batch: int, length: int, device: torch.device | None = None) -> tuple[Layout, Tensor]:
        """The layout of each row's real tokens from last to first, and the order (B, L), which is its own inverse.

        For a layout from `aligned`: padding stays at the end. Positions count from the other end. Edges are carried
        along, and the grid is dropped.

        Args:
            batch, length: numbers of rows and of tokens, B and L.
            device: of the order.

        Example:
            >>> layout, order = Layout.from_lengths([2, 3]).reversed(2, 3)
            >>> order.tolist(), layout.mask.tolist()[0]
            ([[1, 0, 2], [2, 1, 0]], [True, True, False])
        """
        key = ("reversed", batch, length, device)
        return self.remember(key, None, lambda: self._reverse(reversal(self.counts(), batch, length, device)))

    def _reverse(self, order: Tensor) -> tuple[Layout, Tensor]:
        layout, places = self.permuted(order), self.positions
        if places is not None and layout.positions is not None:
            layout = dataclasses.replace(layout, positions=places.amax(1, keepdim=True) - layout.positions)
        object.__setattr__(layout, "_aligned", True)  # documents are contiguous, if from last to first
        return layout, order

    def counts(self) -> Tensor | None:
        """(B,) number of real tokens a row; None where all are."""
        return None if self.mask is None else self.mask.sum(1)

    def to(self, device: torch.device | str) -> Layout:
        """The same layout on another device."""
        moved = {
            f.name: getattr(self, f.name).to(device)
            for f in dataclasses.fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return dataclasses.replace(self, **moved)
