"""From the arguments of a Hugging Face model to a `Layout`: masks, packed rows, places."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache

from tokenmix.layout import Layout, put_tokens
from tokenmix.state import MixerState, chunk_places


def token_layout(
    shape: tuple[int, int],
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    segment_ids: Tensor | None,
    columns: int | None,
) -> Layout:
    """Where the (B, L) tokens of a call live.

    Args:
        shape: (B, L).
        attention_mask: (B, L) or (B, columns + L), 1 for real tokens and 0 for padding.
        position_ids: (B, L) or (1, L) places.
        segment_ids: (B, L) or (B, columns + L) document numbers; default what `position_ids` tell, where there
            is neither a mask nor a cache.
        columns: tokens already in the cache, padding included; None without a cache.

    Raises:
        ValueError: a mask, places or segments of another shape.

    Example:
        >>> token_layout((1, 4), None, torch.tensor([[0, 1, 0, 1]]), None, None).segments.tolist()
        [[0, 0, 1, 1]]
    """
    batch, length = shape
    mask = None
    if attention_mask is not None:
        mask = padding_mask(last_columns("attention_mask", attention_mask, shape, columns or 0))
    if segment_ids is not None:
        segment_ids = last_columns("segment_ids", segment_ids, shape, columns or 0)
    if position_ids is not None:
        if tuple(position_ids.shape) not in (shape, (1, length)):
            raise ValueError(
                f"position_ids: expected shape {shape} or (1, {length}), found {tuple(position_ids.shape)}"
            )
        position_ids = position_ids.expand(batch, -1)
        if attention_mask is None and segment_ids is None and columns is None:
            segment_ids = packed_segments(position_ids)
    return Layout(mask=mask, segments=segment_ids, positions=position_ids)


def call_layout(
    layout: Layout | None,
    shape: tuple[int, int],
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    segment_ids: Tensor | None,
    cache: Cache | None,
) -> Layout:
    """The layout of a call that may bring it whole, or told by Hugging Face's arguments; see `token_layout`.

    Raises:
        ValueError: both.

    Example:
        >>> call_layout(None, (1, 2), torch.tensor([[0, 1]]), None, None, None).mask.tolist()
        [[False, True]]
    """
    if layout is None:
        columns = None if cache is None else int(cache.get_seq_length())
        return token_layout(shape, attention_mask, position_ids, segment_ids, columns)
    if attention_mask is not None or position_ids is not None or segment_ids is not None:
        raise ValueError("layout: expected it without attention_mask, position_ids and segment_ids, found both")
    return layout


def last_columns(name: str, values: Tensor, shape: tuple[int, int], columns: int) -> Tensor:
    """The last (B, L) columns of (B, L) or (B, columns + L) values: those of this call's tokens.

    Raises:
        ValueError: another shape.
    """
    batch, length = shape
    if tuple(values.shape) not in (shape, (batch, columns + length)):
        wanted = f"{shape}" + (f" or {(batch, columns + length)}" if columns else "")
        hint = "; which tokens may see which is the mixers' own rule" if values.dim() > 2 else ""
        raise ValueError(f"{name}: expected shape {wanted}, found {tuple(values.shape)}{hint}")
    return values[:, -length:]


def padding_mask(attention_mask: Tensor) -> Tensor | None:
    """(B, L) bool of a mask with 1 for real tokens and 0 for padding; None where all tokens are real.

    Raises:
        ValueError: values other than 0 and 1.

    Example:
        >>> padding_mask(torch.tensor([[1, 1]])) is None
        True
    """
    mask = Layout.from_padding_mask(attention_mask).mask
    return None if mask is None or bool(mask.all()) else mask


def packed_segments(position_ids: Tensor) -> Tensor | None:
    """(B, L) document numbers where places do not go up by one (transformers' convention); None for one document.

    Example:
        >>> packed_segments(torch.tensor([[0, 1, 2, 0, 1]])).tolist()
        [[0, 0, 0, 1, 1]]
    """
    starts = position_ids.diff(dim=1) != 1
    return F.pad(starts, (1, 0)).cumsum(1) if bool(starts.any()) else None


def token_places(layout: Layout, length: int, state: MixerState | None, device: torch.device) -> Tensor:
    """(B, L) or (1, L) places of the tokens in their documents: the layout's, or a count of real tokens.

    Example:
        >>> layout = Layout(mask=torch.tensor([[False, True, True]]))
        >>> token_places(layout, 3, None, torch.device("cpu")).tolist()
        [[0, 0, 1]]
    """
    places = layout.positions
    if places is None:
        aligned, order = layout.aligned()
        places = chunk_places(length, aligned, state, device)
        if order is not None:
            places = put_tokens(places.expand(order.shape), order)
    return places if layout.mask is None else places.masked_fill(~layout.mask, 0)


def input_shape(input_ids: Tensor | None, inputs_embeds: Tensor | None, hidden_size: int) -> tuple[int, int]:
    """(B, L) of a call's tokens, or of the features given instead; their values are not looked at.

    Raises:
        ValueError, TypeError: both or neither, or another shape or type.

    Example:
        >>> input_shape(None, torch.zeros(2, 3, 8), hidden_size=8)
        (2, 3)
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("input_ids: expected either input_ids or inputs_embeds, found both or neither")
    if input_ids is not None:
        check_token_shape("input_ids", input_ids)
        return input_ids.shape[0], input_ids.shape[1]
    if not isinstance(inputs_embeds, Tensor) or inputs_embeds.dim() != 3 or inputs_embeds.shape[2] != hidden_size:
        found = tuple(inputs_embeds.shape) if isinstance(inputs_embeds, Tensor) else type(inputs_embeds).__name__
        raise ValueError(f"inputs_embeds: expected shape (B, L, hidden_size={hidden_size}), found {found}")
    return inputs_embeds.shape[0], inputs_embeds.shape[1]


def check_token_shape(name: str, tokens: object) -> None:
    """Refuse what is no (B, L) tensor of integers."""
    if not isinstance(tokens, Tensor) or tokens.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name}: expected int64 tokens, found {getattr(tokens, 'dtype', type(tokens).__name__)}")
    if tokens.dim() != 2:
        raise ValueError(f"{name}: expected shape (B, L), found {tuple(tokens.shape)}")


