"""From runs to a table: the learning rate of each stack, its mean and spread, and who is level with whom."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenmix.compare.trust import is_worthless

Row = dict[str, Any]


def mean_spread(values: Sequence[float]) -> list[float | None]:
    """Mean and standard deviation between seeds (n - 1); None for the second of one value.

    Example:
        >>> mean_spread([1.0, 3.0]), mean_spread([2.0])
        ([2.0, 1.4142135623730951], [2.0, None])
    """
    return [statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None]


T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 8: 2.31, 10: 2.23, 15: 2.13, 20: 2.09, 30: 2.04}
BEST, AMONG, WORSE, CHANCE = "best", "among the best", "worse", "at chance"
ONE_SEED, NOT_COUNTED = "one seed", "not counted"
SMALLEST = 0.005  # a difference that is worth a word, in units of the score


def beyond_spread(a: Sequence[float], b: Sequence[float]) -> bool | None:
    """Whether two means differ by Welch's t-test at 5 %, and by at least 0.005.

        |mean a - mean b| > t(0.975, df) sqrt(s_a^2 / n_a + s_b^2 / n_b)

    Args:
        a, b: a score a seed.

    Returns:
        None where either has one seed, so that there is no spread.

    Example:
        >>> beyond_spread([1.0, 1.1, 1.05], [2.0, 2.1, 2.05]), beyond_spread([1.0, 2.0], [1.4, 2.4])
        (True, False)
    """
    if len(a) < 2 or len(b) < 2:
        return None
    gap = abs(statistics.fmean(a) - statistics.fmean(b))
    parts = [(statistics.variance(scores) / len(scores), len(scores) - 1) for scores in (a, b)]
    error = sum(part for part, _ in parts)
    if gap < SMALLEST or error == 0:
        return gap >= SMALLEST
    freedom = error**2 / sum(part**2 / count for part, count in parts)
    return gap > _quantile(freedom) * math.sqrt(error)


def _quantile(freedom: float) -> float:
    """Of Student's t, 97.5 %, for the tabled degrees of freedom at or below."""
    return T95[max((tabled for tabled in T95 if tabled <= freedom + 1e-9), default=1)]


def summarise(results: Mapping[str, Any]) -> list[Row]:
    """A row for each task and stack.

    The learning rate is that of `best_rate`. The score is the mean of the test scores at that rate. The verdict is
    that of `judge`.

    Args:
        results: with "tasks" and "runs", and "portraits" where there are some.
    """
    rows = []
    for task, about in results["tasks"].items():
        mine = [run for run in results["runs"] if run["task"] == task]
        stacks = dict.fromkeys(run["stack"] for run in mine)
        found = [_row(task, about, stack, [r for r in mine if r["stack"] == stack]) for stack in stacks]
        rows += judge(found, about, [stack for stack in stacks if is_worthless(results, task, stack)])
    return rows


def _row(task: str, about: Mapping[str, Any], stack: str, runs: Sequence[Mapping[str, Any]]) -> Row:
    sign = 1 if about["higher_is_better"] else -1
    by_rate: dict[float, list[Mapping[str, Any]]] = {}
    for run in runs:
        by_rate.setdefault(run["learning_rate"], []).append(run)
    tried = {rate: _scores(group, "valid") for rate, group in sorted(by_rate.items())}
    whole = {rate: scores for rate, scores in tried.items() if len(scores) == len(by_rate[rate])}
    rate = best_rate(by_rate, about["higher_is_better"])
    row: Row = {
        "task": task,
        "stack": stack,
        "parameters": runs[0]["parameters"],
        "flops": runs[0]["flops"],
        "by_learning_rate": {f"{rate:g}": mean_spread(scores) for rate, scores in whole.items()},
        "tried": sorted(by_rate),
        "failed": sum(run["status"] != "finished" for run in runs),
    }
    if rate is None:
        empty = dict.fromkeys(("learning_rate", "valid", "score", "spread", "seconds"))
        return row | empty | {"scores": [], "seeds": 0, "solved_runs": 0, "cases": {}, "verdict": "failed"}
    best = sorted(by_rate[rate], key=lambda run: run["seed"])
    scores = _scores(best, "test")
    mean, spread = mean_spread(scores)
    solved = about["solved"]
    return row | {
        "learning_rate": rate,
        "valid": statistics.fmean(whole[rate]),
        "score": mean,
        "spread": spread,
        "scores": scores,
        "seeds": len(scores),
        "solved_runs": 0 if solved is None else sum(sign * score >= sign * solved for score in scores),
        "answers": best[0].get("answers"),
        "solved_rates": []
        if solved is None
        else [other for other in whole if _all_solved(by_rate[other], len(scores), sign, solved)],
        "cases": {label: mean_spread([run["cases"][label] for run in best]) for label in about["cases"]},
        "seconds": statistics.fmean(run["seconds"] for run in best),
        "verdict": "",
    }


