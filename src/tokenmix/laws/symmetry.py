"""Law 7: outputs follow a permutation of the tokens, and do not see a rotation or translation of space."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tokenmix.laws.bench import Bench, Placed, join
from tokenmix.laws.trial import SYMMETRY, NotClaimed, Trial
from tokenmix.layout import take_tokens
from tokenmix.mixer import TokenMixer

DRAWS = 3


@torch.no_grad()
def equivariance(bench: Bench, trial: Trial) -> None:
    """Each symmetry in `equivariance` holds, with padding and segments too (in float64)."""
    mixer = bench.copy(torch.float64)
    if not mixer.equivariance:
        raise NotClaimed("equivariance is empty")
    known = {"permutation": _permutation, "se3": _rigid_motion}
    for name in mixer.equivariance:
        trial.require(name in known, f"equivariance: unknown {name!r}, known: {', '.join(sorted(known))}")
        for placed in _placements(bench):
            for _ in range(DRAWS):
                known[name](bench, mixer, placed, trial)


def _placements(bench: Bench) -> list[Placed]:
    whole = bench.place(bench.documents(bench.length, bench.length, dtype=torch.float64))
    if "grid" in bench.needs:
        return [whole]
    rows = [join(bench.documents(*lengths, dtype=torch.float64), [0, 1]) for lengths in ((3, 9), (14, 1))]
    return [whole, bench.place(rows, "right", bench.length)]


def _permutation(bench: Bench, mixer: TokenMixer, placed: Placed, trial: Trial) -> None:
    rows, length = placed.x.shape[:2]
    order = torch.stack([torch.randperm(length, generator=bench.generator) for _ in range(rows)])
    expected = take_tokens(mixer(placed.x, placed.layout), order)
    found = mixer(take_tokens(placed.x, order), placed.layout.permuted(order))
    trial.near("permutation of the tokens", found, expected, SYMMETRY)


def _rigid_motion(bench: Bench, mixer: TokenMixer, placed: Placed, trial: Trial) -> None:
    layout = placed.layout
    if layout.coords is None:
        raise trial.broken("se3: claimed by a mixer that does not need coords")
    turn = _rotation(bench, layout.coords.shape[2])
    shift = 3 * bench.normal(layout.coords.shape[2], dtype=torch.float64)
    moved = replace(layout, coords=layout.coords @ turn.T + shift)
    if layout.normals is not None:
        moved = replace(moved, normals=layout.normals @ turn.T)
    trial.near("rotation and translation", mixer(placed.x, moved), mixer(placed.x, layout), SYMMETRY)


def _rotation(bench: Bench, axes: int) -> Tensor:
    """(axes, axes) random rotation."""
    q = torch.linalg.qr(bench.normal(axes, axes, dtype=torch.float64)).Q
    q[:, 0] *= torch.linalg.det(q).sign()
    return q
