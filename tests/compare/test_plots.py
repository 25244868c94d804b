"""Plots show the numbers of the results, one look a stack, and leave out what was not measured."""

import re
from pathlib import Path
from typing import Any

import pytest
from report_cases import LENGTHS, STACKS, TASKS, make_results

from tokenmix.compare.plot_parts import front, score_axis, stack_styles, svg_text
from tokenmix.compare.plots import (
    cost_against_length,
    influence,
    learning_curves,
    make_plots,
    quality_against_case,
    quality_against_cost,
    quality_against_rate,
    write_plots,
)

NAMES = ["quality_cost", "quality_case", "learning_rate", "costs", "learning_curves", "influence"]


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return make_results()


def lines(axes: Any, colour: str) -> list[Any]:
    return [line for line in axes.lines if line.get_color() == colour and len(line.get_xdata())]


def test_files(results: dict[str, Any], tmp_path: Path) -> None:
    small = results | {"costs": None, "portraits": None, "runs": []}
    written = write_plots(small, tmp_path / "new")
    names = ["quality_cost", "quality_case", "learning_rate"]
    assert written == [tmp_path / "new" / f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    assert written[0].read_bytes()[:4] == b"\x89PNG"
    again = write_plots(small, tmp_path / "again")
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]


def test_what_is_missing_is_left_out(results: dict[str, Any]) -> None:
    def names(**changes: Any) -> list[str]:
        return [plot.name for plot in make_plots(results | changes)]

    assert names() == NAMES
    assert names(costs=None) == [name for name in NAMES if name != "costs"]
    assert names(portraits={"mamba2": {"influence": None}}) == NAMES[:-1]
    assert names(runs=[]) == [name for name in NAMES if name != "learning_curves"]
    one_case = {"recall": TASKS["recall"] | {"cases": ["4"]}}
    rows = [row for row in results["summary"] if row["task"] == "recall"]
    assert "quality_case" not in names(tasks=one_case, summary=rows)


def test_no_score_is_no_crash(results: dict[str, Any]) -> None:
    nothing = {"score": None, "spread": None, "scores": [], "cases": {"4": [None, None]}, "by_learning_rate": {}}
    rows = [row | nothing if row["stack"] == "mamba2" else row for row in results["summary"]]
    for plot in make_plots(results | {"summary": rows}):
        plot.figure()
    assert make_plots(results | {"summary": [row | nothing for row in results["summary"]], "runs": []})


def test_quality_against_case(results: dict[str, Any]) -> None:
    axes = quality_against_case(results).figure().axes[0]
    for stack, style in stack_styles(results).items():
        row = next(row for row in results["summary"] if (row["task"], row["stack"]) == ("recall", stack))
        (line,) = lines(axes, style.colour)
        assert list(line.get_xdata()) == [4, 8, 16]
        assert list(line.get_ydata()) == [row["cases"][case][0] for case in ("4", "8", "16")]
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    first = results["summary"][0]["cases"]
    assert band.min() == pytest.approx(min(mean - spread for mean, spread in first.values()))
    assert band.max() == pytest.approx(max(mean + spread for mean, spread in first.values()))
    assert {text.get_text() for text in axes.texts} >= {"any value", "one of 4 values"}


def test_quality_against_learning_rate(results: dict[str, Any]) -> None:
    axes = quality_against_rate(results).figure().axes[0]
    row = next(row for row in results["summary"] if (row["task"], row["stack"]) == ("recall", "hybrid"))
    (line,) = lines(axes, stack_styles(results)["hybrid"].colour)
    assert list(line.get_xdata()) == [0.001, 0.003, 0.01]
    assert list(line.get_ydata()) == [row["by_learning_rate"][rate][0] for rate in ("0.001", "0.003", "0.01")]
    (diverged,) = lines(axes, stack_styles(results)["attention"].colour)
    assert list(diverged.get_xdata()) == [0.001, 0.003]


