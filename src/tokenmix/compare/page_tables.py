"""The table of results on a comparison's page, with the runs behind each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenmix.compare.formats import (
    count_text,
    known,
    large_text,
    number_text,
    score_text,
    seconds_text,
    spread_text,
)
from tokenmix.compare.markup import (
    Column,
    body,
    cell,
    command,
    config_text,
    esc,
    filters,
    number,
    stack_name,
    table,
)
from tokenmix.compare.plot_parts import stack_styles
from tokenmix.compare.summary import AMONG, BEST, CHANCE, NOT_COUNTED, WORSE
from tokenmix.compare.trust import reads_future

Results = Mapping[str, Any]
_RESULTS = (
    Column("Task"),
    Column("Stack"),
    Column("Score", True, "Score: mean test score over seeds, plus or minus one standard deviation"),
    Column("Verdict"),
    Column("Each seed"),
    Column("Solved", True, "Solved: runs that solved the task, of all seeds"),
    Column("Rate", True, "Rate: the learning rate with the best mean validation score"),
    Column("Parameters", True),
    Column("FLOPs", True, "FLOPs of a forward of one of the task's longest rows"),
    Column("Training", True, "Training: mean time of a run"),
)
_VERDICTS = {BEST: "good", AMONG: "level", WORSE: "plain", CHANCE: "warn", NOT_COUNTED: "bad", "failed": "bad"}
_SIZES = ("feed_forward_dim", "parameters")


def with_spread(mean: Any, spread: Any) -> str:
    """A score and its standard deviation as HTML, or a dash."""
    beside = f' <span class="spread">± {spread_text(spread)}</span>' if known(spread) and known(mean) else ""
    return f"{esc(score_text(mean))}{beside}"


def verdict(word: Any, kinds: Mapping[str, str] = _VERDICTS) -> str:
    """A verdict in words, coloured by its kind."""
    return f'<span class="verdict {kinds.get(str(word), "plain")}">{esc(word)}</span>' if word else ""


def future_badge(results: Results, stack: str) -> str:
    """Beside a verdict: that the stack reads the future, and whether its mixers say so or it was found by trying."""
    found = reads_future(results, stack)
    words = {"found": ("bad", "reads the future"), "declared": ("plain", "reads the future, as declared")}
    return f' <span class="verdict {words[found][0]}">{words[found][1]}</span>' if found else ""


# ---------------------------------------------------------------------- results


def results_section(results: Results) -> str:
    """The table of results: a record for each task and stack, the runs behind it, and the references of each task."""
    summary, bodies = results.get("summary", []), []
    for task, about in results.get("tasks", {}).items():
        sign = 1 if about.get("higher_is_better", True) else -1
        rows = [row for row in summary if row["task"] == task]
        rows.sort(key=lambda row: -sign * row["score"] if known(row["score"]) else float("inf"))
        bodies += [_result(results, row) for row in rows]
        references = [pair for pair in about.get("references", {}).items() if known(pair[1])]
        bodies += [_reference(task, *pair) for pair in sorted(references, key=lambda pair: -sign * pair[1])]
    choices = {"task": results.get("tasks", {}), "stack": [row["stack"] for row in summary]}
    caption = "Score of each stack on each task"
    return filters("results", choices, "such as best") + table(_RESULTS, bodies, caption, kind="sortable")


def _result(results: Results, row: Mapping[str, Any]) -> str:
    about = results["tasks"][row["task"]]
    seeds, solvable = len(row["scores"]), bool(row["scores"]) and about.get("solved") is not None
    cells = [
        cell(f'<a href="#task-{_place(results, row["task"])}">{esc(row["task"])}</a>'),
        f'<th scope="row">{stack_name(row["stack"], stack_styles(results))}</th>',
        cell(with_spread(row["score"], row["spread"]), row["score"], numeric=True, kind="score"),
        cell(f"{verdict(row.get('verdict'))}{future_badge(results, row['stack'])}"),
        cell(" ".join(f"<span>{esc(score_text(score))}</span>" for score in row["scores"]), kind="seeds"),
        number(
            f"{row.get('solved_runs') or 0} of {seeds}" if solvable else "–",
            row.get("solved_runs") if solvable else None,
        ),
        number(number_text(row["learning_rate"]), row["learning_rate"]),
        number(count_text(row.get("parameters")), row.get("parameters")),
        cell(_flops(row, about), row.get("flops"), numeric=True),
        number(seconds_text(row.get("seconds")), row.get("seconds")),
    ]
    return body(cells, _runs(results, row), columns=len(cells), kind="result", task=row["task"], stack=row["stack"])


def _flops(row: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    at = f' <span class="spread">at {count_text(about["longest"])}</span>' if known(about.get("longest")) else ""
    return f"{esc(large_text(row.get('flops')))}{at}"


def _reference(task: str, name: str, score: float) -> str:
    cells = [
        cell(esc(task)),
        f'<th scope="row">{esc(name)}</th>',
        number(score_text(score), score),
        cell("reference"),
        *(cell("", numeric=column.numeric) for column in _RESULTS[4:]),
    ]
    return body(cells, kind="reference", task=task)


def _runs(results: Results, row: Mapping[str, Any]) -> str:
    task, stack = row["task"], row["stack"]
    about = results["tasks"][task]
    runs = [run for run in results.get("runs", []) if (run["task"], run["stack"]) == (task, stack)]
    runs.sort(key=lambda run: (run["learning_rate"] != row["learning_rate"], run["learning_rate"], run["seed"]))
    columns = [
        Column("Rate", True, "Learning rate"),
        Column("Seed", True),
        Column("Valid", True, "Validation score"),
        Column("Test", True, "Test score"),
        Column("Steps", True),
        Column("Ended"),
        Column("Time", True),
        Column("Made by"),
    ]
    bodies = [
        body(
            [
                number(number_text(run["learning_rate"]), run["learning_rate"]),
                number(str(run["seed"]), run["seed"]),
                number(score_text(run.get("valid")), run.get("valid")),
                number(score_text(run.get("test")), run.get("test")),
                number(count_text(run.get("steps")), run.get("steps")),
                cell(_ended(run)),
                number(seconds_text(run.get("seconds")), run.get("seconds")),
                cell(f"{command(run.get('command', ''))}<span class=folder>{esc(run.get('folder', ''))}</span>"),
            ],
            kind="chosen" if run["learning_rate"] == row["learning_rate"] else "",
        )
        for run in runs
    ]
    parts = [
        _scores(f"By {about.get('vary', 'case')}", about.get("vary", "case"), row.get("cases") or {}),
        _scores("By learning rate, on validation", "rate", row.get("by_learning_rate") or {}),
        f"<div><h4>Resolved config</h4>{config_text(resolved(results, row, runs))}</div>",
    ]
    title = f"{len(runs)} runs of {stack} on {task}"
    return (
        f"<details><summary>{esc(title)}</summary><div class=inner><h4>{esc(title)}, the best learning rate "
        f"first</h4>{table(columns, bodies, title, kind='runs')}<div class=parts>{''.join(parts)}</div></div></details>"
    )


def _ended(run: Mapping[str, Any]) -> str:
    if run.get("status") in ("diverged", "failed"):
        return f"{verdict(run['status'], {run['status']: 'bad'})} {esc(run.get('error') or '')}"
    return esc(run.get("stopped") or run.get("status") or "")


def _scores(title: str, key: str, by: Mapping[str, Any]) -> str:
    if not by:
        return ""
    bodies = [
        body([f'<th scope="row">{esc(name)}</th>', cell(with_spread(*x), x[0], numeric=True)]) for name, x in by.items()
    ]
    columns = (Column(key.capitalize()), Column("Score", True))
    return f"<div><h4>{esc(title)}</h4>{table(columns, bodies, title, kind='small')}</div>"


def resolved(results: Results, row: Mapping[str, Any], runs: list[Any]) -> dict[str, Any]:
    """The parts of the config that the runs of one stack on one task came from.

    Args:
        results: what results.json holds.
        row: of the summary.
        runs: those of the row.
    """
    whole, about = results.get("config") or {}, results["tasks"][row["task"]]
    tasks = whole.get("tasks")
    found = tasks.get(row["task"]) if isinstance(tasks, Mapping) else None
    spec = dict(found) if isinstance(found, Mapping) else {"task": about.get("task", row["task"])}
    own = spec.pop("training", None) or {}  # what the task replaces of the protocol
    return {
        "task": spec,
        "stack": results.get("stacks", {}).get(row["stack"], row["stack"]),
        "model": {**(whole.get("model") or {}), **{key: runs[0][key] for key in _SIZES if runs and key in runs[0]}},
        "protocol": {**(whole.get("protocol") or {}), **own},
    }


def _place(results: Results, task: str) -> int:
    return list(results["tasks"]).index(task)
