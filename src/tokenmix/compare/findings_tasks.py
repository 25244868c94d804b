"""What a report says of one task: who solves it, who is best, and what may have kept the others from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenmix.compare.formats import listed
from tokenmix.compare.summary import AMONG, BEST, CHANCE, NOT_COUNTED, ONE_SEED, WORSE

Row = Mapping[str, Any]
BARELY = 0.2  # of the way from guessing to what would be good, up to which nothing was learnt to speak of


def about_task(about: Row, rows: Sequence[Row], results: Mapping[str, Any]) -> list[str]:
    """Sentences about one task: what decides it first.

    Args:
        about: the task, as in the results.
        rows: of the summary, those with scores.
        results: for the portraits.
    """
    counted = [row for row in rows if row["verdict"] != NOT_COUNTED]
    if not counted:
        return []
    said = [*_solved(about, counted), *_best(about, counted), *_chance(about, counted)]
    return [*said, *_missed(about, counted), *_beyond(about, counted, results), *_rates(about, counted)]


def _solved(about: Row, rows: Sequence[Row]) -> Iterable[str]:
    """Who solves it with every seed, with some, or in some cases only."""
    if about["solved"] is None:
        return
    level = f"{about['metric']} {'of at least' if about['higher_is_better'] else 'of at most'} {about['solved']:g}"
    always = [row["stack"] for row in rows if is_solved(row)]
    if always:
        yield f"{listed(always)} {_verb(always, 'solves', 'solve')} it with every seed ({level})."
    partly = [row for row in rows if 0 < row["solved_runs"] < row["seeds"]]
    for row in partly:
        tail = f"; over all seeds, its mean is {found}" if (found := _cases(about, row)) else ""
        yield f"solved by {row['stack']} with {row['solved_runs']} of {row['seeds']} seeds{tail}."
    if not always and not partly:
        yield f"nothing solves it ({level})."
    for row in rows:
        if not row["solved_runs"] and (found := _cases(about, row)):
            yield f"{row['stack']} solves it with no seed, but its mean is {found}."


def _cases(about: Row, row: Row) -> str:
    """Which cases a mean over seeds is good enough for, where these are some and not all."""
    sign = 1 if about["higher_is_better"] else -1
    good = [case for case in about["cases"] if sign * row["cases"][case][0] >= sign * about["solved"]]
    rest = [f"{case} ({row['cases'][case][0]:.3g})" for case in about["cases"] if case not in good]
    return f"at that level for {about['vary']} {listed(good)}, not for {listed(rest)}" if good and rest else ""


def _best(about: Row, rows: Sequence[Row]) -> Iterable[str]:
    """Who is best, whom no difference was found between, and who is worse."""
    by = {verdict: [row for row in rows if row["verdict"] == verdict] for verdict in (BEST, AMONG, ONE_SEED, WORSE)}
    sign = 1 if about["higher_is_better"] else -1
    if about["solved"] is None or not any(is_solved(row) for row in rows):
        if by[BEST]:
            yield f"{by[BEST][0]['stack']} is best, {scored(by[BEST][0])} {about['metric']}."
        if by[AMONG]:
            tied = sorted(by[AMONG], key=lambda row: -sign * row["score"])
            yield f"no difference found between {listed([_named(row) for row in tied])}, the best by their means."
        if by[ONE_SEED]:
            first = max(by[ONE_SEED], key=lambda row: sign * row["score"])
            yield f"{first['stack']} has the best score, {scored(first)} {about['metric']}, of one seed a stack."
    if by[WORSE]:
        told = [_named(row) for row in by[WORSE]]
        yield f"beyond the spread between seeds, {listed(told)} {_verb(told, 'is', 'are')} worse than the best."


def _chance(about: Row, rows: Sequence[Row]) -> Iterable[str]:
    """Who is no better than guessing, and whether anybody is by much."""
    if not about["references"]:
        return
    name = about.get("blind") or next(iter(about["references"]))
    guess, sign = about["references"][name], 1 if about["higher_is_better"] else -1
    chance = [row for row in rows if row["verdict"] == CHANCE]
    if chance:
        told = [_named(row) for row in chance]
        nothing = ": nothing was learnt, so at these settings the task tells nothing about the stacks"
        tail = nothing if len(chance) == len(rows) else ""
        yield f"{listed(told)} {_verb(told, 'is', 'are')} no better than {name} ({guess:.3g}){tail}."
    if len(chance) == len(rows):
        return
    goal = about["solved"]
    if goal is None:
        goal = sign * max(sign * value for value in about["references"].values())
    best = max((row for row in rows if row not in chance), key=lambda row: sign * row["score"])
    solved = any(row["solved_runs"] for row in rows)
    if not solved and sign * (goal - guess) > 0 and (best["score"] - guess) / (goal - guess) < BARELY:
        yield (
            f"even {_named(best)} is barely above {name} ({guess:.3g}), and far from {goal:.3g}: at these settings the "
            "task tells little about the stacks."
        )


def _missed(about: Row, rows: Sequence[Row]) -> Iterable[str]:
    """References that no stack reaches."""
    missed = [
        f"{name} ({value:.3g})"
        for name, value in list(about["references"].items())[1:]
        if all((row["score"] > value) is not about["higher_is_better"] for row in rows)
    ]
    if missed:
        yield f"no stack reaches {listed(missed)}."


def _beyond(about: Row, rows: Sequence[Row], results: Mapping[str, Any]) -> Iterable[str]:
    """What lies beyond a stack's reach."""
    portraits = results.get("portraits") or {}
    for row in rows:
        portrait = portraits.get(row["stack"]) or {}
        if not portrait.get("reach_bounded") or not portrait.get("reach_known") or portrait.get("reads_future"):
            continue
        reach = portrait["reach"]
        beyond = [case for case in about["cases"] if (about["spans"].get(case) or 0) > reach]
        if beyond:
            needed = listed([f"{about['spans'][case]} ({about['vary']} {case})" for case in beyond])
            got = listed([f"{row['cases'][case][0]:.3g}" for case in beyond])
            yield (
                f"{row['stack']} reads {reach} tokens back and no further, and some answers need {needed}: "
                f"no training can solve these; it scores {got}."
            )


