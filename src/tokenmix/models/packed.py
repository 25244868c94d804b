"""Weights laid out for products with few rows, which is what decoding on a CPU spends its time on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

_changing = threading.Lock()


@contextmanager
def packed_linears(module: nn.Module, rows: int) -> Iterator[int]:
    """Let the linear layers of a module read copies of their weights that are laid out for `rows` rows.

    oneDNN's blocked layout is read 1.3 to 2.5 times as fast as a plain matrix for 2 to 64 rows, and a transposed matrix
    1.1 to 2 times for one row, where a layer has more outputs than inputs. Only float32 layers on the CPU are
    changed, and only inside the context: the parameters stay what they are, and must not be written to meanwhile.
    Results are equal within rounding. The copies take as much memory as the weights.

    Args:
        module: whose layers of the very class `torch.nn.Linear` are meant.
        rows: of the matrices that they are given.

    Yields:
        The number of layers that read a copy.

    Example:
        >>> layer, x = nn.Linear(8, 64), torch.randn(4, 1, 8)
        >>> expected = layer(x)
        >>> with packed_linears(layer, rows=4), torch.no_grad():
        ...     torch.allclose(layer(x), expected, atol=1e-5)
        True
        >>> torch.equal(layer(x), expected)
        True
    """
    changed = []
    try:
        with _changing:  # another thread finds a layer packed, and leaves it alone, or not yet
            for layer in module.modules():
                forward = _packed_forward(layer, rows) if type(layer) is nn.Linear else None
                if forward is not None:
                    layer.forward = forward
                    changed.append(layer)
        yield len(changed)
    finally:
        for layer in changed:
            vars(layer).pop("forward", None)  # that of the class again


def _packed_forward(layer: nn.Linear, rows: int) -> Callable[[Tensor], Tensor] | None:
    """What gives `layer(x)` from a copy of its weight; None where that would not be faster or not be seen."""
    weight, bias = layer.weight, layer.bias
    plain = type(weight.data) is Tensor and weight.dtype == torch.float32 and weight.device.type == "cpu"
    if not plain or "forward" in vars(layer):  # someone else's, such as Accelerate's
        return None
    if rows == 1:
        wide = layer.out_features > layer.in_features
        return partial(_transposed, weight.detach().t().contiguous(), bias) if wide else None
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return None
    try:  # operators of torch that torch.compile uses too, but that it does not promise to keep
        blocked = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
        return partial(_blocked, blocked, bias, torch.ops.mkldnn._linear_pointwise.default)
    except (AttributeError, RuntimeError):
        return None


def _transposed(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    y = x @ weight
    return y if bias is None else y + bias


def _blocked(weight: Tensor, bias: Tensor | None, product: Callable[..., Tensor], x: Tensor) -> Tensor:
    return product(x, weight, bias, "none", [], "")
