"""The plots of a comparison: quality against cost, size and learning rate, costs, learning curves, influence."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenmix.compare.formats import bytes_text, known, large_text, listed, seconds_text
from tokenmix.compare.plot_parts import (
    FAINT,
    RC,
    Panel,
    Plot,
    Text,
    draw_line,
    front,
    place_cases,
    score_axis,
    shortened,
    stack_styles,
    text_ticks,
)
from tokenmix.compare.trust import broken_decoding

COSTS: dict[str, tuple[str, Text]] = {
    "forward_seconds": ("Time of a forward", seconds_text),
    "train_seconds": ("Time of a forward and a backward", seconds_text),
    "step_seconds": ("Time of one step of decoding", seconds_text),
    "forward_bytes": ("Peak memory of a forward", bytes_text),
    "train_bytes": ("Peak memory of a forward and a backward", bytes_text),
    "state_bytes": ("State", bytes_text),
}
DECODED = ("step_seconds", "state_bytes")  # costs that mean nothing where the laws of decoding are broken
Results = Mapping[str, Any]


def write_plots(results: Results, folder: str | os.PathLike[str]) -> list[Path]:
    """Draw every plot that the results have numbers for, as PNG and as SVG.

    Args:
        results: what results.json holds.
        folder: to write to; made if it is not there.

    Returns:
        The files, in the order of the plots.

    Example:
        >>> write_plots({"tasks": {}, "stacks": {}, "runs": [], "summary": []}, ".")
        []
    """
    import matplotlib

    written = []
    for plot in make_plots(results):
        Path(folder).mkdir(parents=True, exist_ok=True)
        figure = plot.figure()
        for kind in ("png", "svg"):
            path = Path(folder) / f"{plot.name}.{kind}"
            with matplotlib.rc_context(RC):
                figure.savefig(path, dpi=160, metadata={"Date": None} if kind == "svg" else None)
            written.append(path)
    return written


def make_plots(results: Results) -> list[Plot]:
    """The plots that the results have numbers for.

    Args:
        results: what results.json holds.
    """
    functions = (quality_against_cost, quality_against_case, quality_against_rate, cost_against_length)
    return [plot for make in (*functions, learning_curves, influence) if (plot := make(results)).panels]


# ---------------------------------------------------------------------- the plots


def quality_against_cost(results: Results) -> Plot:
    """Score against state and time at the longest measured length; without costs, against FLOPs and training time."""
    rows = [row for row in (results.get("costs") or {}).get("rows", []) if known(row.get("forward_seconds"))]
    counts = {row["length"]: sum(other["length"] == row["length"] for other in rows) for row in rows}
    length = max((n for n in counts if counts[n] == max(counts.values())), default=None)
    at = {row["stack"]: row for row in rows if row["length"] == length}
    kinds: list[tuple[str, str, Text]]
    if length is not None:
        kinds = [("state_bytes", "state", bytes_text), ("forward_seconds", "time of a forward", seconds_text)]
        where = f" at {length:,} tokens"
    else:
        at, where = {}, ""
        kinds = [("flops", "FLOPs a row", large_text), ("seconds", "training time", seconds_text)]

    def panel(task: str, key: str, what: str, text: Text) -> Panel | None:
        found = [
            (row["stack"], cost, row["score"], row.get("spread") or 0.0)
            for row in _summary(results, task)
            if known(cost := (at.get(row["stack"], {}) if at else row).get(key)) and known(row.get("score"))
            if key not in DECODED or not broken_decoding(results, row["stack"])
        ]

        def draw(axes: Any) -> None:
            for stack, cost, score, spread in found:
                colour, marker, _ = styles[stack]
                axes.errorbar([cost], [score], [spread], color=colour, marker=marker, markersize=7, capsize=3)
            best = front([(cost, score) for _, cost, score, _ in found], results["tasks"][task]["higher_is_better"])
            axes.plot(*zip(*best, strict=True), color=FAINT, linewidth=0.9, linestyle=":", zorder=0.5)
            costs = [cost for _, cost, _, _ in found]
            smallest = min((cost for cost in costs if cost > 0), default=1.0)
            axes.set_xscale("symlog", linthresh=smallest) if min(costs) <= 0 else axes.set_xscale("log")
            text_ticks(axes.xaxis, text, costs)
            axes.set_xlabel(what + where)
            score_axis(axes, results["tasks"][task], [score for _, _, score, _ in found])

        return (f"{task}: {what}", draw) if found else None

    styles = stack_styles(results)
    panels = [panel(task, *kind) for task in results.get("tasks", {}) for kind in kinds]
    caption = "Mean over seeds, bars one standard deviation; the dotted line joins stacks that no other beats in both."
    caption += _left_out(results)
    return Plot("quality_cost", "Quality against cost", caption, [x for x in panels if x], styles)


def quality_against_case(results: Results) -> Plot:
    """Score against what tells a task's cases apart, with the spread over seeds and reference lines."""

    def panel(task: str) -> Panel:
        about = results["tasks"][task]

        def draw(axes: Any) -> None:
            places = place_cases(axes, about["cases"])
            scores: list[float] = []
            for row in _summary(results, task):
                cases = row.get("cases") or {}
                points = [(places[case], *cases[case]) for case in about["cases"] if case in cases]
                scores += draw_line(axes, stack_styles(results)[row["stack"]], points)
            axes.set_xlabel(shortened(about.get("vary", "case")))
            score_axis(axes, results["tasks"][task], scores)

        return task, draw

    tasks = [task for task, about in results.get("tasks", {}).items() if len(about["cases"]) > 1]
    tasks = [task for task in tasks if any(_measured(row, "cases") for row in _summary(results, task))]
    caption = "Mean over seeds at the best learning rate, bands one standard deviation; dashed lines are references."
    title = "Quality against the size of the question"
    return Plot("quality_case", title, caption, [panel(task) for task in tasks], stack_styles(results))


