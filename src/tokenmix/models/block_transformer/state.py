"""What a Block Transformer remembers: an entry a block, and the block that it is in."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from tokenmix.models.whole_group_state import WholeGroupState
from tokenmix.stack_state import StackState
from tokenmix.state import check_length


class BlockTransformerState(WholeGroupState):
    """The memory of both decoders for a batch of rows, which all stand at the same place of their blocks.

    The block decoder keeps one entry a block (of `block_embeddings`); the token decoder keeps what it has read of the
    present block, and starts anew with the next.

    Args:
        block: states of the block decoder's layers, empty.
        block_length, block_embeddings: tokens and entries a block.
        owner: what a model must have in common with the one that made it.

    Attributes:
        block: states of the block decoder's layers.
        token: states of the token decoder's, in the present block; None before the first whole block.
        known: (B, r, width) vectors that the token decoder reads in this block.
        has_known: (B,) bool, rows that have a whole block behind them; None where all have.
        tokens: (B, k) int64, those of the present block so far.
        filled: (B, k) bool, which of these places hold a token; None where all do.
        seen: (B,) int64, tokens read so far; `length` is the largest.
        places: of the rows in their blocks, where a first chunk left them at different ones: such a state cannot be
            continued. None otherwise.

    Example:
        >>> from tokenmix.models import BlockTransformerConfig, BlockTransformerModel
        >>> model = BlockTransformerModel(BlockTransformerConfig(hidden_size=64, block_length=4)).eval()
        >>> state = model.init_state(1)
        >>> with torch.no_grad():
        ...     _ = model.read(torch.zeros(1, 8, dtype=torch.int64), state)
        >>> state.block.length, state.token.length  # two blocks, and the two vectors before the third
        (2, 2)
    """

    why_not_back = "it keeps one entry for all tokens of a block"

    def __init__(
        self, block: StackState, block_length: int, block_embeddings: int = 1, owner: tuple[object, ...] = ()
    ) -> None:
        batch_size, device = block.batch_size, block.seen.device
        self.block, self.owner = block, owner
        self.block_length, self.block_embeddings = block_length, block_embeddings
        self.token: StackState | None = None
        self.known: Tensor | None = None
        self.has_known: Tensor | None = None
        self.tokens = torch.zeros(batch_size, 0, dtype=torch.int64, device=device)
        self.filled: Tensor | None = None
        self.seen = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.length = 0
        self.places: list[int] | None = None

    @property
    def place(self) -> int:
        """Places of the present block that are behind: k."""
        return self.tokens.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes that both decoders keep; the vectors and tokens of the present block are left out, as counters are."""
        return self.block.nbytes + (0 if self.token is None else self.token.nbytes)

    def reserve(self, length: int) -> None:
        """Make place for the blocks of so many tokens when they are next allocated.

        Raises:
            ValueError: a length that is not an integer of at least 0.
        """
        self.block.reserve((check_length(length) // self.block_length + 2) * self.block_embeddings)

    def reorder(self, index: Tensor) -> None:
        """See `MixerState.reorder`."""
        self.block.reorder(index)
        if self.token is not None:
            self.token.reorder(index)
        self._apply(lambda tensor: tensor.index_select(0, index.to(tensor.device)))

    def detach(self) -> None:
        """See `MixerState.detach`."""
        self.block.detach()
        if self.token is not None:
            self.token.detach()
        self._apply(Tensor.detach)

    def clone(self) -> BlockTransformerState:
        """An independent copy."""
        other = copy.copy(self)
        other.block = self.block.clone()
        other.token = None if self.token is None else self.token.clone()
        other._apply(Tensor.clone)
        return other

    def _apply(self, function: Callable[[Tensor], Tensor]) -> None:
        for name in ("known", "has_known", "tokens", "filled", "seen"):
            value = getattr(self, name)
            setattr(self, name, None if value is None else function(value))
