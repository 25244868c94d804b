"""What a comparison leaves behind: tables on the console, results.json, plots, and one page."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tokenmix.compare.findings import group_findings
from tokenmix.compare.findings_costs import can_tell_growth
from tokenmix.compare.page import write_page
from tokenmix.compare.plots import write_plots
from tokenmix.compare.trust import broken_decoding, reads_future

Results = Mapping[str, Any]


def write_report(results: Results, folder: str | os.PathLike[str]) -> Path:
    """Write plots and page beside results.json.

    Args:
        results: of `run_comparison`.
        folder: of the comparison.

    Returns:
        The page, report.html.
    """
    write_plots(results, Path(folder) / "plots")
    return write_page(results, Path(folder) / "report.html")


def print_tables(results: Results, console: Console, tasks: Collection[str] | None = None) -> None:
    """Print the quality of each task, then costs at the longest length, what changed, and the findings.

    Args:
        results: of `run_comparison`.
        console: to print on.
        tasks: those that are printed; default all.
    """
    shown = [task for task in results["tasks"] if tasks is None or task in tasks]
    for task in shown:
        console.print(task_table(task, results["tasks"][task], results))
    for make in (cost_table, change_table):
        table = make(results)
        if table is not None:
            console.print(table)
    for heading, sentences in group_findings(results["findings"], results["tasks"]).items():
        if heading in results["tasks"] and heading not in shown:
            continue
        if heading:
            console.print(f"\n{heading}", style="bold", markup=False, highlight=False)
        for sentence in sentences:
            console.print(f"- {sentence}", markup=False, highlight=False)


def task_table(task: str, about: Mapping[str, Any], results: Results) -> Table:
    """Scores of one task: references, then stacks."""
    better = "higher" if about["higher_is_better"] else "lower"
    table = Table(title=f"{task}: {about['metric']} ({better} is better)", title_justify="left")
    table.add_column("stack")
    cases = about["cases"] if len(about["cases"]) > 1 else []
    heads = ["score ± spread", *(f"{about['vary']} {case}" for case in cases), "learning rate", "parameters", "train s"]
    for head in heads:
        table.add_column(head, justify="right")
    table.add_column("verdict")
    for name, value in about["references"].items():
        table.add_row(escape(name), f"{value:.3f}", *[""] * (len(heads) - 1), "", style="dim")
    table.add_section()
    for row in results["summary"]:
        if row["task"] != task:
            continue
        if not row["scores"]:
            table.add_row(escape(row["stack"]), *[""] * len(heads), row["verdict"])
            continue
        spread = "" if row["spread"] is None else f" ± {row['spread']:.3f}"
        table.add_row(
            escape(row["stack"]),
            f"{row['score']:.3f}{spread}",
            *(f"{row['cases'][case][0]:.3f}" for case in cases),
            f"{row['learning_rate']:g}",
            f"{row['parameters']:,}",
            f"{row['seconds']:.0f}",
            _verdict(results, row),
        )
    return table


def _verdict(results: Results, row: Mapping[str, Any]) -> str:
    future = {"": "", "found": ", reads the future", "declared": ", reads the future as declared"}
    return f"{row['verdict']}{future[reads_future(results, row['stack'])]}"


def cost_table(results: Results) -> Table | None:
    """Costs at the longest length, as ratios to the reference."""
    costs = results.get("costs")
    if not costs:
        return None
    longest = max(row["length"] for row in costs["rows"])
    reference = costs["reference"]
    table = Table(title=f"costs at {longest} tokens, beside {reference}", title_justify="left")
    table.add_column("stack")
    columns = {
        "forward_ratio": "forward",
        "train_ratio": "forward + backward",
        "step_ratio": "decode step",
        "forward_bytes_ratio": "peak memory",
    }
    grown = [row["stack"] for row in costs["rows"] if can_tell_growth(results, row["stack"])]
    for head in [*columns.values(), "state bytes", *(["time grows as"] if grown else [])]:
        table.add_column(head, justify="right")
    for row in costs["rows"]:
        if row["length"] != longest:
            continue
        slope = costs["growth"].get(row["stack"], {}).get("forward_seconds") if row["stack"] in grown else None
        ratios = {key: f"{row[key]:.2f} x" if row.get(key) is not None else "" for key in columns}
        state = "none" if row.get("state_bytes") is None else f"{row['state_bytes']:,}"
        if broken := broken_decoding(results, row["stack"]):
            ratios["step_ratio"], state = "", f"breaks {' and '.join(broken)}"
        growth = ["" if slope is None else f"L^{slope:.2f}"] if grown else []
        table.add_row(escape(row["stack"]), *ratios.values(), state, *growth)
    return table


def change_table(results: Results) -> Table | None:
    """What changed since the baseline."""
    baseline = results.get("baseline")
    if not baseline:
        return None
    table = Table(title=f"since {escape(baseline['path'])}", title_justify="left")
    for head in ("task", "stack", "before", "after", "change", "verdict"):
        table.add_column(head, justify="right" if head in ("before", "after", "change") else "left")
    for row in baseline["rows"]:
        numbers = [_with_spread(row[when], row[f"{when}_spread"]) for when in ("before", "after")]
        change = "" if row["change"] is None else f"{row['change']:+.3f}"
        table.add_row(escape(row["task"]), escape(row["stack"]), *numbers, change, row["verdict"])
    return table


def print_run(run: Mapping[str, Any], console: Console) -> None:
    """The numbers of one run."""
    for key, value in run.items():
        if key != "history":
            console.print(f"{key}: {value}", markup=False, highlight=False)


def _with_spread(value: float | None, spread: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" + ("" if spread is None else f" ± {spread:.3f}")
