"""Law 10: a saved, copied, compiled or half-precision mixer is the same mixer."""

from __future__ import annotations

import copy
import io
from itertools import pairwise

import torch

from tokenmix.laws.bench import Bench, cast, cut
from tokenmix.laws.trial import BFLOAT16, COMPILED, Trial
from tokenmix.mixer import TokenMixer


@torch.no_grad()
def storage(bench: Bench, trial: Trial) -> None:
    """Save and load, deepcopy: every bit; bfloat16 (with a state too) and torch.compile: within tolerance."""
    _save_and_load(bench, trial)
    _bfloat16(bench, trial)
    _compiled(bench, trial)


def _save_and_load(bench: Bench, trial: Trial) -> None:
    mixer, other = bench.copy(), bench.copy()
    bench.perturb(other)
    for training in (True, False):  # run it, so that what changes at run time has changed
        placed = bench.place(bench.documents(bench.length, bench.length))
        mixer.train(training)(placed.x, placed.layout)
    expected = mixer(placed.x, placed.layout)
    trial.near("deepcopy", copy.deepcopy(mixer)(placed.x, placed.layout), expected, tolerance=0)
    file = io.BytesIO()
    torch.save(mixer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    trial.near("saved and loaded", other(placed.x, placed.layout), expected, tolerance=0)


def _bfloat16(bench: Bench, trial: Trial) -> None:
    half = bench.copy(torch.bfloat16)
    full = copy.deepcopy(half).float()  # the same, rounded weights
    rows = bench.documents(bench.length, bench.length // 2, dtype=torch.bfloat16)
    placed = bench.place(rows) if "grid" in bench.needs else bench.place(rows, "right")
    found = half(placed.x, placed.layout)
    trial.require(found.dtype == torch.bfloat16, f"bfloat16: expected outputs in bfloat16, found {found.dtype}")
    trial.near("bfloat16", found.float(), full(placed.x.float(), cast(placed.layout, torch.float32)), BFLOAT16)
    if half.is_causal and not {"grid", "edges"} & set(bench.needs):
        _bfloat16_state(bench, half, full, trial)


def _bfloat16_state(bench: Bench, half: TokenMixer, full: TokenMixer, trial: Trial) -> None:
    placed = bench.place(bench.documents(bench.length, bench.length, dtype=torch.bfloat16))
    state, parts = half.init_state(2, dtype=torch.bfloat16), []
    borders = [0, bench.length // 2, *range(bench.length - 4, bench.length + 1)]
    for start, stop in pairwise(borders):
        parts.append(half(placed.x[:, start:stop], cut(placed.layout, start, stop), state))
    trial.require(parts[0].dtype == torch.bfloat16, f"bfloat16 with a state: found outputs in {parts[0].dtype}")
    expected = full(placed.x.float(), cast(placed.layout, torch.float32))
    trial.near("bfloat16 with a state", torch.cat(parts, dim=1).float(), expected, BFLOAT16)


def _compiled(bench: Bench, trial: Trial) -> None:
    mixer = bench.copy()
    placed = bench.place(bench.documents(bench.length // 2, bench.length // 2))
    layout = placed.layout if placed.layout.fields() else None
    expected = mixer(placed.x, layout)
    torch._dynamo.reset()  # other mixers share the code of forward, and caches are small
    found = torch.compile(mixer, backend="aot_eager")(placed.x, layout)
    torch._dynamo.reset()
    trial.near("torch.compile against eager", found, expected, COMPILED)