def _rates(about: Row, rows: Sequence[Row]) -> Iterable[str]:
    """Whether the grid of learning rates was wide enough."""
    edge: list[str] = []
    solved: list[str] = []
    for row in rows:
        rates = row["tried"]
        if with_every_seed(row) and about["solved"] is not None and 0 < len(row["solved_rates"]) < len(rates):
            told = listed([f"{rate:g}" for rate in row["solved_rates"]])
            yield f"{row['stack']} solves it with every seed at learning rate {told} alone, of {len(rates)}."
        if len(rates) > 1 and row["learning_rate"] in (min(rates), max(rates)):
            note = ", at chance" if row["verdict"] == CHANCE else ""
            (solved if is_solved(row) else edge).append(f"{row['stack']} ({row['learning_rate']:g}{note})")
    if edge:
        beside = f" (so it is for {listed(solved)}, with nothing left to gain)" if solved else ""
        yield f"the best learning rate is an edge of the grid for {listed(edge)}: a wider one may do better{beside}."


def is_solved(row: Row) -> bool:
    """Whether every seed solved the task."""
    return bool(row["solved_runs"]) and row["solved_runs"] == row["seeds"]


def with_every_seed(row: Row) -> bool:
    """Whether every learning rate was tried with more than one seed, so that what it solves can be told."""
    return all(spread is not None for _, spread in row["by_learning_rate"].values())


def scored(row: Row) -> str:
    """A mean and its spread.

    Example:
        >>> scored({"score": 0.5, "spread": 0.01}), scored({"score": 0.5, "spread": None})
        ('0.500 ± 0.010', '0.500')
    """
    return f"{row['score']:.3f}" if row["spread"] is None else f"{row['score']:.3f} ± {row['spread']:.3f}"


def _named(row: Row) -> str:
    return f"{row['stack']} ({scored(row)})"


def _verb(names: Sequence[str], one: str, several: str) -> str:
    return one if len(names) == 1 else several