def quality_against_rate(results: Results) -> Plot:
    """Validation score against learning rate: how narrow the window is in which a stack trains."""

    def panel(task: str) -> Panel:
        def draw(axes: Any) -> None:
            rates = sorted({float(rate) for row in _summary(results, task) for rate in _rates(row)})
            places, scores = place_cases(axes, [f"{rate:g}" for rate in rates]), []
            for row in _summary(results, task):
                by_rate = sorted((float(rate), pair) for rate, pair in _rates(row).items())
                style = stack_styles(results)[row["stack"]]
                scores += draw_line(axes, style, [(places[f"{rate:g}"], *pair) for rate, pair in by_rate])
            axes.set_xlabel("learning rate")
            score_axis(axes, results["tasks"][task], scores, "valid ")

        return task, draw

    tasks = list(results.get("tasks", {}))
    tasks = [task for task in tasks if any(_measured(row, "by_learning_rate") for row in _summary(results, task))]
    caption = "Mean validation score over seeds, bands one standard deviation: a peak shows a narrow window."
    panels = [panel(task) for task in tasks]
    return Plot("learning_rate", "Quality against learning rate", caption, panels, stack_styles(results))


def cost_against_length(results: Results) -> Plot:
    """Times, peak memory and state against length, on logarithmic axes."""
    rows = (results.get("costs") or {}).get("rows", [])

    def panel(key: str) -> Panel:
        title, text = COSTS[key]

        def draw(axes: Any) -> None:
            places = place_cases(axes, [str(n) for n in sorted({row["length"] for row in rows})])
            for stack, style in stack_styles(results).items():
                if key in DECODED and broken_decoding(results, stack):
                    continue
                mine = [(places[str(row["length"])], row.get(key), None) for row in rows if row["stack"] == stack]
                draw_line(axes, style, [point for point in mine if known(point[1]) and point[1] > 0])
            axes.set_yscale("log")
            text_ticks(axes.yaxis, text, [row[key] for row in shown[key] if known(row.get(key)) and row[key] > 0])
            axes.set_xlabel("tokens")

        return title, draw

    decode = [row for row in rows if not broken_decoding(results, row["stack"])]
    shown = {key: decode if key in DECODED else rows for key in COSTS}
    keys = [key for key in COSTS if any(known(row.get(key)) and row[key] > 0 for row in shown[key])]
    caption = "Both axes are logarithmic: a slope of 1 is growth with the length, a slope of 2 with its square."
    caption += _left_out(results)
    return Plot("costs", "Costs against length", caption, [panel(key) for key in keys], stack_styles(results))


