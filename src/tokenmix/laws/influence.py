"""Laws 4 and 6: which tokens an output depends on, measured by changing one token at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenmix.laws.bench import Bench, Document, Placed, Side, join, tile
from tokenmix.laws.trial import LEAK_FLOAT64, SMALLEST_SCALE, NotClaimed, Trial
from tokenmix.layout import Layout
from tokenmix.mixer import TokenMixer

DRAWS = 3


@torch.no_grad()
def influence(bench: Bench, mixer: TokenMixer, placed: Placed, trial: Trial, draws: int = DRAWS) -> Tensor:
    """(L, L): how much output i moves, relative to the largest output, when token j of a single row changes."""
    length = placed.x.shape[1]
    layout = tile(placed.layout, length + 1, length)
    index = torch.arange(length)
    worst = torch.zeros(length, length, dtype=placed.x.dtype)
    for _ in range(draws):
        noise = bench.normal(*placed.x.shape, dtype=placed.x.dtype)
        x = (placed.x + noise).expand(length + 1, -1, -1).clone()
        x[index + 1, index] += bench.normal(length, x.shape[2], dtype=x.dtype)  # row j + 1: token j changed
        y = mixer(x, layout)
        trial.finite("outputs", y)
        scale = y.abs().max().clamp(min=SMALLEST_SCALE)
        worst = torch.maximum(worst, (y[1:] - y[:1]).abs().amax(-1).T / scale)
    return worst


def causality(bench: Bench, trial: Trial) -> None:
    """Changing token t leaves outputs before t unchanged, and changes some output at or after t."""
    mixer = bench.subject
    if not mixer.is_causal:
        raise NotClaimed("not causal")
    exact = bench.copy(torch.float64)
    moved = influence(bench, exact, bench.place([bench.document(bench.length, torch.float64)]), trial)
    future = moved.triu(diagonal=1)  # [i, j] with j > i
    i, j = divmod(int(future.argmax()), bench.length)
    trial.at_most(f"output {i} depends on the later token {j}, relative change", float(future.max()), LEAK_FLOAT64)
    later = moved.tril().amax(0)
    deaf = torch.nonzero(later <= LEAK_FLOAT64)[:, 0].tolist()
    trial.require(
        not deaf,
        f"no output at or after token {deaf[:1]} moves when it changes: {float(later.min()):.3g}, "
        f"expected above {LEAK_FLOAT64:.3g}",
    )


def reach(bench: Bench, trial: Trial) -> None:
    """Tokens that influence an output equal the claimed `reach`, in a plain row and with a mask and segments."""
    mixer = bench.copy(torch.float64)
    for what, placed in _placements(bench):
        length = placed.x.shape[1]
        claimed = mixer.reach(placed.layout, length)
        if claimed is None:
            raise NotClaimed("reach is None")
        trial.require(
            claimed.dtype == torch.bool and claimed.dim() == 3 and claimed.shape[1:] == (length, length),
            f"reach: expected bool of shape (1, {length}, {length}), found {claimed.dtype} {tuple(claimed.shape)}",
        )
        _compare(what, influence(bench, mixer, placed, trial), _both_real(claimed[0], placed.layout), trial)
    if not bench.needs and _ends_beyond(mixer, bench.length):
        raise NotClaimed(f"its edge lies beyond the {bench.length} tokens tried: give a larger length")


def _ends_beyond(mixer: TokenMixer, length: int, far: int = 1024) -> bool:
    """Whether the last token of a short row reads everything that it may, and that of a long row does not."""
    short, long = mixer.reach(Layout(), length), mixer.reach(Layout(), far)
    return short is not None and long is not None and bool(short[0, -1].all() and not long[0, -1].all())


def _placements(bench: Bench) -> list[tuple[str, Placed]]:
    length = bench.length
    whole = bench.document(length, torch.float64)
    placements = [("a plain row", bench.place([whole]))]
    if "grid" in bench.needs:
        return placements
    packed: Document = join(bench.documents(length // 3, 1, length // 2, dtype=torch.float64), [0, 1, 2])
    sides: tuple[Side, ...] = ("left", "right", "scattered")
    placements += [(f"two documents and {side} padding", bench.place([packed], side, length)) for side in sides]
    return placements


def _both_real(claimed: Tensor, layout: Layout) -> Tensor:
    if layout.mask is None:
        return claimed
    return claimed & layout.mask[0, :, None] & layout.mask[0, None, :]


def _compare(what: str, moved: Tensor, claimed: Tensor, trial: Trial) -> None:
    outside = moved.masked_fill(claimed, 0)
    i, j = divmod(int(outside.argmax()), len(moved))
    trial.at_most(
        f"{what}: output {i} depends on token {j}, which is outside its reach, relative change",
        float(outside.max()),
        LEAK_FLOAT64,
    )
    silent = claimed & (moved <= LEAK_FLOAT64)
    if bool(silent.any()):
        i, j = divmod(int(silent.int().argmax()), len(moved))
        raise trial.broken(
            f"{what}: reach says that output {i} may depend on token {j}, but no change of that token moved it "
            f"({int(silent.sum())} such pairs; relative change {float(moved[i, j]):.3g})"
        )