def test_quality_against_cost_takes_the_longest_length_that_all_have(results: dict[str, Any]) -> None:
    state, time = quality_against_cost(results).figure().axes[:2]
    assert "2,048 tokens" in state.get_xlabel()  # attention ran out of memory at 4,096
    at = {row["stack"]: row for row in results["costs"]["rows"] if row["length"] == 2048}
    for stack, style in stack_styles(results).items():
        assert {line.get_xdata()[0] for line in lines(state, style.colour)} == {at[stack]["state_bytes"]}
        assert {line.get_xdata()[0] for line in lines(time, style.colour)} == {at[stack]["forward_seconds"]}
    without = quality_against_cost(results | {"costs": None}).figure().axes[1]
    shown = {line.get_xdata()[0] for line in lines(without, stack_styles(results)["hybrid"].colour)}
    assert shown == {next(row["seconds"] for row in results["summary"] if row["stack"] == "hybrid")}


def test_costs_against_length(results: dict[str, Any]) -> None:
    figure = cost_against_length(results).figure()
    assert len(figure.axes) == 6
    assert all((axes.get_xscale(), axes.get_yscale()) == ("log", "log") for axes in figure.axes)
    (attention,) = lines(figure.axes[0], stack_styles(results)["attention"].colour)
    assert list(attention.get_xdata()) == [*LENGTHS[:-1]]
    hidden = [row | {"step_seconds": None} for row in results["costs"]["rows"]]
    assert len(cost_against_length(results | {"costs": {"rows": hidden}}).panels) == 5


def test_learning_curves_are_those_of_the_best_rate(results: dict[str, Any]) -> None:
    axes = learning_curves(results).figure().axes[0]
    drawn = lines(axes, stack_styles(results)["hybrid"].colour)
    wanted = [run for run in results["runs"] if run["task"] == "recall" and run["stack"] == "hybrid"]
    wanted = [run for run in wanted if run["learning_rate"] == 0.001]
    assert [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in drawn] == [
        [tuple(point) for point in run["history"]] for run in wanted
    ]


def test_influence_is_not_flipped(results: dict[str, Any]) -> None:
    figure = influence(results).figure()
    assert [axes.get_title(loc="left") for axes in figure.axes] == [*STACKS]
    picture = figure.axes[2].images[0]  # the sliding window: rows are outputs
    shown = picture.get_array() ** 2
    assert shown[20, 2] == 0
    assert shown[2, 20] == 0
    assert shown[20, 18] == pytest.approx(results["portraits"]["sliding window"]["influence"][20][18])
    assert picture.origin == "upper"


def test_each_stack_looks_different() -> None:
    styles = stack_styles({"stacks": {f"stack {i}": {} for i in range(24)}})
    assert len(set(styles.values())) == 24


def test_the_front_is_what_nothing_beats() -> None:
    points = [(3.0, 0.5), (1.0, 0.4), (2.0, 0.5), (4.0, 0.45), (1.0, 0.1)]
    for higher in (True, False):
        sign = 1 if higher else -1
        unbeaten = {
            (cost, score)
            for cost, score in points
            if not any(
                c <= cost and sign * s >= sign * score and (c, s) != (cost, score) for c, s in points
            )
        }  # fmt: skip
        assert set(front(points, higher)) == unbeaten


def test_far_references_do_not_squeeze_the_scores() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    score_axis(axes, TASKS["text"], [2.0, 2.6])
    assert [text.get_text() for text in axes.texts] == ["3-gram"]
    assert axes.get_ylim()[1] < 3.5


def test_svg_for_a_page(results: dict[str, Any]) -> None:
    names = ["$x^2$ <b>", "_mamba2 id=\"legend_1\" url(#a)"]  # fmt: skip
    rows = [row for row in results["summary"] if row["task"] == "recall"][:2]
    summary = [row | {"stack": name} for row, name in zip(rows, names, strict=True)]
    plot = quality_against_case(results | {"summary": summary, "stacks": {name: {} for name in names}})
    text = svg_text(plot.figure(), "one", 'a "label"')
    assert text.startswith("<svg viewBox=")
    assert 'aria-label="a &quot;label&quot;"' in text
    assert "$x^2$ &lt;b&gt;" in text  # no formula, no element
    assert '>_mamba2 id="legend_1" url(#a)<' in text  # texts stay as they are
    assert "<b>" not in text
    tags = "".join(re.findall(r"<[^>]*>", text))
    ids = re.findall(r'\sid="([^"]*)"', tags)
    assert ids
    assert len(ids) == len(set(ids))
    assert all(name.startswith("one-") for name in ids)
    assert set(re.findall(r'(?:url\(|href=")#([^")]*)', tags)) <= set(ids)
    assert "var(--ink)" in tags
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
