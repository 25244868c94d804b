"""What a report says in words: every sentence is computed from the results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Results = Mapping[str, Any]
FLAT, LINEAR = 0.1, 1.25  # growth exponents up to which a cost counts as flat, as linear


def find(results: Results) -> list[str]:
    """Sentences about tasks, then costs, then what they rest on."""
    found: list[str] = []
    for task, about in results["tasks"].items():
        rows = [row for row in results["summary"] if row["task"] == task and row["scores"]]
        if rows:
            found += [*_winners(task, about, rows), *_cases(task, about, rows, results), *_rates(task, about, rows)]
    found += [*_growth(results), *_ratios(results), *_state(results), *_laws(results), *_changes(results)]
    return [*found, *_grounds(results)]


def _winners(task: str, about: Mapping[str, Any], rows: Sequence[Any]) -> Iterable[str]:
    if about["solved"] is not None:
        level = f"{about['metric']} {'of at least' if about['higher_is_better'] else 'of at most'} {about['solved']:g}"
        always = [row["stack"] for row in rows if row["solved_runs"] == row["seeds"]]
        partly = [
            f"{r['stack']} with {r['solved_runs']} of {r['seeds']}" for r in rows if 0 < r["solved_runs"] < r["seeds"]
        ]
        if always:
            yield f"{task}: {listed(always)} {_verb(always, 'solves', 'solve')} it with every seed ({level})."
        if partly:
            yield f"{task}: solved by {listed(partly)} seeds."
        if not always and not partly:
            yield f"{task}: nothing solves it ({level})."
    best = next((row for row in rows if row["verdict"] in ("best", "one seed")), None)
    if about["solved"] is None and best is not None:
        best = max(rows, key=lambda row: row["score"] if about["higher_is_better"] else -row["score"])
        level_with = [row["stack"] for row in rows if row["verdict"] == "level with the best"]
        tail = f"; {listed(level_with)} {_verb(level_with, 'is', 'are')} level with it" if level_with else ""
        yield f"{task}: {best['stack']} is best, {scored(best['score'], best['spread'])} {about['metric']}{tail}."
    worse = [row for row in rows if row["verdict"] == "worse"]
    if worse:
        told = [f"{row['stack']} ({scored(row['score'], row['spread'])})" for row in worse]
        yield f"{task}: beyond the spread between seeds, {listed(told)} {_verb(told, 'is', 'are')} worse than the best."
    chance = [
        f"{row['stack']} ({scored(row['score'], row['spread'])})" for row in rows if row["verdict"] == "at chance"
    ]
    if chance:
        name = about.get("blind") or next(iter(about["references"]))
        value = about["references"][name]
        yield f"{task}: {listed(chance)} {_verb(chance, 'is', 'are')} no better than {name} ({value:.3g})."
    passed = [
        f"{name} ({value:.3g})"
        for name, value in list(about["references"].items())[1:]
        if all((row["score"] > value) is not about["higher_is_better"] for row in rows)
    ]
    if passed:
        yield f"{task}: no stack reaches {listed(passed)}."


def _cases(task: str, about: Mapping[str, Any], rows: Sequence[Any], results: Results) -> Iterable[str]:
    """What is solved of some cases alone, and what lies beyond a stack's reach."""
    portraits = results.get("portraits") or {}
    for row in rows:
        portrait = portraits.get(row["stack"]) or {}
        if portrait.get("reach_bounded") and portrait.get("reach_known") and not portrait.get("reads_future"):
            reach = portrait["reach"]
            beyond = [case for case in about["cases"] if (about["spans"].get(case) or 0) > reach]
            if beyond:
                needed = listed([f"{about['spans'][case]} ({about['vary']} {case})" for case in beyond])
                got = listed([f"{row['cases'][case][0]:.3g}" for case in beyond])
                yield (
                    f"{task}: {row['stack']} reads {reach} tokens back and no further, and some answers need {needed}: "
                    f"no training can solve these; it scores {got}."
                )
        if about["solved"] is None or len(about["cases"]) < 2 or row["solved_runs"] == row["seeds"]:
            continue
        sign = 1 if about["higher_is_better"] else -1
        good = [case for case in about["cases"] if sign * row["cases"][case][0] >= sign * about["solved"]]
        if good and len(good) < len(about["cases"]):
            rest = [f"{case} ({row['cases'][case][0]:.3g})" for case in about["cases"] if case not in good]
            yield f"{task}: {row['stack']} solves {about['vary']} {listed(good)}, but not {listed(rest)}."


