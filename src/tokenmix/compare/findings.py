"""What a report says in words: every sentence is computed from the results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenmix.compare.findings_costs import about_costs, about_state, unmeasured_growth
from tokenmix.compare.findings_tasks import about_task
from tokenmix.compare.formats import listed
from tokenmix.compare.trust import broken_laws, is_worthless

Results = Mapping[str, Any]
WARNING, GROUND = "Warning", "Grounds"
_GROUPS = {WARNING: "Warnings", "Changes": "Changes", "Cost": "Costs", "State": "State", GROUND: "Grounds"}


def find(results: Results) -> list[str]:
    """Sentences, each behind what it is about: warnings first, then changes, tasks, costs, and what all rests on."""
    found = [*_warnings(results), *_changes(results)]
    for task, about in results["tasks"].items():
        rows = [row for row in results["summary"] if row["task"] == task and row["scores"]]
        found += [f"{task}: {sentence}" for sentence in about_task(about, rows, results)] if rows else []
    found += [f"Cost: {sentence}" for sentence in about_costs(results)]
    found += [f"State: {sentence}" for sentence in about_state(results)]
    return [*found, *(f"{GROUND}: {sentence}" for sentence in _grounds(results))]


def group_findings(findings: Sequence[str], tasks: Iterable[str]) -> dict[str, list[str]]:
    """Sentences under headings, in their order; those about nothing known under "".

    Args:
        findings: of `find`.
        tasks: names of tasks, which are headings.

    Example:
        >>> group_findings(["recall: a is best.", "Cost: b is cheap."], ["recall"])
        {'recall': ['a is best.'], 'Costs': ['b is cheap.']}
    """
    headings = {**dict.fromkeys(tasks), **_GROUPS}
    grouped: dict[str, list[str]] = {}
    for sentence in findings:
        about, colon, rest = sentence.partition(": ")
        known = bool(colon) and about in headings
        heading = (headings[about] or about) if known else ""
        grouped.setdefault(heading, []).append(rest if known else sentence)
    return grouped


def _warnings(results: Results) -> Iterable[str]:
    """What makes scores worth less than they look."""
    rows = [row for row in results["summary"] if row["scores"]]
    for stack in dict.fromkeys(row["stack"] for row in rows):
        tasks = [row["task"] for row in rows if row["stack"] == stack and is_worthless(results, row["task"], stack)]
        if tasks:
            yield (
                f"{WARNING}: {stack} reads the future, found by trying, though its mixers say that they are causal, so "
                f"its scores on {listed(tasks)} are worth nothing; others are not compared with it."
            )
    for mixer, laws, stacks in broken_laws(results):
        whose = "its scores" if len(stacks) == 1 else "their scores"
        verb = "breaks law" if len(laws) == 1 else "breaks laws"
        yield f"{WARNING}: the mixer {mixer} of {listed(stacks)} {verb} {listed(laws)}: {whose} may rest on that."
    failed = [f"{row['stack']} on {row['task']} ({row['failed']})" for row in results["summary"] if row["failed"]]
    if failed:
        yield f"{WARNING}: runs that failed or diverged: {listed(failed)}."
    few = sorted({row["seeds"] for row in rows if row["seeds"] < 3})
    if few:
        counted = "1 seed" if few == [1] else f"{listed([str(n) for n in few])} seeds"
        yield f"{WARNING}: only {counted}: differences cannot be told from luck."
    rates = {len(row["tried"]) for row in rows}
    if rates and min(rates) < 3:
        counted = "1 learning rate" if min(rates) == 1 else f"{min(rates)} learning rates"
        yield f"{WARNING}: only {counted} tried: a mixer may have been given the wrong one."


def _changes(results: Results) -> Iterable[str]:
    rows = (results.get("baseline") or {}).get("rows") or []
    if not rows:
        return
    since = f"Changes: since {results['baseline']['path']}"
    for verdict in ("better", "worse"):
        told = [
            f"{r['stack']} on {r['task']} ({r['before']:.4g} to {r['after']:.4g})"
            for r in rows
            if r["verdict"] == verdict
        ]
        if told:
            yield f"{since}, beyond the spread: {verdict} {listed(told)}."
    other = sorted({row["verdict"] for row in rows} - {"better", "worse", "within the spread"})
    for verdict in other:
        told = [f"{row['stack']} on {row['task']}" for row in rows if row["verdict"] == verdict]
        yield f"{since}, {verdict}: {listed(told)}."
    changed = sorted({row["note"] for row in rows if row["note"].startswith("settings")})
    if changed:
        yield f"{since}, not only the code differs: {'; '.join(changed)}."
    if all(row["verdict"] == "within the spread" for row in rows):
        yield f"{since}: nothing changed beyond the spread."


def _grounds(results: Results) -> Iterable[str]:
    """What the sentences rest on, and what was not said for want of it."""
    if results.get("config", {}).get("protocol", {}).get("search") == "first seed":
        yield "learning rates were chosen with the first seed, whose score is favoured by that."
    yield from unmeasured_growth(results)
    for key, what in (("parameters", "parameters"), ("flops", "FLOPs of a forward")):
        widest, where = -1.0, ""
        for task in results["tasks"]:
            rows = sorted((r for r in results["summary"] if r["task"] == task and r["scores"]), key=lambda r: r[key])
            if not rows or not rows[0][key]:
                continue
            low, high = rows[0], rows[-1]
            if high[key] / low[key] - 1 > widest:
                widest = high[key] / low[key] - 1
                where = f" (on {task}, {low['stack']} the fewest and {high['stack']} the most)" if widest > 0 else ""
        if widest >= 0:
            yield f"the {what} of stacks on a task differ by at most {100 * widest:.1f} %{where}."
