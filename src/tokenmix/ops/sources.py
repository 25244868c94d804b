"""Sources of attention: which keys a query may read. `tokenmix.ops.attend.attend` reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenmix.ops.common import check_positive

_INTEGER = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True, eq=False)
class Full:
    """Every key, or every key up to the query's own.

    reads(i) = {j : 0 <= j < Lk}; causal: {j : j <= Lk - Lq + i}, so that the last query is the last token.

    Args:
        causal: whether queries read only the past and themselves. Causal rows whose padding comes last need
            no `mask`: real queries never see it, and the fastest kernels take none.

    Example:
        >>> from tokenmix.ops.attend import attend
        >>> x = torch.tensor([1.0, 3.0]).view(1, 1, 2, 1)
        >>> attend(torch.zeros_like(x), x, x, Full(causal=True)).flatten().tolist()
        [1.0, 2.0]
    """

    causal: bool = False


@dataclass(frozen=True, eq=False)
class Band:
    """A sliding window, with itself counted. Memory O(L * window).

    causal: reads(i) = {j : i - window * dilation < j <= i and (i - j) mod dilation = 0};
    else: reads(i) = {j : |i - j| < window * dilation and (i - j) mod dilation = 0}.

    Args:
        window: keys read on a side, at least 1; 1 is the token alone.
        causal: whether queries read only the past and themselves.
        dilation: distance between the keys read, at least 1.

    Raises:
        ValueError, TypeError: `window` or `dilation` is not a positive integer.

    Example:
        >>> from tokenmix.ops.attend import attend
        >>> x = torch.tensor([1.0, 3.0, 5.0]).view(1, 1, 3, 1)
        >>> attend(torch.zeros_like(x), x, x, Band(window=2)).flatten().tolist()
        [1.0, 2.0, 4.0]
    """

    window: int
    causal: bool = True
    dilation: int = 1

    def __post_init__(self) -> None:
        check_positive("window", self.window)
        check_positive("dilation", self.dilation)
        if not isinstance(self.causal, bool):  # Band(7, 0) is not a window of 7 on one side
            raise TypeError(f"causal: expected True or False, found {self.causal!r}")


@dataclass(frozen=True, eq=False)
class Cells:
    """Disjoint groups of tokens: windows of an image, stripes, chunks, residue classes, voxels, clusters.

    reads(i) = {j in the same row : label_j = label_i}; causal: and j <= i. Tokens are brought together by a
    stable sort, and groups of like size (within a factor of 2) run together, so memory is O(sum of squares of group
    sizes). The sort is done once for a label tensor (and segments tensor): keep the tensor to keep the sort.

    Args:
        label: (L,) or (B, L) integers.
        causal: whether queries read only the past and themselves.

    Raises:
        ValueError, TypeError: a label of another shape or dtype.

    Example:
        >>> from tokenmix.ops.attend import attend
        >>> x = torch.tensor([1.0, 3.0, 5.0]).view(1, 1, 3, 1)
        >>> attend(torch.zeros_like(x), x, x, Cells(torch.tensor([0, 1, 0]))).flatten().tolist()
        [3.0, 3.0, 3.0]
    """

    label: Tensor
    causal: bool = False

    def __post_init__(self) -> None:
        _check_integers("label", self.label, "(L,) or (B, L)", (1, 2))


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Listed keys: nearest neighbours, senders of edges, sampled hops.

    reads(i) = {index_i1, ..., index_iK}; a key listed twice counts twice. Keys are gathered, at a cost of
    K * (D + E) numbers for each query and head; the other sources avoid that.

    Args:
        index: (L, K) or (B, L, K) int64 places of keys in the row; -1 for none.

    Raises:
        ValueError, TypeError: an index of another shape or dtype, or below -1.

    Example:
        >>> from tokenmix.ops.attend import attend
        >>> x = torch.tensor([1.0, 3.0]).view(1, 1, 2, 1)
        >>> attend(torch.zeros_like(x), x, x, Neighbours(torch.tensor([[1, 0], [-1, -1]]))).flatten().tolist()
        [2.0, 0.0]
    """

    index: Tensor
    highest: int = field(init=False, repr=False)  # read once, so that calls need not wait for the device

    def __post_init__(self) -> None:
        _check_integers("index", self.index, "(L, K) or (B, L, K)", (2, 3), (torch.int64,))
        lowest, highest = (int(x) for x in self.index.aminmax()) if self.index.numel() else (-1, -1)
        if lowest < -1:
            raise ValueError(f"index: expected places of keys, or -1 for none, found {lowest}")
        object.__setattr__(self, "highest", highest)


