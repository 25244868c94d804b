"""Checks of what tasks are given."""

from __future__ import annotations

from collections.abc import Sequence

from tokenmix.mixer import check_positive


def check_counts(name: str, values: Sequence[int], at_least: int = 1) -> list[int]:
    """Different integers of at least some size, as a list.

    Args:
        name: of the argument, for the message.
        values: one for each case of a task.
        at_least: the smallest allowed.

    Raises:
        TypeError: no list or tuple of integers.
        ValueError: none at all, one below `at_least`, or one twice.

    Example:
        >>> check_counts("lengths", (64, 128))
        [64, 128]
    """
    for value in check_list(name, values):
        check_positive(name, value)
        if value < at_least:
            raise ValueError(f"{name}: expected integers of at least {at_least}, found {value}")
    if len(set(values)) < len(values):
        raise ValueError(f"{name}: expected different integers, found {list(values)}")
    return list(values)


def check_list(name: str, values: Sequence[int]) -> list[int]:
    """A list that is not empty.

    Raises:
        TypeError: no list or tuple.
        ValueError: an empty one.

    Example:
        >>> check_list("lengths", 64)
        Traceback (most recent call last):
        TypeError: lengths: expected a list of integers, found 64
    """
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name}: expected a list of integers, found {values!r}")
    if not values:
        raise ValueError(f"{name}: expected at least one integer, found none")
    return list(values)


def check_at_least(name: str, value: int, at_least: int) -> None:
    """Refuse anything but an integer of at least some size.

    Raises:
        TypeError: no integer.
        ValueError: one below `at_least`.

    Example:
        >>> check_at_least("vocabulary", 2, at_least=3)
        Traceback (most recent call last):
        ValueError: vocabulary: expected an integer of at least 3, found 2
    """
    check_positive(name, value)
    if value < at_least:
        raise ValueError(f"{name}: expected an integer of at least {at_least}, found {value}")
