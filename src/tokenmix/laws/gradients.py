"""Law 8: gradients reach every parameter, are finite, and are those of the function."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenmix.laws.bench import Bench, Placed, join
from tokenmix.laws.trial import FINITE_DIFFERENCE, Trial
from tokenmix.mixer import TokenMixer

STEP = 1e-5
DIRECTIONS = 2
SMALLEST_GRADIENT = 1e-6  # of the sum of |terms|, whose rounding limits finite differences


def gradients(bench: Bench, trial: Trial) -> None:
    """Every parameter and x get a finite, somewhere non-zero gradient, equal to finite differences in float64."""
    for what, placed in _placements(bench):
        mixer = bench.copy(torch.float64)
        weights = bench.normal(*placed.x.shape, dtype=torch.float64)
        x = placed.x.clone().requires_grad_()
        leaves = {"x": x, **{n: p for n, p in mixer.named_parameters() if p.requires_grad}}
        (mixer(x, placed.layout) * weights).sum().backward()
        for name, leaf in leaves.items():
            _check_gradient(f"{what}: gradient of {name}", leaf.grad, trial)
        if placed.layout.mask is not None and x.grad is not None:
            outside = x.grad[~placed.layout.mask].abs().max()
            trial.at_most(f"{what}: largest gradient at padding", float(outside), 0.0)
        _check_differences(bench, what, mixer, placed, weights, leaves, trial)


def _placements(bench: Bench) -> list[tuple[str, Placed]]:
    length = bench.length // 2
    whole = bench.place(bench.documents(length, length, dtype=torch.float64))
    if "grid" in bench.needs:
        return [("plain rows", whole)]
    packed = [join(bench.documents(*row, dtype=torch.float64), [0, 1]) for row in ((5, 6), (8, 1))]
    rows = [*packed, packed[0].part(0, 0)]  # the last row holds padding only
    return [("plain rows", whole), ("packed and padded rows", bench.place(rows, "right", length))]


def _check_gradient(what: str, gradient: Tensor | None, trial: Trial) -> None:
    if gradient is None:
        raise trial.broken(f"{what}: there is none; the output does not depend on it")
    trial.finite(what, gradient)
    trial.require(bool((gradient != 0).any()), f"{what}: zero in all {gradient.numel()} numbers")


@torch.no_grad()
def _check_differences(
    bench: Bench,
    what: str,
    mixer: TokenMixer,
    placed: Placed,
    weights: Tensor,
    leaves: dict[str, Tensor],
    trial: Trial,
) -> None:
    """Slope of sum(weights * y) along random directions, each leaf for itself."""
    x = leaves["x"]
    smallest = SMALLEST_GRADIENT * float((mixer(x, placed.layout) * weights).abs().sum())
    for name, leaf in leaves.items():
        gradient = leaf.grad
        if gradient is None:
            continue
        for _ in range(DIRECTIONS):
            direction = bench.normal(*leaf.shape, dtype=torch.float64)
            direction /= direction.norm()
            values = []
            for step in (STEP, -2 * STEP):
                leaf += step * direction
                values.append(float((mixer(x, placed.layout) * weights).sum()))
            leaf += STEP * direction
            slope = (values[0] - values[1]) / (2 * STEP)
            gap = abs(slope - float((gradient * direction).sum())) / max(float(gradient.norm()), smallest)
            trial.at_most(
                f"{what}: gradient of {name} against finite differences ({slope:.6g})", gap, FINITE_DIFFERENCE
            )