def _rates(task: str, about: Mapping[str, Any], rows: Sequence[Any]) -> Iterable[str]:
    edge = []
    for row in rows:
        rates = row["tried"]
        if with_every_seed(row) and about["solved"] is not None and 0 < len(row["solved_rates"]) < len(rates):
            told = listed([f"{rate:g}" for rate in row["solved_rates"]])
            yield f"{task}: {row['stack']} solves it with every seed at learning rate {told} alone, of {len(rates)}."
        solved = about["solved"] is not None and row["solved_runs"] == row["seeds"]
        if (
            len(rates) > 1
            and row["learning_rate"] in (min(rates), max(rates))
            and not solved
            and row["verdict"] != "at chance"
        ):
            edge.append(f"{row['stack']} ({row['learning_rate']:g})")
    if edge:
        yield f"{task}: the best learning rate is an edge of the grid for {listed(edge)}: a wider one may do better."


def _growth(results: Results) -> Iterable[str]:
    costs = results.get("costs") or {}
    growth = costs.get("growth") or {}
    for key, what in (("flops", "the FLOPs of a forward grow"), ("forward_seconds", "the time of a forward grows")):
        slopes = {stack: found[key] for stack, found in growth.items() if found.get(key) is not None}
        if not slopes:
            continue
        linear = [f"{stack} (L^{slope:.2f})" for stack, slope in slopes.items() if slope <= LINEAR]
        steep = [f"{stack} (L^{slope:.2f})" for stack, slope in slopes.items() if slope > LINEAR]
        lengths = sorted({row["length"] for row in costs["rows"]})
        told = [f"linearly or less for {listed(linear)}"] if linear else []
        told += [f"faster for {listed(steep)}"] if steep else []
        yield f"Cost: up to {lengths[-1]} tokens, over the upper half of the lengths, {what} {', '.join(told)}."


def _ratios(results: Results) -> Iterable[str]:
    costs = results.get("costs") or {}
    rows = [row for row in costs.get("rows") or [] if row.get("forward_ratio") is not None]
    if not rows:
        return
    longest, reference = max(row["length"] for row in rows), costs["reference"]
    told = []
    for row in rows:
        if row["length"] == longest and row["stack"] != reference:
            memory = row.get("forward_bytes_ratio")
            beside = "" if memory is None else f" ({memory:.2g})"
            told.append(f"{row['stack']} {row['forward_ratio']:.2g}{beside}")
    if told:
        yield f"Cost: a forward's time (and peak memory) at {longest} tokens, with {reference}'s as 1: {listed(told)}."


def _state(results: Results) -> Iterable[str]:
    costs = results.get("costs") or {}
    flat: list[str] = []
    growing: list[str] = []
    for stack, found in (costs.get("growth") or {}).items():
        rows = [r for r in costs["rows"] if r["stack"] == stack and r.get("state_bytes") is not None]
        if not rows or found.get("state_bytes") is None:
            continue
        last = max(rows, key=lambda row: row["length"])
        told = f"{stack} ({last['state_bytes']:,} bytes)"
        (flat if found["state_bytes"] <= FLAT else growing).append(told)
        longest = last["length"]
    if flat:
        yield f"State: what is kept to decode does not grow with the length for {listed(flat)}."
    if growing:
        yield f"State: it grows for {listed(growing)}, at {longest} tokens."


