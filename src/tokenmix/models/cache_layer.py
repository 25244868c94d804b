"""One layer of any of transformers' caches, which holds what a mixer remembers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from tokenmix.mixer import TokenMixer
from tokenmix.state import MixerState


class MixerCacheLayer(CacheLayerMixin):
    """The memory of one mixer, as a layer of any of transformers' caches.

    Args:
        siblings: the list of layers that this one is in. The masks of real attention layers depend on how their
            caches grow, and transformers may ask this layer for their sizes.

    Attributes:
        state: what the mixer remembers; None before its first tokens.
        columns: tokens read so far a row, padding included (what transformers calls the sequence length).

    Example:
        >>> MixerCacheLayer().get_mask_sizes(3)
        (3, 0)
    """

    # transformers leaves the mask of a single token away where a layer says False, also for static caches, whose
    # attention would then read slots that nobody has written
    is_compileable = True
    supports_early_init = False

    def __init__(self, siblings: Sequence[Any] = ()) -> None:
        super().__init__()
        self.siblings = siblings
        self.state: MixerState | None = None
        self.columns = 0
        self._unpadded = 0  # how many of the last columns held real tokens in every row

    def prepare(self, mixer: TokenMixer, batch: int, like: Tensor) -> MixerState:
        """The state to read and advance, made for `batch` rows at the first call, of the device and dtype of `like`."""
        if self.state is None:
            self.state = mixer.init_state(batch, device=like.device, dtype=like.dtype)
            self.keys = self.values = like.new_empty(batch, 0)  # Whisper's generate takes the rows of a cache apart
        self.is_initialized = True
        return self.state

    def advance(self, length: int, mask: Tensor | None) -> None:
        """Count a chunk of `length` columns, after the mixer has read it.

        Args:
            length: columns of the chunk.
            mask: (B, length) bool, True where a token is real; None where all are.
        """
        self.columns += length
        if mask is None:
            self._unpadded += length
        else:
            self._unpadded = int(mask.all(dim=0).flip(0).long().cumprod(0).sum())

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Refused: this layer holds no keys.

        Raises:
            TypeError: always.
        """
        raise TypeError("MixerCacheLayer: expected a mixer to read it, found an attention that adds keys and values")

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Refused: see `lazy_initialization`."""
        self.lazy_initialization(key_states, value_states)
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Tokens read so far a row, padding included."""
        return self.columns

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the mask for the next `query_length` tokens: those of attention, where there is any."""
        for layer in self.siblings:
            other = not isinstance(layer, MixerCacheLayer) and not getattr(layer, "is_sliding", False)
            if other and hasattr(layer, "get_mask_sizes"):
                length, offset = layer.get_mask_sizes(query_length)
                return length, offset
        return self.columns + query_length, 0

    def get_max_length(self) -> int:
        """-1: there is no limit."""
        return -1

    def offload(self) -> None:
        """Nothing: a state stays on the device of its mixer."""

    def prefetch(self) -> None:
        """Nothing: see `offload`."""

    def reset(self) -> None:
        """Forget everything."""
        self.state, self.columns, self._unpadded, self.is_initialized = None, 0, 0, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows `beam_idx` (n,), in that order; rows may repeat (beam search)."""
        if self.state is not None:
            self.state.reorder(beam_idx)
            self.keys = self.values = beam_idx.new_empty(len(beam_idx), 0)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices`: (n,) integers, or (B,) bool."""
        self.reorder_cache(indices.nonzero()[:, 0] if indices.dtype == torch.bool else indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row `repeats` times, in place of the row."""
        if self.state is not None:
            rows = torch.arange(self.state.batch_size, device=self.state.seen.device)
            self.reorder_cache(rows.repeat_interleave(repeats))

    def check_crop(self, tokens_to_remove: int) -> None:
        """Raise what `crop` would raise, and change nothing."""
        if tokens_to_remove > 0:
            raise ValueError(f"tokens_to_remove: expected 0 or minus the number of tokens, found {tokens_to_remove}")
        count = -tokens_to_remove
        if count == 0 or self.state is None:
            return
        if count > self.columns:
            raise ValueError(f"tokens_to_remove: expected at most the {self.columns} tokens read, found {count}")
        if count > self._unpadded or not bool((self.state.seen == self.state.length).all()):
            raise ValueError(
                f"crop({tokens_to_remove}): rows hold padding among the tokens to forget, or different numbers "
                "of real tokens; crop such rows one by one"
            )
        self.state.check_crop(self.state.length - count)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens of every row.

        Args:
            tokens_to_remove: minus their number, as in transformers 5; 0 changes nothing.

        Raises:
            ValueError: for a positive number, for a mixer whose memory cannot go back, or if the tokens
                to forget include padding.
        """
        self.check_crop(tokens_to_remove)
        if tokens_to_remove and self.state is not None:
            self.state.crop(self.state.length + tokens_to_remove)
            self.columns += tokens_to_remove
            self._unpadded += tokens_to_remove

    def activate_past_recording(self) -> None:
        """Nothing to record: a state either keeps every token, or cannot go back."""

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]  # it depends on the mixer
        """Whether the mixer keeps all its tokens, so that `crop` can go back."""
        return self.state is not None and not any(tensor.numel() for tensor in self.state.tensors.values())

    @property
    def batch_size(self) -> int:
        """Number of rows.

        Raises:
            AttributeError: before the first tokens, as transformers expects.
        """
        if self.state is None:
            raise AttributeError("batch_size: not known before the first tokens")
        return self.state.batch_size
