"""Masks that transformers makes for a registered attention: nothing, a code of the keys, or bits of every pair.

transformers asks the mask function of a name for one mask a forward, before the layers run, and hands it to the
attention function of every layer. Only the mask function knows how far the cache is, where padding lies and how
documents are packed, so it must be registered together with the attention function. It returns one of three things.

None
    Query i is column i of the keys, or the last column where it is the only one; every key there is real.
int32 of shape (B, 2 + kind, 1, n), the code
    The queries are the last of the first n keys. Channel 0 is the place of each key in its document plus 1, or 0 for
    padding; channel 1 is its document. `kind` is an index in `KINDS`: shapes can be read without waiting for a device.
uint8 of shape (B, 1, Q, K), the bits
    Bit 0: what the model lets a query read. Bit i + 1: what rule i of `AttentionSpec.rules()` leaves of it.

The code costs O(n) and serves training, padding, packing and growing caches. Bits cost as much as the mask of sdpa, and
serve where values cannot be read: static caches, torch.compile, and masks with rules of a model's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import masking_utils

from tokenmix.hf.attention_rules import AttentionSpec, Reads

KINDS = ("causal", "causal window", "all", "all window", "all documents")
MaskFunction = Callable[..., Tensor | None]


class Base(NamedTuple):
    """What a model itself lets queries read, where that is one of `KINDS`."""

    kind: str
    window: int | None = None  # keys on a side, itself included
    documents: Tensor | None = None  # (B, L)


def make_mask_function(spec: AttentionSpec) -> MaskFunction:
    """The mask function of a spec, with the signature that transformers' `AttentionMaskInterface` wants."""

    def mask_function(
        batch_size: int,
        q_length: int,
        kv_length: int,
        q_offset: int | Tensor = 0,
        kv_offset: int = 0,
        mask_function: Callable[..., Any] = masking_utils.causal_mask_function,
        attention_mask: Tensor | None = None,
        allow_is_causal_skip: bool = True,
        allow_is_bidirectional_skip: bool = False,
        config: Any = None,
        use_vmap: bool = False,
        device: torch.device | str = "cpu",
        **_: Any,
    ) -> Tensor | None:
        sizes = (batch_size, q_length, kv_length, q_offset, kv_offset)
        base = None if use_vmap else describe(mask_function, getattr(config, "sliding_window", None))
        tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]  # it is there
        known = not isinstance(q_offset, Tensor) or (q_length > 1 and not tracing)
        if base is not None and known:
            causal = base.kind.startswith("causal")
            if (allow_is_causal_skip if causal else allow_is_bidirectional_skip) or base.documents is not None:
                seen = int(q_offset) + q_length - kv_offset if causal else kv_length
                plain = not causal and getattr(config, "is_causal", None) is False  # its modules may still say causal
                return _code(base, sizes, seen, attention_mask, device, tracing, may_skip=not plain)
        dense: Any = masking_utils.sdpa_mask(
            batch_size,
            q_length,
            kv_length,
            q_offset,  # type: ignore[arg-type]  # a tensor for static caches
            kv_offset,
            mask_function=mask_function,
            attention_mask=attention_mask,
            allow_is_causal_skip=False,
            allow_is_bidirectional_skip=False,
            use_vmap=use_vmap,
            device=device,
        )
        if base is not None and known and q_length > 1:  # single tokens of static caches have masks, too
            return dense  # a model that wants every entry of it, to change them
        return add_bits(dense, spec.of(config).rules(), sizes, attention_mask)

    return mask_function


# ---------------------------------------------------------------------- the code


def _code(
    base: Base,
    sizes: tuple[int, int, int, int | Tensor, int],
    seen: int,
    attention_mask: Tensor | None,
    device: torch.device | str,
    tracing: bool,
    may_skip: bool,
) -> Tensor | None:
    batch, queries, keys, _, offset = sizes
    real, first = real_keys(attention_mask, seen, offset)
    open_window = base.window is None or seen <= base.window
    padded = real is not None and (tracing or not bool(real.all()))
    if may_skip and open_window and not padded and base.documents is None:
        placed = offset == 0 and seen == (keys if queries == 1 else queries)
        if placed or not base.kind.startswith("causal"):
            return None
    column = torch.arange(offset, offset + seen, device=device)
    place = column if first is None else column - first[:, None]
    place = place.expand(batch, -1)
    document = torch.zeros_like(place)
    if base.documents is not None:
        document = base.documents.expand(batch, -1)
        starts = F.pad(document[:, 1:] != document[:, :-1], (1, 0), value=True)
        place = column - torch.where(starts, column, 0).cummax(1).values
    place = place + 1 if real is None else torch.where(real, place + 1, 0)
    kind = base.kind.removesuffix(" window") if open_window else base.kind
    if kind == "all" and base.documents is not None:
        kind = "all documents"
    channels = [place, document, *[document] * KINDS.index(kind)]
    return torch.stack(channels, dim=1)[:, :, None].to(torch.int32)


