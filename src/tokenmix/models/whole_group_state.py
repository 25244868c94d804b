"""What states have in common that keep one entry for several tokens, and so cannot go back token by token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

from torch import Tensor


class WholeGroupState(ABC):
    """With the interface of `tokenmix.state.MixerState`, so that the caches of `tokenmix.models.cache` hold it.

    Attributes:
        why_not_back: what is said where one asks it to go back.
        length: largest number of tokens that a row has seen.
        seen: (B,) int64, tokens read so far.
        owner: what a model must have in common with the one that made it.

    Example:
        >>> class Sum(WholeGroupState):
        ...     why_not_back, length = "a sum is of all tokens", 4
        ...     def clone(self):
        ...         return Sum()
        >>> Sum().crop(4)
        >>> Sum().crop(3)
        Traceback (most recent call last):
        ...
        ValueError: crop(length=3): this state has seen 4 tokens and cannot go back, since a sum is of all tokens
    """

    why_not_back: ClassVar[str]
    length: int
    seen: Tensor
    owner: tuple[object, ...] = ()

    @classmethod
    def check(cls, state: object, owner: tuple[object, ...], rows: int) -> None:
        """Refuse a state of another kind, of another model, or for another number of rows.

        Raises:
            TypeError, ValueError: such a state.
        """
        if not isinstance(state, cls):
            raise TypeError(f"state: expected a {cls.__name__}, found {type(state).__name__}")
        if state.owner != owner:
            raise ValueError(f"state: expected one of this model, {owner}, found {state.owner}")
        if state.batch_size != rows:
            raise ValueError(f"state: expected one for {rows} rows, found {state.batch_size}")

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return self.seen.shape[0]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What cannot be taken back token by token; never empty, so that caches know that they cannot crop."""
        return {"seen": self.seen}

    def count(self, read: int | Tensor) -> None:
        """Count tokens that were read: of every row, or (B,) of each."""
        self.seen = self.seen + read
        self.length = int(self.seen.max()) if isinstance(read, Tensor) else self.length + read

    def crop(self, length: int) -> None:
        """Refused but for what changes nothing.

        Raises:
            ValueError: a length below what was read.
        """
        self.check_crop(length)

    def check_crop(self, length: int) -> None:
        """Raise what `crop` raises."""
        if length < self.length:
            raise ValueError(
                f"crop(length={length}): this state has seen {self.length} tokens and cannot go back, since "
                f"{self.why_not_back}"
            )

    @abstractmethod
    def clone(self) -> Self:
        """An independent copy; gradients flow through it."""

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self.clone()