def best_rate(by_rate: Mapping[float, Sequence[Mapping[str, Any]]], higher_is_better: bool) -> float | None:
    """The learning rate with the best mean validation score; of those tried with the most seeds, the lower of equals.

    Args:
        by_rate: runs by learning rate.
        higher_is_better: the direction of the score.

    Returns:
        None where every rate has a run that failed or diverged.

    Example:
        >>> run = lambda valid: {"status": "finished", "valid": valid}
        >>> best_rate({0.1: [run(0.5)], 0.2: [run(0.7)], 0.3: [{"status": "diverged", "valid": None}]}, True)
        0.2
    """
    scores = {rate: _scores(runs, "valid") for rate, runs in by_rate.items()}
    whole = [rate for rate, runs in by_rate.items() if len(scores[rate]) == len(runs)]
    most = max((len(by_rate[rate]) for rate in whole), default=0)
    whole = [rate for rate in whole if len(by_rate[rate]) == most]
    sign = 1 if higher_is_better else -1
    return max(whole, key=lambda rate: (sign * statistics.fmean(scores[rate]), -rate), default=None)


def judge(rows: list[Row], about: Mapping[str, Any], worthless: Sequence[str] = ()) -> list[Row]:
    """Give each row of one task its verdict; rows stay in their order.

    They are compared with the highest mean by `beyond_spread`: "best" where all others are worse, "among the best"
    for those between which no difference is found, "worse", or "at chance" where a mean is not beyond guessing; "one
    seed" where there is no spread to compare with, and "not counted" where the future was read.

    Args:
        rows: of one task, with scores or without; changed in place.
        about: the task.
        worthless: stacks whose scores are not to be compared with.
    """
    sign = 1 if about["higher_is_better"] else -1
    for row in rows:
        if row["scores"]:
            at_chance = no_better_than_guessing(row, about)
            row["verdict"] = NOT_COUNTED if row["stack"] in worthless else CHANCE if at_chance else ""
    open_ = [row for row in rows if row["scores"] and not row["verdict"]]
    if not open_:
        return rows
    best = max(open_, key=lambda row: sign * row["score"])
    for row in open_:
        apart = beyond_spread(row["scores"], best["scores"])
        row["verdict"] = ONE_SEED if apart is None else WORSE if apart else AMONG
    if [row["verdict"] for row in open_].count(AMONG) == 1:
        best["verdict"] = BEST
    return rows


def no_better_than_guessing(row: Mapping[str, Any], about: Mapping[str, Any]) -> bool:
    """Whether a mean is not above what can be had without reading, by twice its standard error.

    That is the task's reference of this kind, see `Task.blind`. For accuracy the error is at least that of guessing on
    as many answers as were asked.
    """
    if not about["references"]:
        return False
    name = about.get("blind") or next(iter(about["references"]))
    sign, guess = (1 if about["higher_is_better"] else -1), about["references"][name]
    error = (row["spread"] or 0.0) / math.sqrt(row["seeds"])
    if about["metric"] == "accuracy" and row.get("answers"):
        error = max(error, math.sqrt(max(guess * (1 - guess), 0.0) / row["answers"]))
    return sign * (row["score"] - guess) <= 2 * error


def _all_solved(runs: Sequence[Mapping[str, Any]], seeds: int, sign: int, solved: float) -> bool:
    scores = _scores(runs, "test")
    return len(scores) == seeds and all(sign * score >= sign * solved for score in scores)


def _scores(runs: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    return [run[key] for run in runs if run["status"] == "finished" and run[key] is not None]
