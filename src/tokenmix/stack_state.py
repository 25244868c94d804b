"""The memories of all layers of a stack, handled as one."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tokenmix.counters import Counters
from tokenmix.state import MixerState


class StackState:
    """The states of a stack's mixers, one a layer, handled as one.

    Attributes:
        states: list of `MixerState`.
    """

    def __init__(self, states: list[MixerState]) -> None:
        self.states = states

    def share_counters(self) -> None:
        """Let all layers count as one, as long as they read the same tokens; only before the first token."""
        for state in self.states[1:]:
            if state.seen.device == self.seen.device:
                state.counters = self.states[0].counters

    def reserve(self, length: int) -> None:
        """See `MixerState.reserve`."""
        for state in self.states:
            state.reserve(length)

    @property
    def seen(self) -> Tensor:
        """(B,) real tokens read so far."""
        return self.states[0].seen

    @property
    def place(self) -> Tensor:
        """(B,) real tokens read so far of the document that the row is in."""
        return self.states[0].place

    @property
    def length(self) -> int:
        """Largest number of tokens that a row has seen."""
        return self.states[0].length

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return self.states[0].batch_size

    @property
    def nbytes(self) -> int:
        """Bytes in use over all layers."""
        return sum(state.nbytes for state in self.states)

    def reorder(self, index: Tensor) -> None:
        """See `MixerState.reorder`."""
        self._change(lambda state: state.reorder(index))

    def crop(self, length: int) -> None:
        """See `MixerState.crop`; nothing changes if any layer refuses."""
        if length < self.length:
            for state in self.states:
                state.check_crop(length)
        self._change(lambda state: state.crop(length))

    def detach(self) -> None:
        """See `MixerState.detach`."""
        for state in self.states:
            state.detach()

    def clone(self) -> StackState:
        """See `MixerState.clone`."""
        return StackState([state.clone() for state in self.states])

    def _change(self, change: Callable[[MixerState], None]) -> None:
        """Change every state; those that counted as one still do."""
        before = [state.counters for state in self.states]
        shared: dict[int, Counters] = {}
        for state, counters in zip(self.states, before, strict=True):
            change(state)
            state.counters = shared.setdefault(id(counters), state.counters)
