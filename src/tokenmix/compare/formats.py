"""Numbers of a comparison as text, the same in plots and on the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

ABSENT = "–"  # what was not measured


def known(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number (None stands for what was not measured).

    Example:
        >>> known(0), known(None), known(float("nan")), known(True)
        (True, False, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def plain(tree: Any) -> Any:
    """A tree of dicts and lists with None for NaN and infinity, which JSON does not have.

    Example:
        >>> plain({"loss": [1.0, float("nan")]})
        {'loss': [1.0, None]}
    """
    if isinstance(tree, dict):
        return {str(key): plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [plain(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def score_text(value: Any) -> str:
    """Three decimals, and small numbers with two digits.

    Example:
        >>> score_text(0.98765), score_text(0.000244), score_text(1), score_text(None)
        ('0.988', '0.00024', '1.000', '–')
    """
    if not known(value):
        return ABSENT
    return (
        f"{value:.3f}" if value == 0 or abs(value) >= 0.01 else f"{value:.2g}" if abs(value) >= 1e-4 else f"{value:.1e}"
    )


def spread_text(value: Any) -> str:
    """The decimals of a score, whatever the size.

    Example:
        >>> spread_text(0.00456)
        '0.005'
    """
    return f"{value:.3f}" if known(value) else ABSENT


def count_text(value: Any) -> str:
    """A whole number with thousands set apart.

    Example:
        >>> count_text(118272)
        '118,272'
    """
    return f"{value:,.0f}" if known(value) else ABSENT


def number_text(value: Any, digits: int = 3) -> str:
    """A number of few digits.

    Example:
        >>> number_text(0.0030), number_text(1234.5), number_text(None)
        ('0.003', '1.23e+03', '–')
    """
    return f"{value:.{digits}g}" if known(value) else ABSENT


def large_text(value: Any, unit: str = "", digits: int = 3) -> str:
    """A number with the prefix of its size.

    Example:
        >>> large_text(2.6e7), large_text(950), large_text(33280, "B")
        ('26 M', '950', '33.3 kB')
    """
    if not known(value):
        return ABSENT
    power = 0
    while power < 5 and float(f"{abs(value) / 1000**power:.{digits}g}") >= 1000:
        power += 1
    scaled = float(f"{value / 1000**power:.{digits}g}")
    tail = f"{('', 'k', 'M', 'G', 'T', 'P')[power]}{unit}"
    return f"{scaled:g} {tail}".rstrip()


def bytes_text(value: Any) -> str:
    """Bytes, by powers of 1000.

    Example:
        >>> bytes_text(0), bytes_text(4_194_304)
        ('0 B', '4.19 MB')
    """
    return large_text(value, "B")


def seconds_text(value: Any) -> str:
    """A duration.

    Example:
        >>> [seconds_text(x) for x in (0.0000021, 0.0123, 4.56, 75, 480, 7260)]
        ['2.1 µs', '12.3 ms', '4.56 s', '1 min 15 s', '8 min', '2 h 1 min']
    """
    if not known(value):
        return ABSENT
    if value >= 59.5:
        minutes, seconds = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes} min" if hours else f"{minutes} min" + (f" {seconds} s" if seconds else "")
    for scale, unit in ((1.0, "s"), (1e-3, "ms")):
        if value >= scale * 0.9995:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def ratio_text(value: Any) -> str:
    """How many times a reference.

    Example:
        >>> ratio_text(1.2345), ratio_text(0.0456), ratio_text(31.4159)
        ('×1.23', '×0.046', '×31.4')
    """
    if not known(value):
        return ABSENT
    return f"×{value:.2f}" if 0.1 <= value < 10 else f"×{value:.2g}" if value < 0.1 else f"×{value:.3g}"


def listed(values: Sequence[Any], text: Callable[[Any], str] = str) -> str:
    """A list in a sentence.

    Example:
        >>> listed([1, 2, 3]), listed(["a"])
        ('1, 2 and 3', 'a')
    """
    words = [text(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "none"
