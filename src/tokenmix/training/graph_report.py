"""What the recipe of node classification prints, draws and writes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tokenmix.training.report import RunResult, print_table
from tokenmix.training.resume import write_text

COLUMNS = {
    "test": ("test", ".4f"),
    "test_spread": ("± seeds", ".4f"),
    "val": ("valid", ".4f"),
    "seeds": ("seeds", ".0f"),
    "trials": ("trials", ".0f"),
    "parameters": ("parameters", ",.0f"),
    "train_seconds": ("train s", ".0f"),
    "nodes_per_second": ("nodes/s", ",.0f"),
    "peak_gb": ("peak GB", ".1f"),
}


def report_graph(
    output: str | os.PathLike[str],
    title: str,
    results: Sequence[RunResult],
    baselines: Sequence[RunResult],
    console: Console,
) -> None:
    """Print the table, draw the curves, and write all figures to `results.json`.

    Args:
        output: folder of the run.
        title: what the graph is.
        results: means over seeds of each model, the chosen settings as JSON in `sample`.
        baselines: the same of each baseline.
        console: where to print.
    """
    folder = Path(output)
    rows = [
        {"name": row.name, "settings": json.loads(row.sample or "{}"), **row.metrics} for row in (*baselines, *results)
    ]
    write_text(folder / "results.json", json.dumps({"graph": title, "rows": rows}, indent=2))
    plot_graph(folder / "accuracy.png", results, baselines)
    print_table(title, results, COLUMNS, {row.name: row.metrics for row in baselines}, console)
    for row in (*baselines, *results):
        if row.sample not in ("", "{}"):  # what tuning chose
            console.print(f"{row.name}: {row.sample}", style="dim", markup=False, highlight=False)
    console.print(f"Written to {folder}: config.yaml, results.json, accuracy.png, and for each model its runs")


def plot_graph(path: Path, results: Sequence[RunResult], baselines: Sequence[RunResult]) -> None:
    """Draw the validation accuracy of each model by step, and the test accuracies of all as bars with their spread.

    Args:
        path: PNG to write.
        results: with the Trainer's log of one run in `history`.
        baselines: drawn as bars alone.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, row in enumerate(results):
        lines: list[dict[str, Any]] = [line for line in row.history if "eval_accuracy" in line]
        values = [line["eval_accuracy"] for line in lines]
        left.plot([line["step"] for line in lines], values, label=row.name, color=f"C{place}")
    rows = [*baselines, *results]
    colours = ["0.7"] * len(baselines) + [f"C{place}" for place in range(len(results))]
    spreads = [row.metrics.get("test_spread", 0.0) for row in rows]
    right.barh([row.name for row in rows], [row.metrics["test"] for row in rows], xerr=spreads, color=colours)
    right.invert_yaxis()
    left.set(xlabel="step", ylabel="validation accuracy, first seed")
    right.set(xlabel="test accuracy, mean and deviation over seeds")
    if results:
        left.legend()
    figure.savefig(path, dpi=120)
