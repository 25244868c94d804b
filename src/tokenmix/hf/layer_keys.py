"""Which layers of a model: keys such as "2", "4-7", "all" and "encoder.0-1"."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_KEY = re.compile(r"(?:(?P<stack>[a-z]+)\.)?(?:(?P<first>\d+)(?:-(?P<last>\d+))?|(?P<all>all))")


def expand_keys(layers: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """One entry a layer, in the order of the layers.

    Args:
        layers: a value for "2" (a layer, counted from 0), "4-7" (both ends included) or "all"; in a model with an
            encoder and a decoder for "encoder.2", "decoder.4-7", "encoder.all".
        sizes: layers of each stack; the name is "" where there is one stack.

    Returns:
        The values by "2", or "encoder.2".

    Raises:
        TypeError: no mapping, or a key that is no string or integer. ValueError: a key of another form, a layer that
            the model does not have, or one that is named twice.

    Example:
        >>> expand_keys({"0": "gam", "2-3": "mamba"}, {"": 4})
        {'0': 'gam', '2': 'mamba', '3': 'mamba'}
    """
    if not isinstance(layers, Mapping):
        raise TypeError(f'layers: expected a mapping such as {{"2": {{"mixer": "gam"}}}}, found {layers!r}')
    if not layers:
        raise ValueError('layers: expected at least one, such as {"2": {"mixer": "gam"}}, found none')
    found: dict[tuple[str, int], Any] = {}
    for key, value in layers.items():
        for place in _places(key, sizes):
            if place in found:
                raise ValueError(f"layers: {key!r} names layer {layer_key(*place)!r} a second time")
            found[place] = value
    order = list(sizes)
    return {layer_key(*place): found[place] for place in sorted(found, key=lambda p: (order.index(p[0]), p[1]))}


def layer_key(stack: str, index: int) -> str:
    """The key of one layer.

    Example:
        >>> layer_key("", 2), layer_key("encoder", 0)
        ('2', 'encoder.0')
    """
    return f"{stack}.{index}" if stack else str(index)


def split_key(key: str) -> tuple[str, int]:
    """The stack and the number of one layer.

    Example:
        >>> split_key("encoder.0")
        ('encoder', 0)
    """
    stack, _, index = key.rpartition(".")
    return stack, int(index)


def _places(key: object, sizes: Mapping[str, int]) -> Sequence[tuple[str, int]]:
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise TypeError(f'layers: expected keys such as "2" or "4-7", found {key!r}')
    match = _KEY.fullmatch(str(key))
    stack = "" if match is None else match["stack"] or ""
    if match is None or stack not in sizes:
        prefix = "" if "" in sizes else f"{next(iter(sizes))}."
        known = "" if "" in sizes else f" with a stack among {', '.join(sizes)}"
        raise ValueError(
            f'layers: expected keys such as "{prefix}2", "{prefix}4-7" or "{prefix}all"{known}, found {key!r}'
        )
    if match["all"]:
        return [(stack, index) for index in range(sizes[stack])]
    first = int(match["first"])
    last = first if match["last"] is None else int(match["last"])
    if not first <= last < sizes[stack]:
        raise ValueError(f"layers: expected layers from 0 to {sizes[stack] - 1}, found {key!r}")
    return [(stack, index) for index in range(first, last + 1)]
