"""Law 1: shape, dtype and device are kept; numbers are finite and the same at every call."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenmix.laws.bench import Bench, Placed
from tokenmix.laws.trial import Trial
from tokenmix.mixer import TokenMixer


def values(bench: Bench, trial: Trial) -> None:
    """Shape, dtype, device kept; no NaN or inf, also for a fully padded row and a single token; deterministic."""
    short, half = bench.length // 3, bench.length // 2
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        mixer = bench.copy(dtype)
        for name, placed in {
            "B=2": bench.place(bench.documents(bench.length, bench.length, dtype=dtype)),
            "B=1, L=1": bench.place(bench.documents(1, dtype=dtype)),
            "a fully padded row": bench.place(bench.documents(half, 0, short, dtype=dtype), "right", bench.length),
            "only padding": bench.place(bench.documents(0, dtype=dtype), "left", half),
        }.items():
            _check(mixer, placed, f"{name}, {dtype}".replace("torch.", ""), trial)


def _check(mixer: TokenMixer, placed: Placed, what: str, trial: Trial) -> None:
    x, before = placed.x, placed.x.clone()
    with torch.no_grad():
        first, again = mixer(x, placed.layout), mixer(x, placed.layout)
    trial.require(isinstance(first, Tensor), f"{what}: expected a tensor, found {type(first).__name__}")
    for name in ("shape", "dtype", "device"):
        found, expected = getattr(first, name), getattr(x, name)
        trial.require(found == expected, f"{what}: expected {name} {expected}, found {found}")
    trial.finite(what, first)
    trial.require(torch.equal(x, before), f"{what}: the call changed its input x in place")
    trial.near(f"{what}: two calls in eval mode", again.float(), first.float(), tolerance=0)
