"""Law 5: a causal mixer that reads in chunks, with a state, is the mixer that reads all at once."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from tokenmix.laws.bench import Bench, Document, Side, cut, join
from tokenmix.laws.trial import SAME_GRADIENT, SMALLEST_SCALE, NotClaimed, Trial
from tokenmix.mixer import TokenMixer
from tokenmix.state import MixerState


def streaming(bench: Bench, trial: Trial) -> None:
    """Any split into chunks equals one call; so do reorder and crop; the state's bytes and counts are as claimed."""
    if not bench.subject.is_causal:
        raise NotClaimed("not causal")
    unstreamable = sorted({"grid", "edges"} & set(bench.needs))
    if unstreamable:
        raise NotClaimed(f"needs {unstreamable[0]}, which does not arrive in chunks")
    with torch.no_grad():
        _splits(bench, trial)
        _ragged_chunks(bench, trial, packed=False)
        _ragged_chunks(bench, trial, packed=True)
        _whole_segments(bench, trial)
        _two_streams(bench, trial)
        _reorder(bench, trial)
        _crop(bench, trial)
    _gradients(bench, trial)


def _splits(bench: Bench, trial: Trial) -> None:
    """Single steps, odd chunks, prefill and then steps; for one row and for two."""
    mixer, n = bench.subject, bench.length
    splits = {
        "single steps": [1] * n,
        "one chunk": [n],
        "chunks of 5": [5] * (n // 5) + [n % 5],
        "prefill, then single steps": [n // 2] + [1] * (n - n // 2),
        "one step, then a long chunk": [1, n - 1],
        "chunks of 3, 1, 9, ...": [3, 1, 9, n - 13],
    }
    for rows in (1, 2):
        placed = bench.place(bench.documents(*[n] * rows))
        expected = mixer(placed.x, placed.layout)
        for name, sizes in splits.items():
            state, parts, start = mixer.init_state(rows), [], 0
            for stop in torch.tensor([size for size in sizes if size]).cumsum(0).tolist():
                parts.append(mixer(placed.x[:, start:stop], cut(placed.layout, start, stop), state))
                start = stop
                _check_counters(f"{name}, B={rows}", mixer, state, [start] * rows, trial)
            trial.near(f"{name}, B={rows}, against one call", torch.cat(parts, dim=1), expected)


def _check_counters(what: str, mixer: TokenMixer, state: MixerState, seen: list[int], trial: Trial) -> None:
    found = state.seen.tolist()
    trial.require(found == seen, f"{what}: expected state.seen {seen}, found {found}")
    if len(set(seen)) == 1:
        expected = 4 * len(seen) * mixer.state_numel(seen[0])
        trial.require(
            state.nbytes == expected,
            f"{what}: state_numel({seen[0]}) says {expected} bytes for {len(seen)} rows, found {state.nbytes}",
        )


def _feed(
    bench: Bench,
    mixer: TokenMixer,
    state: MixerState,
    rows: list[Document],
    side: Side | None,
    width: int | None = None,
) -> list[Tensor]:
    """One chunk with a part of each row's document, padded with junk; the outputs of the real tokens."""
    placed = bench.place(rows, side, width, "large")
    return placed.pick(mixer(placed.x, placed.layout, state))


def _schedule(bench: Bench, totals: list[int]) -> list[list[int]]:
    """Uneven chunk sizes a row, with empty ones, that add up to the totals."""
    chunks, left = [], list(totals)
    while any(left):
        sizes = torch.randint(0, 6, (len(totals),), generator=bench.generator).tolist()
        chunks.append([min(size, rest) for size, rest in zip(sizes, left, strict=True)])
        left = [rest - size for rest, size in zip(left, chunks[-1], strict=True)]
    return chunks


def _ragged_chunks(bench: Bench, trial: Trial, *, packed: bool) -> None:
    """Rows that receive different numbers of tokens in a chunk, with documents that begin and end anywhere."""
    mixer = bench.subject
    lengths = [(9, 1, 11), (14, 3), (1, 1, 15)] if packed else [(bench.length,), (13,), (4,)]
    documents = [bench.documents(*row) for row in lengths]
    rows = [join(row, list(range(len(row)))) if packed else row[0] for row in documents]
    expected = [torch.cat([bench.alone(mixer, document) for document in row]) for row in documents]
    sides: tuple[Side, ...] = ("left", "right", "scattered")
    for side in sides:
        what = f"chunks with {side} padding" + (" and segments over their borders" if packed else "")
        state, done = mixer.init_state(len(rows)), [0] * len(rows)
        outputs: list[list[Tensor]] = [[] for _ in rows]
        for sizes in _schedule(bench, [len(row) for row in rows]):
            chunk = [row.part(start, start + size) for row, start, size in zip(rows, done, sizes, strict=True)]
            done = [start + size for start, size in zip(done, sizes, strict=True)]
            for parts, y in zip(outputs, _feed(bench, mixer, state, chunk, side, max(sizes) + 2), strict=True):
                parts.append(y)
            _check_counters(what, mixer, state, done, trial)
        for b, (parts, wanted) in enumerate(zip(outputs, expected, strict=True)):
            trial.near(f"{what}, row {b} against its documents alone", torch.cat(parts), wanted)


def _whole_segments(bench: Bench, trial: Trial) -> None:
    """Packed rows without padding, cut anywhere, the first document continuing without segments."""
    mixer = bench.subject
    documents = bench.documents(6, 1, 13)
    row, expected = join(documents, [3, 4, 9]), torch.cat([bench.alone(mixer, d) for d in documents])
    for sizes in ([20], [6, 1, 13], [3, 3, 14], [7, 8, 5], [1] * 20):
        state, parts, start = mixer.init_state(1), [], 0
        for size in sizes:
            parts += _feed(bench, mixer, state, [row.part(start, start + size)], None)
            start += size
        trial.near(f"packed documents in chunks of {sizes}", torch.cat(parts), expected)


def _two_streams(bench: Bench, trial: Trial) -> None:
    """Two states read in turns: nothing may be kept outside the state, nothing may be left over."""
    mixer, n = bench.subject, bench.length // 2
    documents = bench.documents(n, n)
    states = [mixer.init_state(1), mixer.init_state(1)]
    outputs: list[list[Tensor]] = [[], []]
    for start in range(0, n, 3):
        for document, state, parts in zip(documents, states, outputs, strict=True):
            parts += _feed(bench, mixer, state, [document.part(start, start + 3)], None)
    for document, parts in zip(documents, outputs, strict=True):
        trial.near("two streams in turns, each with its state", torch.cat(parts), bench.alone(mixer, document))


def _reorder(bench: Bench, trial: Trial) -> None:
    """Rows selected and repeated in the middle of a stream, twice, as in beam search."""
    mixer = bench.subject
    for lengths, side in (([11, 7, 16], "left"), ([9, 9, 9], None)):
        past = bench.documents(*lengths)
        state = mixer.init_state(len(past))
        _feed(bench, mixer, state, past, side)  # type: ignore[arg-type]  # a literal of Side
        for index, steps in (([2, 0, 0, 1], (1, 4, 1)), ([3, 1, 1, 0, 2], (1, 1)), ([4], (2, 1))):
            state.reorder(torch.tensor(index))
            past = [past[i] for i in index]
            for size in steps:
                news = bench.documents(*[size] * len(past))
                past = [join([old, new]) for old, new in zip(past, news, strict=True)]
                chunk = [row.part(len(row) - size, len(row)) for row in past]
                for b, y in enumerate(_feed(bench, mixer, state, chunk, None)):
                    wanted = bench.alone(mixer, past[b])[-size:]
                    trial.near(f"after reorder({index}), row {b}, against recomputation", y, wanted)
            _check_counters(f"after reorder({index})", mixer, state, [len(row) for row in past], trial)


def _crop(bench: Bench, trial: Trial) -> None:
    """Where crop is possible it equals recomputation; elsewhere it raises ValueError."""
    mixer, n = bench.subject, bench.length // 2
    for lengths, side in (([n, n], None), ([n, n - 5], "right")):
        documents = bench.documents(*lengths)
        state = mixer.init_state(2)
        _feed(bench, mixer, state, documents, side)  # type: ignore[arg-type]  # a literal of Side
        try:
            state.crop(n - 3)
        except ValueError:
            continue
        past = [document.part(0, min(len(document), n - 3)) for document in documents]
        _check_counters("after crop", mixer, state, [len(row) for row in past], trial)
        past = [join([old, new]) for old, new in zip(past, bench.documents(4, 4), strict=True)]
        news = [row.part(len(row) - 4, len(row)) for row in past]
        for row, y in zip(past, _feed(bench, mixer, state, news, None), strict=True):
            trial.near("after crop, against recomputation", y, bench.alone(mixer, row)[-4:])


def _gradients(bench: Bench, trial: Trial) -> None:
    """Gradients that flow through a state equal those of one call."""
    n = bench.length // 2
    placed = bench.place(bench.documents(n, n))
    weights = bench.normal(*placed.x.shape)
    runs: list[dict[str, Tensor | None]] = []
    for borders in ([0, n // 2, n - 1, n], [0, n]):
        mixer, x = bench.copy(), placed.x.clone().requires_grad_()
        state = mixer.init_state(2) if len(borders) > 2 else None
        parts = [mixer(x[:, start:stop], cut(placed.layout, start, stop), state) for start, stop in pairwise(borders)]
        (torch.cat(parts, dim=1) * weights).sum().backward()
        runs.append({"x": x.grad, **{name: p.grad for name, p in mixer.named_parameters()}})
    largest = max(float(gradient.abs().max()) for gradient in runs[1].values() if gradient is not None)
    for name, gradient in runs[0].items():
        wanted = runs[1][name]
        if gradient is not None and wanted is not None:
            what = f"gradient of {name} through a state, against one call"
            trial.near(what, gradient, wanted, SAME_GRADIENT, smallest_scale=SMALLEST_SCALE * largest)
        else:
            trial.require(gradient is wanted, f"gradient of {name} is there only with or only without a state")
