"""What is compared: a row names two contenders, how they are built, and the ratio that is aimed at."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Run = Callable[[], object]


@dataclass(frozen=True)
class Pair:
    """Two contenders on the same inputs.

    Attributes:
        ours: one call of this library.
        theirs: one call of what a user would pick instead.
        errors: largest errors relative to a float64 reference, by what was compared ("ours y", "theirs x"); a pair of
            which one is wrong has no times.
        limit: the largest error that "ours" may have; "theirs" may have ten times as much.
        notes: what a reader should know about the two.
        work: how many times as much ours does in a call, such as tokens; the ratio of times is multiplied by it.
    """

    ours: Run
    theirs: Run
    errors: Callable[[], dict[str, float]] = dict
    limit: float = 1e-5
    notes: str = ""
    work: float = 1.0


@dataclass(frozen=True)
class Row:
    """A comparison.

    Attributes:
        name: "family/what/size".
        what: for the table.
        peer: what is compared with.
        build: L -> pair.
        length: L.
        target, stretch: of theirs / ours, in time or memory; None for none.
        needs: packages of the peer.
        rounds: at most so many rounds, for what takes long.
        memory: compare peak memory, not time.
        lengths: L of the curves that are plotted; empty for none.
        flops: L -> floating point operations of a call, whose rate is set beside that of matrix products.
    """

    name: str
    what: str
    peer: str
    build: Callable[[int], Pair]
    length: int
    target: float | None = None
    stretch: float | None = None
    needs: tuple[str, ...] = ()
    rounds: int = 9
    memory: bool = False
    lengths: tuple[int, ...] = field(default=())
    flops: Callable[[int], float] | None = None

    def missing(self) -> list[str]:
        """Packages that the peer needs and that are not here."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def lower(percent: float) -> float:
    """The ratio of times where ours is so many per cent lower.

    Example:
        >>> lower(50)
        2.0
    """
    return 100 / (100 - percent)


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Largest error, relative to the largest number.

    Example:
        >>> relative_error(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 4.0]))
        0.25
    """
    return float((found.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-30))


def trained(function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    """The output and the gradients of all inputs, for a given gradient of the output."""
    leaves = [tensor.detach().to(grad.dtype).requires_grad_() for tensor in inputs]
    y = function(*leaves)
    y.backward(grad)
    return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def function_pair(
    ours: Callable[..., Tensor],
    theirs: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    inputs: list[Tensor],
    names: str,
    train: bool,
    their_reference: Callable[..., Tensor] | None = None,
    **options: float | str,
) -> Pair:
    """A pair of functions of the same tensors.

    Args:
        ours, theirs, reference: (*inputs) -> y; the reference is asked in float64.
        inputs: float32.
        names: of y and the inputs, for the errors.
        train: whether a call also takes all gradients.
        their_reference: where theirs computes something a little different.
        options: of `Pair`.
    """
    with torch.no_grad():
        grad = torch.randn(ours(*inputs).shape, generator=torch.Generator().manual_seed(1))
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]

    def call(function: Callable[..., Tensor]) -> Run:
        def forward() -> object:
            with torch.no_grad():
                return function(*inputs)

        def both() -> None:
            for leaf in leaves:
                leaf.grad = None
            function(*leaves).backward(grad)

        return both if train else forward

    def errors() -> dict[str, float]:
        found = {}
        for who, function, right in (("ours", ours, reference), ("theirs", theirs, their_reference or reference)):
            if train:
                values, exact = trained(function, inputs, grad), trained(right, inputs, grad.double())
            else:
                values, exact = [function(*inputs)], [right(*(tensor.double() for tensor in inputs))]
            for name, value, best in zip(names.split(), values, exact, strict=False):
                found[f"{who} {name}"] = relative_error(value, best)
        return found

    return Pair(call(ours), call(theirs), errors, **options)  # type: ignore[arg-type]
