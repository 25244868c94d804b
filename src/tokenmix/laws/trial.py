"""What a law writes down while it runs: numbers against their tolerances, and the error that ends it."""

from __future__ import annotations

import torch
from torch import Tensor

# Largest gap allowed, as a fraction of the largest expected number (of at least SMALLEST_SCALE).
SAME_SUM = 2e-5  # the same sums in another order, float32
SAME_GRADIENT = 2e-4  # gradients of the same sums in another order, float32
LEAK_FLOAT64 = 1e-12  # an output that must not move, float64 (chunked sums may reorder)
SYMMETRY = 1e-6  # a transformed input, float64 (room for parts that are kept in float32)
FINITE_DIFFERENCE = 1e-5  # gradient against central differences, float64
BFLOAT16 = 5e-2  # bfloat16 against float32 with the same (rounded) weights
COMPILED = 2e-5  # torch.compile against eager, float32
SMALLEST_SCALE = 1e-3


class LawBroken(AssertionError):
    """A mixer breaks a law that it claims.

    Attributes:
        number: 1 to 10.
        law: name of the law.
        finding: what was found, with the numbers.
    """

    def __init__(self, number: int, law: str, finding: str, mixer: str = "") -> None:
        self.number, self.law, self.finding = number, law, finding
        super().__init__(f"law {number} ({law}) is broken{f' by {mixer}' if mixer else ''}: {finding}")


class NotClaimed(Exception):
    """A law that says nothing about this mixer; the message says why."""


class Trial:
    """The numbers of one law for one mixer.

    Attributes:
        worst: the gap that came nearest to its tolerance (or passed it); None before the first.
        tolerance: the tolerance of that gap.
    """

    def __init__(self, number: int, law: str) -> None:
        self.number, self.law = number, law
        self.worst: float | None = None
        self.tolerance = 0.0

    def broken(self, finding: str) -> LawBroken:
        """The error to raise."""
        return LawBroken(self.number, self.law, finding)

    def require(self, fulfilled: bool, finding: str) -> None:
        """Raise unless a condition holds."""
        if not fulfilled:
            raise self.broken(finding)

    def record(self, gap: float, tolerance: float) -> None:
        """Keep a gap if it is the nearest to its tolerance so far."""
        if self.worst is None or gap * self.tolerance > self.worst * tolerance or (self.tolerance == 0 < tolerance):
            self.worst, self.tolerance = gap, tolerance

    def at_most(self, what: str, gap: float, tolerance: float) -> None:
        """Raise if a number is above its tolerance."""
        if not gap <= tolerance:  # NaN too
            self.worst, self.tolerance = gap, tolerance
            raise self.broken(f"{what}: {gap:.3g}, expected at most {tolerance:.3g}")
        self.record(gap, tolerance)

    def near(
        self,
        what: str,
        found: Tensor,
        expected: Tensor,
        tolerance: float = SAME_SUM,
        smallest_scale: float = SMALLEST_SCALE,
    ) -> None:
        """Raise unless two tensors agree: largest gap / largest expected number <= tolerance (0: every bit)."""
        if found.shape != expected.shape:
            raise self.broken(f"{what}: expected shape {tuple(expected.shape)}, found {tuple(found.shape)}")
        if not found.numel():
            return
        self.finite(what, found)
        expected = expected.detach().to(found.dtype)
        scale = max(float(expected.abs().max()), smallest_scale)
        self.at_most(f"{what}, largest relative gap", float((found.detach() - expected).abs().max()) / scale, tolerance)

    def finite(self, what: str, found: Tensor) -> None:
        """Raise at NaN or inf."""
        bad = int((~torch.isfinite(found)).sum())
        self.require(bad == 0, f"{what}: {bad} of {found.numel()} numbers are NaN or inf")
