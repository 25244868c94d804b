"""A mixer in the place of an attention: transformers' calling convention on the outside, ours on the inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokenmix.layout import Layout
from tokenmix.mixer import TokenMixer
from tokenmix.models.cache import mixer_layer
from tokenmix.models.inputs import packed_segments


class MixerAttention(nn.Module):
    """Called as the attention of any of the supported families is; answers with a token mixer.

    What the model says in its attention mask about each token (padding, documents packed in a row) is read into a
    `Layout`; what the mask says about pairs of tokens beyond that is the mixer's own business. The memory of
    generation is a layer of transformers' own cache.

    Args:
        mixer: any token mixer of the model's width.
        layer_idx: number of the layer, its place in the cache.

    Example:
        >>> from tokenmix.mixers import GAM
        >>> y, weights = MixerAttention(GAM(16, slots=8), layer_idx=0)(torch.zeros(1, 3, 16))
        >>> y.shape, weights
        (torch.Size([1, 3, 16]), None)
    """

    def __init__(self, mixer: TokenMixer, layer_idx: int) -> None:
        super().__init__()
        self.mixer = mixer
        self.layer_idx = layer_idx
        self.is_causal = mixer.is_causal
        self.carried: tuple[str, ...] = ()  # what `swap_mixers` took over from the attention

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """Mix.

        Args:
            hidden_states: (B, L, dim).
            args: the attention mask, where a family gives it by place.
            kwargs: what attention is given: `attention_mask`, `position_ids`, and the cache under any of its names.

        Returns:
            (B, L, dim), zero at padding; and None in the place of attention weights.

        Raises:
            ValueError: keys of an encoder (cross-attention), a cache for a mixer that is not causal.
            TypeError: a mask of another kind than transformers' eager, sdpa and flash attention take.
        """
        if kwargs.get("encoder_hidden_states") is not None:
            raise ValueError("encoder_hidden_states: a mixer takes the place of self-attention, found cross-attention")
        mask = args[0] if args else kwargs.get("attention_mask")
        cache = next(
            (kwargs[name] for name in ("cache", "past_key_values", "layer_past") if kwargs.get(name) is not None), None
        )
        positions = kwargs.get("position_ids")
        memory = None if cache is None else mixer_layer(cache, self.layer_idx)
        batch, length = hidden_states.shape[:2]
        state = None if memory is None else memory.prepare(self.mixer, batch, hidden_states)
        if positions is not None:
            positions = positions.expand(batch, -1) if positions.dim() == 2 else None
        columns = 0 if memory is None else memory.columns
        layout = read_mask(mask, (batch, length), columns, None if state is None else state.segment, positions)
        y = self.mixer(hidden_states, layout, state)
        if memory is not None:
            memory.advance(length, layout.mask)
        return y, None


def read_mask(
    mask: Tensor | None,
    shape: tuple[int, int],
    columns: int = 0,
    segment: Tensor | None = None,
    positions: Tensor | None = None,
) -> Layout:
    """What a mask over pairs of tokens says about each token.

    A token is real where it may read itself, and starts a document where it may not read the real token before it.

    Args:
        mask: (B|1, H|1, L, K) bool (True: may read) or float (0: may read, very negative: may not), or (B, K) with
            1 for real tokens; None where all tokens are real and in one document.
        shape: (B, L).
        columns: tokens read before this chunk.
        segment: (B,) the document that each row was in, if there were any before.
        positions: (B, L) places.

    Returns:
        A layout with `mask` where there is padding, `segments` where a document starts inside the chunk.

    Raises:
        TypeError: another kind of mask. ValueError: another shape.

    Example:
        >>> packed = torch.block_diag(torch.ones(2, 2), torch.ones(1, 1)).bool()[None, None]
        >>> read_mask(packed, (1, 3)).segments.tolist()
        [[0, 0, 1]]
    """
    if mask is None:  # flash attention tells packed documents by their places alone
        if positions is None or segment is not None or torch.compiler.is_compiling():
            return Layout(positions=positions)
        return Layout(positions=positions, segments=packed_segments(positions))
    if not isinstance(mask, Tensor):
        raise TypeError(
            f"attention_mask: expected a tensor or None, found {type(mask).__name__}; use attn_implementation "
            "'sdpa' or 'eager' for a model with mixers"
        )
    batch, length = shape
    if mask.dim() == 2:
        real = mask[:, -length:].bool()
        return Layout(mask=None if bool(real.all()) else real, positions=positions)
    if mask.dtype == torch.int32 and mask.dim() == 4 and mask.shape[2] == 1:
        return _read_code(mask[:, :2, 0, -length:].expand(batch, -1, -1), segment, positions)
    if mask.dtype == torch.uint8:  # of a registered attention: bit 0 is what the model lets queries read
        mask = (mask & 1).bool()
    if mask.dim() != 4 or mask.shape[0] not in (1, batch) or mask.shape[2] != length or mask.shape[3] < length:
        raise ValueError(f"attention_mask: expected shape ({batch}, 1, {length}, keys), found {tuple(mask.shape)}")
    keys = mask.shape[3]
    # a static cache has slots behind the present tokens, a sliding one has let go of the first
    first = columns if keys >= columns + length else keys - length
    pairs = mask[:, 0].expand(batch, -1, -1)
    index = torch.arange(length, device=mask.device)
    real = _may_read(pairs[:, index, first + index])
    if bool(real.all()):
        real_mask, before = None, index - 1
        linked = _may_read(pairs[:, index[1:], first + before[1:]])
        starts = torch.cat([torch.zeros_like(real[:, :1]), ~linked], dim=1)
    else:
        real_mask = real
        last = torch.where(real, index, -1).cummax(dim=1).values
        last = torch.cat([torch.full_like(last[:, :1], -1), last[:, :-1]], dim=1)  # the real token before each
        linked = _may_read(pairs.gather(2, (first + last.clamp(min=0))[..., None])[..., 0])
        starts = real & (last >= 0) & ~linked
    segments = None
    if bool(starts.any()):
        segments = starts.cumsum(1) + (0 if segment is None else segment[:, None])
    return Layout(mask=real_mask, segments=segments, positions=positions)


def _read_code(code: Tensor, segment: Tensor | None, positions: Tensor | None) -> Layout:
    """What the masks of registered attention say: (B, 2, L), places plus 1 (0 at padding), and documents."""
    real = code[:, 0] > 0
    document = code[:, 1].long()
    segments = None
    if bool((document != document[:, :1]).any()):
        segments = document - document[:, :1] + (0 if segment is None else segment[:, None])
    return Layout(mask=None if bool(real.all()) else real, segments=segments, positions=positions)


def _may_read(values: Tensor) -> Tensor:
    return values if values.dtype == torch.bool else values > torch.finfo(values.dtype).min / 2
