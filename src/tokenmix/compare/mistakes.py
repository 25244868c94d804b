"""What messages about mistakes share: where they were made, and what may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def near(name: str, known: Iterable[str], place: str = "") -> str:
    """The end of a message about an unknown name: the nearest known one, if one is near.

    Args:
        name: the unknown one.
        known: the known ones.
        place: that stands before the nearest.

    Example:
        >>> near("atention", ["attention", "gam"]), near("x", ["attention"])
        ("; did you mean 'attention'?", '')
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {place + close[0]!r}?" if close else ""


def told(value: Any, most: int = 80) -> str:
    """What was found, in a message: "nothing" for what is empty in YAML, and no more than fits in a line.

    Example:
        >>> told(None), told("none"), told([1])
        ('nothing', "'none'", '[1]')
    """
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Put the place before the message of what is refused inside.

    Args:
        place: such as "mixers.a".

    Raises:
        ValueError, TypeError: those of what is inside, with the place.

    Example:
        >>> with placed("mixers.a"):
        ...     raise ValueError("heads: expected a divisor of dim=16, found 3")
        Traceback (most recent call last):
        ValueError: mixers.a: heads: expected a divisor of dim=16, found 3
    """
    try:
        yield
    except TypeError as error:
        raise TypeError(f"{place}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