def learning_curves(results: Results) -> Plot:
    """Validation score against steps, of the runs at each stack's best learning rate."""

    def panel(task: str) -> Panel:
        def draw(axes: Any) -> None:
            scores: list[float] = []  # of all but the steep beginning, which may leave the picture
            for run in _best_runs(results, task):
                points = [(step, score, None) for step, score in run.get("history") or [] if known(score)]
                style = stack_styles(results)[run["stack"]]
                draw_line(axes, style._replace(marker="") if len(points) > 1 else style, points, width=1.0)
                scores += [score for step, score, _ in points if step >= 0.1 * points[-1][0]]
            axes.set_xlabel("step")
            score_axis(axes, results["tasks"][task], scores, "valid ")

        return task, draw

    tasks = [task for task in results.get("tasks", {}) if any(run.get("history") for run in _best_runs(results, task))]
    caption = "A line is a run; shown are the runs at the best learning rate of each stack."
    return Plot("learning_curves", "Learning curves", caption, [panel(task) for task in tasks], stack_styles(results))


def influence(results: Results) -> Plot:
    """Which token moves which output: a picture for each stack."""

    def panel(stack: str, picture: Sequence[Sequence[float]]) -> Panel:
        def draw(axes: Any) -> None:
            from matplotlib.colors import LinearSegmentedColormap

            shades = LinearSegmentedColormap.from_list("influence", ["#f3f5f8", "#56B4E9", "#0072B2", "#0b2545"])
            axes.imshow([[x**0.5 for x in row] for row in picture], cmap=shades, vmin=0, vmax=1, interpolation="none")
            axes.set(xlabel="token that changes", ylabel="output that moves")
            axes.grid(visible=False)

        return stack, draw

    pictures = {stack: x["influence"] for stack, x in (results.get("portraits") or {}).items() if x.get("influence")}
    caption = "Darker is more, by the square root, relative to the largest; above the diagonal is the future."
    return Plot("influence", "Influence", caption, [panel(*pair) for pair in pictures.items()], {})


# ---------------------------------------------------------------------- what the results say of a task


def _summary(results: Results, task: str) -> list[Mapping[str, Any]]:
    return [row for row in results.get("summary", []) if row["task"] == task]


def _left_out(results: Results) -> str:
    """Whose decoding is not drawn, at the end of a caption."""
    stacks = {row["stack"]: None for row in (results.get("costs") or {}).get("rows", [])}
    broken = [stack for stack in stacks if broken_decoding(results, stack)]
    return f" Without state and decoding of {listed(broken)}, whose laws are broken." if broken else ""


def _measured(row: Mapping[str, Any], part: str) -> bool:
    return any(known(mean) for mean, _ in (row.get(part) or {}).values())


def _rates(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return row.get("by_learning_rate") or {}


def _best_runs(results: Results, task: str) -> list[Mapping[str, Any]]:
    best = {row["stack"]: row["learning_rate"] for row in _summary(results, task)}
    runs = [run for run in results.get("runs", []) if run["task"] == task]
    return [run for run in runs if best.get(run["stack"]) == run["learning_rate"]]
