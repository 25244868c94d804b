"""The end of a message about an unknown name: what may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def nearest(name: str, known: Collection[str], most: int = 2) -> str:
    """The known names that are like an unknown one, or all of them where none is.

    Args:
        name: the unknown one.
        known: the known ones, in the order in which they are told.
        most: names that are told to be near, at most.

    Example:
        >>> nearest("atention", ["gam", "attention"]), nearest("x", ["gam", "attention"])
        ("did you mean 'attention'?", 'known: gam, attention')
    """
    close = difflib.get_close_matches(name, known, n=most, cutoff=0.4)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(known)}"
