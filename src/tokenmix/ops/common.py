"""What the scans and convolutions share: checks of their inputs, and sums out of the reach of autocast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from tokenmix import kernels

Kind = Literal["floating point", "bool", "integer"]


def check_tensor(
    name: str,
    value: object,
    axes: str,
    sizes: tuple[int, ...],
    device: torch.device,
    *,
    kind: Kind = "floating point",
) -> None:
    """Refuse anything but a tensor of the given shape, kind and device.

    Args:
        name: of the argument, for the message.
        value: what was given.
        axes: the shape in letters, for the message.
        sizes: the shape.
        device: the device of the first argument.
        kind: of the numbers.

    Raises:
        TypeError: not a tensor, or of another kind. ValueError: another shape or device.

    Example:
        >>> check_tensor("mask", torch.ones(2, 3), "(B, L)", (2, 4), torch.device("cpu"))
        Traceback (most recent call last):
        ValueError: mask: expected shape (B, L) = (2, 4), found (2, 3)
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor of shape {axes}, found {type(value).__name__}")
    if kind != _kind(value):
        raise TypeError(f"{name}: expected {kind}, found {value.dtype}")
    if value.shape != sizes:
        raise ValueError(f"{name}: expected shape {axes} = {tuple(sizes)}, found {tuple(value.shape)}")
    if value.device != device:
        raise ValueError(f"{name}: expected device {device} (that of the first argument), found {value.device}")


def check_axes(name: str, value: object, axes: str, count: int) -> None:
    """Refuse anything but a floating point tensor with `count` axes, none of them empty.

    Example:
        >>> check_axes("x", torch.ones(2, 3), "(B, L, C)", 3)
        Traceback (most recent call last):
        ValueError: x: expected shape (B, L, C) without empty axes, found (2, 3)
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor of shape {axes}, found {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected floating point, found {value.dtype}")
    if value.dim() != count or 0 in value.shape:
        raise ValueError(f"{name}: expected shape {axes} without empty axes, found {tuple(value.shape)}")


def check_positive(name: str, value: int) -> None:
    """Refuse anything but a positive integer.

    Example:
        >>> check_positive("heads", 0)
        Traceback (most recent call last):
        ValueError: heads: expected a positive integer, found 0
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected a positive integer, found {value!r}")
    if value < 1:
        raise ValueError(f"{name}: expected a positive integer, found {value}")


def is_integers(value: object) -> bool:
    """Whether it is a tensor of integers, of any size and sign.

    Example:
        >>> is_integers(torch.zeros(2, dtype=torch.uint8)), is_integers(torch.ones(2) > 0), is_integers([1])
        (True, False, False)
    """
    return isinstance(value, Tensor) and _kind(value) == "integer"


def infinite_row(x: Tensor) -> int | None:
    """The first row that holds NaN or infinity; None where all numbers are finite, in one pass without a copy.

    Args:
        x: (N, ...) with more than one axis.

    Example:
        >>> infinite_row(torch.tensor([[0.0, 1.0], [torch.nan, 2.0]])), infinite_row(torch.full((2, 2), 3e38))
        (1, None)
    """
    if bool(x.sum().isfinite()):
        return None
    rows = (~x.isfinite()).flatten(1).any(1).nonzero()  # none, where finite numbers sum up to more than there is
    return int(rows[0]) if len(rows) else None


def _kind(value: Tensor) -> str:
    if value.dtype == torch.bool:
        return "bool"
    if value.is_complex():
        return "complex"
    return "floating point" if value.is_floating_point() else "integer"


def again(
    plain: Callable[..., Any], inputs: Sequence[Tensor | None], needed: Sequence[bool], grads: Sequence[Tensor]
) -> list[Tensor | None]:
    """Gradients that can be differentiated once more, by way of the plain torch form of a kernel.

    Args:
        plain: (*inputs) -> a tensor or a tuple of them. inputs: what the kernel read.
        needed: which of them want a gradient. grads: of the outputs.
    """
    with kernels.use("torch"), torch.enable_grad():
        inputs = [None if x is None else x.view_as(x) for x in inputs]  # apart, also where one is computed from another
        outputs = plain(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        wanted = [x for x, need in zip(inputs, needed, strict=False) if need and x is not None]
        found = iter(torch.autograd.grad(outputs, wanted, list(grads), create_graph=True, materialize_grads=True))
    return [next(found) if need and x is not None else None for x, need in zip(inputs, needed, strict=False)]


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """A context in which autocast leaves matrix products in the precision of their inputs."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # the meta device
