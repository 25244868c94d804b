"""The one cache class: what the mixers of a stack remember, in the form that `generate` expects."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from tokenmix.blocks import StackState


class MixerCache(Cache):
    """Memory of any stack of causal mixers, for `MixerForCausalLM` and its `generate`.

    It is empty until the model first reads tokens with it, and is advanced in place from then on.

    Attributes:
        state: the states of all layers; None before the first tokens.
        columns: tokens read so far a row, padding included (what transformers calls the sequence length).

    Example:
        >>> MixerCache().get_seq_length()
        0
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.state: StackState | None = None
        self.columns = 0
        self._unpadded = 0  # how many of the last columns held real tokens in every row

    def __repr__(self) -> str:
        return f"MixerCache(columns={self.columns}, nbytes={self.nbytes})"

    def __len__(self) -> int:
        return 0 if self.state is None else len(self.state.states)

    def advance(self, length: int, mask: Tensor | None) -> None:
        """Count a chunk of `length` columns; the model calls it after its forward.

        Args:
            length: columns of the chunk.
            mask: (B, length) bool, True where a token is real; None where all are.
        """
        self.columns += length
        if mask is None:
            self._unpadded += length
        else:
            self._unpadded = int(mask.all(dim=0).flip(0).long().cumprod(0).sum())

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read so far a row, padding included."""
        return self.columns

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Length and offset of the 2-D mask that goes with the next `query_length` tokens."""
        return self.columns + query_length, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: there is no limit."""
        return -1

    def reset(self) -> None:
        """Forget everything."""
        self.state, self.columns, self._unpadded = None, 0, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows `beam_idx` (n,), in that order; rows may repeat (beam search)."""
        if self.state is not None:
            self.state.reorder(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices`: (n,) integers, or (B,) bool."""
        self.reorder_cache(indices.nonzero()[:, 0] if indices.dtype == torch.bool else indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row `repeats` times, in place of the row."""
        if self.state is not None:
            rows = torch.arange(self.state.batch_size, device=self.state.seen.device)
            self.reorder_cache(rows.repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens of every row.

        Args:
            tokens_to_remove: minus their number, as in transformers 5; 0 changes nothing.

        Raises:
            ValueError: for a positive number, for mixers whose memory cannot go back, or if the tokens
                to forget include padding.
        """
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
        self.state.crop(self.state.length - count)
        self.columns -= count
        self._unpadded -= count

    def activate_past_recording(self) -> None:
        """Nothing to record: a state either keeps every token, or cannot go back."""

    def detach(self) -> None:
        """Cut the graph, for truncated backpropagation through time."""
        if self.state is not None:
            self.state.detach()

    @property
    def nbytes(self) -> int:
        """Bytes in use by the states."""
        return 0 if self.state is None else self.state.nbytes

    @property
    def batch_size(self) -> int:
        """Number of rows; -1 before the first tokens."""
        return -1 if self.state is None else self.state.batch_size

    @property
    def is_compileable(self) -> bool:
        """False: shapes change from step to step."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Whether tokens were read."""
        return self.state is not None

    @property
    def is_croppable(self) -> bool:
        """Whether every layer keeps all its tokens, so that `crop` can go back."""
        return self.state is not None and not any(state.tensors for state in self.state.states)

    @property
    def is_sliding(self) -> list[bool]:
        """False for each layer: no mask of transformers' applies to it."""
        return [False] * len(self)


def check_cache(value: object) -> None:
    """Refuse another kind of cache.

    Raises:
        TypeError: neither None nor a `MixerCache`.
    """
    if value is not None and not isinstance(value, MixerCache):
        raise TypeError(f"past_key_values: expected a tokenmix.models.MixerCache, found {type(value).__name__}")