def last_tokens(features: Tensor, keep: int | Tensor) -> Tensor:
    """The features of the last `keep` tokens (0: of all), or of those at these places.

    Example:
        >>> last_tokens(torch.zeros(1, 5, 2), 3).shape, last_tokens(torch.zeros(1, 5, 2), 0).shape
        (torch.Size([1, 3, 2]), torch.Size([1, 5, 2]))
    """
    return features[:, -keep or None :] if isinstance(keep, int) else features[:, keep]


def chosen_states(asked: bool | int | Sequence[int] | None, count: int) -> list[bool] | None:
    """Which hidden states `output_hidden_states` asks for, as transformers 5.24 reads it; None for none of them.

    Args:
        asked: True for all, or the index or indices of some; they may be negative, and choose nothing out of range.
        count: of the states, before and after each layer.

    Raises:
        TypeError: anything else.

    Example:
        >>> chosen_states([0, -1], 3), chosen_states(True, 2), chosen_states(False, 2)
        ([True, False, True], [True, True], None)
    """
    if asked is None or isinstance(asked, bool):
        return [True] * count if asked else None
    indices = [asked] if isinstance(asked, int) else asked
    if not isinstance(indices, Sequence) or any(not isinstance(i, int) or isinstance(i, bool) for i in indices):
        raise TypeError(f"output_hidden_states: expected True, False, or indices of layers, found {asked!r}")
    return [i in indices or i - count in indices for i in range(count)] if asked else None


def check_tokens(name: str, tokens: Tensor, vocab_size: int) -> None:
    """Refuse what is no token of the vocabulary (values are looked at on the CPU, outside torch.compile)."""
    check_token_shape(name, tokens)
    if not can_look(tokens):
        return
    smallest, largest = int(tokens.min()), int(tokens.max())
    if smallest < 0 or largest >= vocab_size:
        raise ValueError(f"{name}: expected 0 to vocab_size - 1 = {vocab_size - 1}, found {smallest} to {largest}")


def can_look(values: Tensor) -> bool:
    """Whether reading values costs next to nothing: on the CPU, outside torch.compile."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling() and values.numel() > 0


_ARGUMENTS = (
    "input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "labels", "use_cache",
    "segment_ids", "logits_to_keep", "output_hidden_states", "layout", "start_positions", "end_positions", "cache",
    "modality_ids", "features", "noise_level",
)  # fmt: skip


def refuse_misspelt(others: Mapping[str, Any], model: str) -> None:
    """Refuse a keyword that is almost an argument, or another head's: transformers would take it and never read it.

    Args:
        others: the keywords that a forward does not name, with their values.
        model: the name of its class.

    Raises:
        TypeError: naming the nearest argument.

    Example:
        >>> refuse_misspelt({"atention_mask": 1}, "MixerModel")
        Traceback (most recent call last):
        ...
        TypeError: atention_mask: not an argument of MixerModel.forward; did you mean 'attention_mask'?
    """
    for name, value in others.items():
        if name in _ARGUMENTS:
            if value is None or value is False:
                continue
            raise TypeError(f"{name}: not an argument of {model}.forward")
        close = difflib.get_close_matches(name, _ARGUMENTS, n=1, cutoff=0.85)
        if close:
            raise TypeError(f"{name}: not an argument of {model}.forward; did you mean {close[0]!r}?")
