"""Laws 2 and 3: padding and other documents never change a real token."""

from __future__ import annotations

from dataclasses import replace

import torch

from tokenmix.laws.bench import SIDES, Bench, Document, Junk, Placed, join
from tokenmix.laws.trial import NotClaimed, Trial

JUNK: tuple[Junk, ...] = ("zero", "large", "nan", "inf")


@torch.no_grad()
def padding(bench: Bench, trial: Trial) -> None:
    """Contents and amount of padding, left, right or scattered, never change a real token; padded outputs are 0."""
    if "grid" in bench.needs:
        _padding_on_grid(bench, trial)
        return
    mixer, longest = bench.subject, bench.length
    rows = bench.documents(longest, 1, 2 * longest // 3, longest // 2)
    expected = [bench.alone(mixer, row) for row in rows]
    for side in SIDES:
        for extra, junk in zip((0, 1, 7, longest), JUNK, strict=True):
            what = f"{side} padding of {junk}, {extra} more than the longest row"
            placed = bench.place(rows, side, longest + extra, junk)
            _compare(what, placed, mixer(placed.x, placed.layout), expected, trial)
        for row, wanted in zip(rows, expected, strict=True):
            placed = bench.place([row], side, len(row) + 5, "large")
            _compare(f"B=1, {side} padding", placed, mixer(placed.x, placed.layout), [wanted], trial)
    placed = bench.place(rows[:1], "right")
    _compare("a mask that is True everywhere", placed, mixer(placed.x, placed.layout), expected[:1], trial)


def _padding_on_grid(bench: Bench, trial: Trial) -> None:
    """On a grid a token's place is fixed, so only the contents of the masked cells can differ."""
    documents = bench.documents(*[bench.length] * 3)
    full = bench.place(documents)
    mask = bench.normal(3, bench.length) > -0.3
    mask[2] = True
    layout = replace(full.layout, mask=mask)
    slots = [torch.nonzero(row)[:, 0] for row in mask]
    expected = Placed(full.x, layout, slots).pick(bench.subject(full.x, layout))
    expected[2] = bench.alone(bench.subject, documents[2])
    for kind in JUNK:
        x = torch.where(mask[..., None], full.x, bench.junk(kind, 3, bench.length, full.x[0]))
        _compare(f"masked cells of {kind}", Placed(x, layout, slots), bench.subject(x, layout), expected, trial)


@torch.no_grad()
def packing(bench: Bench, trial: Trial) -> None:
    """Documents packed in one row, with or without padding, equal the same documents run apart."""
    if "grid" in bench.needs:
        raise NotClaimed("a grid holds one document")
    mixer = bench.subject
    for lengths in ([(7, 1, 12), (1, 1, 18), (16, 4)], [(1, 5, bench.length), (bench.length, 5, 1)]):
        packed = [bench.documents(*row) for row in lengths]
        expected = [torch.cat([bench.alone(mixer, document) for document in row]) for row in packed]
        rows = [_pack(row, first) for first, row in enumerate(packed)]
        total = len(rows[0])
        placed = bench.place(rows)
        _compare("documents in one row", placed, mixer(placed.x, placed.layout), expected, trial)
        for side in SIDES:
            placed = bench.place(rows, side, total + 6, "large")
            _compare(f"documents in one row, {side} padding", placed, mixer(placed.x, placed.layout), expected, trial)
        placed = bench.place(rows[:1])
        _compare("documents in one row, B=1", placed, mixer(placed.x, placed.layout), expected[:1], trial)


def _pack(documents: list[Document], first: int) -> Document:
    """Segment numbers that begin anywhere and leave gaps."""
    return join(documents, [first + 2 * i for i in range(len(documents))])


def _compare(what: str, placed: Placed, y: torch.Tensor, expected: list[torch.Tensor], trial: Trial) -> None:
    trial.finite(what, y)
    for b, (found, wanted) in enumerate(zip(placed.pick(y), expected, strict=True)):
        trial.near(f"{what}, row {b} of {len(wanted)} real tokens", found, wanted)
    if placed.layout.mask is not None:
        outside = y[~placed.layout.mask]
        largest = float(outside.abs().max()) if outside.numel() else 0.0
        trial.at_most(f"{what}: largest output at padding", largest, 0.0)