def _laws(results: Results) -> Iterable[str]:
    for stack, portrait in (results.get("portraits") or {}).items():
        given_away = [
            row["task"]
            for row in results["summary"]
            if row["stack"] == stack and results["tasks"][row["task"]].get("needs_causal") and row["scores"]
        ]
        if portrait.get("reads_future") and given_away:
            yield f"Laws: {stack} reads the future, so its scores on {listed(given_away)} are worth nothing."
        for mixer, verdicts in (portrait.get("laws") or {}).items():
            broken = [
                f"{verdict['number']} ({verdict['law']})" for verdict in verdicts if verdict["status"] == "broken"
            ]
            if broken:
                yield f"Laws: {stack} breaks {listed(broken)}, by its mixer {mixer}: its scores may rest on that."


def _changes(results: Results) -> Iterable[str]:
    rows = (results.get("baseline") or {}).get("rows") or []
    for verdict in ("better", "worse"):
        told = [
            f"{r['stack']} on {r['task']} ({r['before']:.4g} to {r['after']:.4g})"
            for r in rows
            if r["verdict"] == verdict
        ]
        if told:
            yield f"Since {results['baseline']['path']}, beyond the spread: {verdict} {listed(told)}."
    other = sorted({row["verdict"] for row in rows} - {"better", "worse", "within the spread"})
    for verdict in other:
        told = [f"{row['stack']} on {row['task']}" for row in rows if row["verdict"] == verdict]
        yield f"Since {results['baseline']['path']}, {verdict}: {listed(told)}."
    changed = sorted({row["note"] for row in rows if row["note"].startswith("settings")})
    if changed:
        yield f"Since {results['baseline']['path']}, not only the code differs: {'; '.join(changed)}."
    if rows and all(row["verdict"] == "within the spread" for row in rows):
        yield f"Since {results['baseline']['path']}: nothing changed beyond the spread."


def _grounds(results: Results) -> Iterable[str]:
    rows = [row for row in results["summary"] if row["scores"]]
    few = sorted({row["seeds"] for row in rows if row["seeds"] < 3})
    if few:
        counted = "1 seed" if few == [1] else f"{listed([str(n) for n in few])} seeds"
        yield f"Grounds: only {counted}: differences cannot be told from luck."
    rates = {len(row["tried"]) for row in rows}
    if rates and min(rates) < 3:
        counted = "1 learning rate" if min(rates) == 1 else f"{min(rates)} learning rates"
        yield f"Grounds: only {counted} tried: a mixer may have been given the wrong one."
    if results.get("config", {}).get("protocol", {}).get("search") == "first seed":
        yield "Grounds: learning rates were chosen with the first seed, whose score is favoured by that."
    failed = [f"{row['stack']} on {row['task']} ({row['failed']})" for row in results["summary"] if row["failed"]]
    if failed:
        yield f"Grounds: runs that failed or diverged: {listed(failed)}."
    for key in ("parameters", "flops"):
        gaps = []
        for task in results["tasks"]:
            sizes = [row[key] for row in rows if row["task"] == task]
            gaps += [max(sizes) / min(sizes) - 1] if sizes and min(sizes) else []
        if gaps:
            what = "parameters" if key == "parameters" else "FLOPs of a forward"
            yield f"Grounds: the {what} of stacks differ by at most {100 * max(gaps):.1f} %."


def with_every_seed(row: Mapping[str, Any]) -> bool:
    """Whether every learning rate was tried with more than one seed, so that what it solves can be told."""
    return all(spread is not None for _, spread in row["by_learning_rate"].values())


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    Example:
        >>> listed(["a", "b", "c"]), listed(["a"])
        ('a, b and c', 'a')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def scored(mean: float, spread: float | None) -> str:
    """A mean and its spread.

    Example:
        >>> scored(0.5, 0.01), scored(0.5, None)
        ('0.500 ± 0.010', '0.500')
    """
    return f"{mean:.3f}" if spread is None else f"{mean:.3f} ± {spread:.3f}"


def _verb(names: Sequence[str], one: str, several: str) -> str:
    return one if len(names) == 1 else several