def real_keys(attention_mask: Tensor | None, seen: int, offset: int) -> tuple[Tensor | None, Tensor | None]:
    """(B, seen) whether keys from `offset` on are tokens, and (B,) the first column that is one."""
    if attention_mask is None:
        return None, None
    mask = attention_mask.bool()
    missing = seen + offset - mask.shape[-1]
    mask = F.pad(mask, (0, missing)) if missing > 0 else mask
    return mask[:, offset : offset + seen], mask.int().argmax(-1)


# ---------------------------------------------------------------------- the bits


def add_bits(
    dense: Tensor, rules: list[Reads], sizes: tuple[int, int, int, int | Tensor, int], attention_mask: Tensor | None
) -> Tensor:
    """(B, 1, Q, K) bool of what the model lets queries read -> uint8 bits of that, and of what each rule leaves."""
    _, queries, keys, q_offset, kv_offset = sizes
    device = dense.device
    query = torch.arange(queries, device=device) + q_offset
    key = torch.arange(keys, device=device) + kv_offset
    if queries == keys and isinstance(q_offset, int) and q_offset == kv_offset == 0:
        first = _first_of_document(dense)
    else:  # with a cache a row is one document
        start = query.new_zeros(1) if attention_mask is None else attention_mask.int().argmax(-1)
        first = start[:, None]  # (B|1, 1)
    bits = dense.to(torch.uint8)
    for i, reads in enumerate(rules):
        size: Any = reads.size
        if reads.cells:
            near = ((query - first) // size)[:, None, :, None] == ((key - first) // size)[:, None, None, :]
        else:
            distance = query[:, None] - key
            near = ((distance < size) & (distance > -size))[None, None]
        bits = bits | ((dense & near).to(torch.uint8) << (i + 1))
    return bits


def _first_of_document(dense: Tensor) -> Tensor:
    """(B, L) the column where the document of each column starts: the first token, or one that cannot see the last."""
    visible = dense[:, 0]
    real = visible.diagonal(0, 1, 2)  # (B, L) whether a token sees itself
    before = F.pad(visible.diagonal(-1, 1, 2), (1, 0))  # whether it sees the one before
    column = torch.arange(dense.shape[-1], device=dense.device)
    any_before = F.pad(real[:, :-1], (1, 0)).int().cummax(1).values.bool()
    starts = real & ~before & (F.pad(real[:, :-1], (1, 0)) | ~any_before)
    return torch.where(starts, column, 0).cummax(1).values


# ---------------------------------------------------------------------- what a model wants


def describe(function: Callable[..., Any], window: int | None) -> Base | None:
    """What a mask function of transformers means, or None where it is not one of the plain kinds.

    Args:
        function: what transformers combined for the mask: causal, a window, packed documents.
        window: `config.sliding_window`. Another window is not plain: the attention function reads it from there.
    """
    if function is masking_utils.causal_mask_function:
        return Base("causal")
    if function is masking_utils.bidirectional_mask_function:
        return Base("all")
    if torch.compiler.is_compiling():
        return None
    return _combine(list(_atoms(function)), window)


def _combine(atoms: list[tuple[str, dict[str, Any]]], window: int | None) -> Base | None:
    kind, reach, documents = None, None, None
    for name, cells in atoms:
        if name == "causal_mask_function" and kind != "all":
            kind = "causal"
        elif name == "bidirectional_mask_function" and kind != "causal":
            kind = "all"
        elif name in ("sliding_window_overlay", "sliding_window_bidirectional_overlay"):
            if reach is not None or window is None or cells.get("sliding_window") != window:
                return None
            reach = window if name == "sliding_window_overlay" else window + 1  # there the distance itself is counted
            if (name == "sliding_window_overlay") != (kind != "all" and "causal_mask_function" in dict(atoms)):
                return None
        elif name == "packed_sequence_mask_function" and documents is None:
            documents = cells.get("packed_sequence_mask")
        else:
            return None
    if kind is None:
        return None
    return Base(kind if reach is None else f"{kind} window", reach, documents)


def _atoms(function: Any) -> list[tuple[str, dict[str, Any]]]:
    """(name of the function or of its maker, its closure) of all that a mask function intersects."""
    code = getattr(function, "__code__", None)
    if code is None or getattr(function, "__module__", None) != masking_utils.__name__:
        return [("", {})]
    cells = {name: cell.cell_contents for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)}
    maker = function.__qualname__.split(".")[0]
    if maker == "and_masks":
        return [atom for member in cells["mask_functions"] for atom in _atoms(member)]
    if maker == "remap_positions_for_packed_sequence":  # places inside a document differ as columns do
        return _atoms(cells["mask_function"])
    return [(maker, cells)]
