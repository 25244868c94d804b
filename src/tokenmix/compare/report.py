"""What a comparison leaves behind: tables on the console, results.json, plots, and one page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tokenmix.compare.page import write_page
from tokenmix.compare.plots import write_plots

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


def print_tables(results: Results, console: Console) -> None:
    """Print the quality of each task, then costs at the longest length, what changed, and the findings."""
    for task, about in results["tasks"].items():
        console.print(task_table(task, about, results))
    for make in (cost_table, change_table):
        table = make(results)
        if table is not None:
            console.print(table)
    for sentence in results["findings"]:
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
            row["verdict"],
        )
    return table


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
    for head in [*columns.values(), "state bytes", "time grows as"]:
        table.add_column(head, justify="right")
    for row in costs["rows"]:
        if row["length"] != longest:
            continue
        slope = costs["growth"].get(row["stack"], {}).get("forward_seconds")
        ratios = [f"{row[key]:.2f} x" if row.get(key) is not None else "" for key in columns]
        state = "none" if row.get("state_bytes") is None else f"{row['state_bytes']:,}"
        table.add_row(escape(row["stack"]), *ratios, state, "" if slope is None else f"L^{slope:.2f}")
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
