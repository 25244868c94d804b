"""Law 9: arithmetic grows in the length no faster than claimed."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tokenmix import kernels
from tokenmix.laws.bench import Bench
from tokenmix.laws.trial import Trial

LENGTHS = (256, 512, 1024)
KNOWN = "L, L*w, L log L, L^1.5, L^2, sums and products of these (lower-case names such as w stand for constants)"
_FACTOR = re.compile(r"(?P<power>L(\^(?P<exponent>\d+(\.\d+)?))?)|(?P<log>log\(?L\)?)|(?P<constant>[a-z]\w*|E|\d+)")


class ElementCounter(TorchDispatchMode):
    """Counts the numbers that every operation writes, so that work without matrix products is seen too."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and count what it returns."""
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(value, Tensor) and not func.is_view:
                self.elements += value.numel()
        return found


def largest_slope(cost: str) -> float | None:
    """Steepest slope in log-log between lengths that a cost allows; None for a string that is not understood.

    Example:
        >>> largest_slope("L*w"), largest_slope("L^2"), largest_slope("L log L"), largest_slope("often")
        (1.1, 2.05, 1.2, None)
    """
    slopes = [_term_slope(term) for term in re.sub(r"\s*\*\s*|·", " ", cost).split("+")]
    known = [slope for slope in slopes if slope is not None]
    return max(known) if len(known) == len(slopes) else None


def _term_slope(term: str) -> float | None:
    exponent, logs = 0.0, 0
    for factor in re.sub(r"log\s+L", "logL", term).split():
        match = _FACTOR.fullmatch(factor)
        if match is None:
            return None
        if match["power"]:
            exponent += float(match["exponent"] or 1)
        elif match["log"]:
            logs += 1
        elif match["constant"] == "E":  # edges: as many a token as before
            exponent += 1
        elif "L" not in term and "E" not in term:
            return None
    if exponent == 0:
        return None
    return round(exponent + 0.1 * logs + (0.05 if exponent >= 2 else 0.1), 6)


@torch.no_grad()
def cost(bench: Bench, trial: Trial) -> None:
    """FLOPs and written elements between 256 and 1024 tokens grow with a slope that `cost` allows."""
    claimed = bench.subject.cost
    limit = largest_slope(claimed)
    if limit is None:
        raise trial.broken(f"cost: {claimed!r} is not understood; known: {KNOWN}")
    counts = [_count(bench, length) for length in LENGTHS]
    for what, numbers in zip(("FLOPs", "elements written"), zip(*counts, strict=True), strict=True):
        if numbers[-2] > 0:
            slope = math.log(numbers[-1] / numbers[-2]) / math.log(LENGTHS[-1] / LENGTHS[-2])
            series = ", ".join(f"{number} at L={length}" for number, length in zip(numbers, LENGTHS, strict=True))
            trial.at_most(f"{what} ({series}) for cost {claimed!r}: slope", slope, limit)


def _count(bench: Bench, length: int) -> tuple[int, int]:
    """FLOPs and elements written for one row of `length` tokens."""
    placed = bench.place([bench.document(length)])
    mixer = bench.subject
    # the fused attention of the CPU is not counted by FlopCounterMode; its decomposition is
    with (
        kernels.use("torch"),  # inside a kernel nothing is seen
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as flops,
        ElementCounter() as elements,
    ):
        mixer(placed.x, placed.layout)
    return flops.get_total_flops(), elements.elements
