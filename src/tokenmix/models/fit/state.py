"""What a causal FIT remembers: the present group of each row, and the latents of those behind it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenmix.counters import Counters
from tokenmix.models.whole_group_state import WholeGroupState
from tokenmix.stack_state import StackState
from tokenmix.state import check_length


@dataclass
class StageState:
    """What one stage remembers.

    Attributes:
        local: states of its local layers, in the present group of each row; None without such layers.
        latent: states of its global layers, over the latents of whole groups; None where no token reads them.
        known: (B, m, D_l) latents of the group before the present one; zero in a first group.
        x: (B, n, D) tokens of the present group after the local layers, of which the latents will be made; None
            before the first.
    """

    local: StackState | None
    latent: StackState | None
    known: Tensor | None
    x: Tensor | None = None


class FITState(WholeGroupState):
    """The memory of all stages for a batch of rows, which may stand at different places of their groups.

    Args:
        stages: of all stages, empty.
        batch_size: number of rows.
        group_size: n, tokens a group.
        latents: m, latents a group.
        device: where it is.

    Attributes:
        stages: what each stage remembers.
        place: (B,) int64, places of the present group that are behind, fewer than n.
        groups: (B,) int64, whole groups that are behind.
        filled: (B, n) bool, which places of the present group hold a token.
        seen: (B,) int64, tokens read so far; `length` is the largest.

    Example:
        >>> from tokenmix.models.fit import FITConfig, FITModel
        >>> model = FITModel(FITConfig(hidden_size=32, latent_size=32, group_size=4, latents=2)).eval()
        >>> state = model.init_state(1)
        >>> with torch.no_grad():
        ...     _ = model.read(torch.zeros(1, 9, 32), state)
        >>> state.groups.tolist(), state.place.tolist(), state.stages[0].latent.length  # two groups of two latents
        ([2], [1], 4)
    """

    why_not_back = "the latents of a group are made of all its tokens"

    def __init__(
        self,
        stages: list[StageState],
        batch_size: int,
        group_size: int,
        latents: int,
        device: torch.device | str | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, found {batch_size}")
        self.stages, self.group_size, self.latents = stages, group_size, latents
        self.place = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.groups, self.seen = torch.zeros_like(self.place), torch.zeros_like(self.place)
        self.filled = torch.zeros(batch_size, group_size, dtype=torch.bool, device=device)
        self.length = 0
        self.dtype: torch.dtype | None = None  # of what the mixers keep; None for that of their parameters

    @property
    def nbytes(self) -> int:
        """Bytes that all stages keep; the counters are left out."""
        held = [memory for stage in self.stages for memory in (stage.local, stage.latent) if memory is not None]
        kept = [value for stage in self.stages for value in (stage.known, stage.x) if value is not None]
        return sum(memory.nbytes for memory in held) + sum(value.nbytes for value in kept)

    def reserve(self, length: int) -> None:
        """Make place for the latents of so many tokens when they are next allocated.

        Raises:
            ValueError: a length that is not an integer of at least 0.
        """
        groups = -(-check_length(length) // self.group_size)
        for stage in self.stages:
            if stage.local is not None:
                stage.local.reserve(self.group_size)
            if stage.latent is not None:
                stage.latent.reserve(groups * self.latents)

    def reorder(self, index: Tensor) -> None:
        """See `MixerState.reorder`."""
        self._change(
            lambda tensor: tensor.index_select(0, index.to(tensor.device)), lambda memory: memory.reorder(index)
        )

    def detach(self) -> None:
        """See `MixerState.detach`."""
        self._change(Tensor.detach, StackState.detach)

    def clone(self) -> FITState:
        """An independent copy; gradients flow through it."""
        other = copy.copy(self)
        other.stages = [
            StageState(_clone(stage.local), _clone(stage.latent), stage.known, stage.x) for stage in self.stages
        ]
        other._change(Tensor.clone, lambda memory: None)
        return other

    def _change(self, tensors: Callable[[Tensor], Tensor], memories: Callable[[StackState], None]) -> None:
        for name in ("place", "groups", "seen", "filled"):
            setattr(self, name, tensors(getattr(self, name)))
        for stage in self.stages:
            for memory in (stage.local, stage.latent):
                if memory is not None:
                    memories(memory)
            stage.known = None if stage.known is None else tensors(stage.known)
            stage.x = None if stage.x is None else tensors(stage.x)


def forget_rows(memory: StackState, fresh: StackState, rows: Tensor) -> None:
    """Let the (B,) bool rows of a memory begin anew, as those of a fresh one; the others stay as they are.

    What a growing tensor holds of such a row is past the row's count from now on, where nobody looks.

    Example:
        >>> from tokenmix.blocks import Stack
        >>> stack = Stack(8, {"m": {"mixer": "mamba"}}, "m")
        >>> memory = stack.init_state(2)
        >>> _ = stack(torch.randn(2, 3, 8), state=memory)
        >>> forget_rows(memory, stack.init_state(2), torch.tensor([False, True]))
        >>> memory.seen.tolist()
        [3, 0]
    """
    counted: dict[int, Counters] = {}  # those that counted as one still do
    for state, empty in zip(memory.states, fresh.states, strict=True):
        for name, value in state.tensors.items():
            at = rows.reshape(-1, *(1,) * (value.dim() - 1))
            state.tensors[name] = torch.where(at, empty.tensors[name].to(value.dtype), value)
        old = state.counters
        if id(old) not in counted:
            counted[id(old)] = old.changed(
                seen=old.seen.masked_fill(rows, 0), place=old.place.masked_fill(rows, 0)
            ).measured()
        state.counters = counted[id(old)]


def _clone(memory: StackState | None) -> StackState | None:
    return None if memory is None else memory.clone()
