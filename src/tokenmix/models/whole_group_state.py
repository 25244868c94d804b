"""What states have in common that keep one entry for several tokens, and so cannot go back token by token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self


class WholeGroupState(ABC):
    """With the interface of `tokenmix.state.MixerState`, so that the caches of `tokenmix.models.cache` hold it.

    Attributes:
        why_not_back: what is said where one asks it to go back.
        length: largest number of tokens that a row has seen.

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