@dataclass(frozen=True, eq=False)
class Slots:
    """Keys and values that are not tokens: pooled, selected, learned, or from a codebook.

    Every query reads every slot s, with the score scale * q . k_s + log_weight_s. A slot that stands for n tokens
    has log_weight log n; one that is not there has -inf. `mask`, `segments` and `bias` of `attend` are about tokens
    and leave slots alone.

    Args:
        k: (S, D), (H, S, D) or (B, H, S, D) keys; a number of heads that divides H serves groups of heads.
        v: values, (S, E), (H, S, E) or (B, H, S, E), with as many dimensions as k.
        log_weight: (S,), (H, S) or (B, H, S), added to the scores; default 0.

    Raises:
        ValueError: shapes that do not fit together.

    Example:
        >>> from tokenmix.ops.attend import attend
        >>> slots = Slots(torch.zeros(2, 1), torch.tensor([[1.0], [5.0]]), torch.tensor([3.0, 1.0]).log())
        >>> attend(torch.ones(1, 1, 1, 1), None, None, slots).round(decimals=4).tolist()
        [[[[2.0]]]]
    """

    k: Tensor
    v: Tensor
    log_weight: Tensor | None = None

    def __post_init__(self) -> None:
        if self.k.dim() not in (2, 3, 4) or self.k.shape[:-1] != self.v.shape[:-1]:
            raise ValueError(
                "k, v of Slots: expected (S, D), (H, S, D) or (B, H, S, D), alike but for the last dimension, "
                f"found {tuple(self.k.shape)} and {tuple(self.v.shape)}"
            )
        weight = self.log_weight
        if weight is not None and (weight.dim() not in (1, 2, 3) or weight.shape[-1] != self.k.shape[-2]):
            raise ValueError(
                f"log_weight: expected (S,), (H, S) or (B, H, S) with S={self.k.shape[-2]}, found {tuple(weight.shape)}"
            )


@dataclass(frozen=True, eq=False)
class Span:
    """One interval of keys for each query: cached decoding, and chunks of packed rows.

    reads(i) of row b = {j : low_bi <= j < high_bi}.

    Args:
        low, high: (B, Lq) or (1, Lq) int64.

    Raises:
        ValueError, TypeError: another shape or dtype.

    Example:
        >>> from tokenmix.ops.attend import attend
        >>> x = torch.tensor([1.0, 3.0, 5.0]).view(1, 1, 3, 1)
        >>> last = Span(torch.tensor([[1]]), torch.tensor([[3]]))
        >>> attend(torch.zeros(1, 1, 1, 1), x, x, last).flatten().tolist()
        [4.0]
    """

    low: Tensor
    high: Tensor

    def __post_init__(self) -> None:
        _check_integers("low", self.low, "(B, Lq)", (2,), (torch.int64,))
        _check_integers("high", self.high, "(B, Lq)", (2,), (torch.int64,))
        if self.low.shape != self.high.shape:
            raise ValueError(
                f"low, high: expected one shape, found {tuple(self.low.shape)} and {tuple(self.high.shape)}"
            )


@dataclass(frozen=True, eq=False)
class Union:
    """Several sources under one softmax.

    reads(i) = the keys of all sources; a key that is in two of them counts twice. Members run apart, each in its own
    blocks, and are merged by their log-sum-exp. Without softmax, the members' results are added.

    Args:
        sources: at least one source.

    Raises:
        ValueError, TypeError: no source, or something that is not one.

    Example:
        >>> from tokenmix.ops.attend import attend
        >>> x = torch.tensor([1.0, 3.0]).view(1, 1, 2, 1)
        >>> slot = Slots(torch.zeros(1, 1), torch.tensor([[7.0]]))
        >>> attend(torch.zeros_like(x), x, x, Union((Band(1), slot))).flatten().tolist()
        [4.0, 5.0]
    """

    sources: tuple[Source, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        if not self.sources:
            raise ValueError("sources: expected at least one source, found none")
        for source in self.sources:
            check_source("sources", source)


@dataclass(frozen=True, eq=False)
class HeadSplit:
    """Groups of heads, each with a source of its own.

    Args:
        parts: (heads, source) pairs in the order of the heads; heads sum to H. With grouped keys, a part takes whole
            groups or lies inside one.

    Raises:
        ValueError, TypeError: no part, heads that are not positive, or something that is not a source.

    Example:
        >>> from tokenmix.ops.attend import attend
        >>> x = torch.tensor([1.0, 3.0]).expand(1, 2, 2).unsqueeze(-1)
        >>> attend(torch.zeros_like(x), x, x, HeadSplit([(1, Full()), (1, Band(1))])).flatten().tolist()
        [2.0, 2.0, 1.0, 3.0]
    """

    parts: tuple[tuple[int, Source], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple((heads, source) for heads, source in self.parts))
        if not self.parts:
            raise ValueError("parts: expected at least one (heads, source), found none")
        for heads, source in self.parts:
            check_positive("heads of parts", heads)
            check_source("parts", source)


Source = Full | Band | Cells | Neighbours | Slots | Span | Union | HeadSplit
_SOURCES = (Full, Band, Cells, Neighbours, Slots, Span, Union, HeadSplit)


def check_source(name: str, source: object) -> None:
    """Refuse anything that is not a source."""
    if not isinstance(source, _SOURCES):
        known = ", ".join(cls.__name__ for cls in _SOURCES)
        raise TypeError(f"{name}: expected one of {known}, found {type(source).__name__}")


def _check_integers(
    name: str, value: Tensor, shape: str, dims: tuple[int, ...], dtypes: tuple[torch.dtype, ...] = _INTEGER
) -> None:
    if not isinstance(value, Tensor) or value.dtype not in dtypes:
        expected = "int64" if len(dtypes) == 1 else "integers"
        raise TypeError(f"{name}: expected {expected} {shape}, found {getattr(value, 'dtype', type(value).__name__)}")
    if value.dim() not in dims:
        raise ValueError(f"{name}: expected shape {shape}, found {tuple(value.shape)}")
