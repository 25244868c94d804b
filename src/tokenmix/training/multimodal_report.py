"""What the multimodal recipe prints, draws and writes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from tokenmix.training.multimodal_score import share_to_reach
from tokenmix.training.report import RunResult, print_table
from tokenmix.training.resume import write_text

_SHARED = {
    "flops_per_token": ("FLOPs/token", ",.0f"),
    "parameters": ("parameters", ",.0f"),
    "train_seconds": ("train s", ".0f"),
    "picture_error": ("picture error", ".4f"),
    "picture_match": ("picture R@1", ".3f"),
    "first_word": ("first word", ".3f"),
}


def curve(result: RunResult, name: str, cost: str) -> tuple[list[float], list[float]]:
    """Costs and validation losses of one modality over training.

    Args:
        result: with the Trainer's log, and metrics tokens_per_step and flops_per_token.
        name: of the modality.
        cost: "flops" or "seconds".
    """
    lines = [line for line in result.history if f"eval_{name}_loss" in line]
    per_step = result.metrics["tokens_per_step"] * result.metrics["flops_per_token"]
    costs = [line["step"] * per_step if cost == "flops" else line["seconds"] for line in lines]
    return costs, [line[f"eval_{name}_loss"] for line in lines]


def shares(results: Sequence[RunResult], names: Sequence[str], against: str) -> dict[str, dict[str, float]]:
    """At which share of the dense model's cost each other model reaches its final validation loss.

    Args:
        results: of all models.
        names: of the modalities.
        against: the name of the dense model among them.

    Returns:
        By model, `<modality>_flops` and `<modality>_seconds`; NaN where it never does.
    """
    dense = next(result for result in results if result.name == against)
    found: dict[str, dict[str, float]] = {}
    for result in results:
        if result.name == against:
            continue
        row = found.setdefault(result.name, {})
        for name in names:
            for cost in ("flops", "seconds"):
                costs, losses = curve(dense, name, cost)
                row[f"{name}_{cost}"] = share_to_reach(*curve(result, name, cost), losses[-1], costs[-1])
    return found


def report_multimodal(
    output: str | os.PathLike[str],
    title: str,
    results: Sequence[RunResult],
    names: Sequence[str],
    baselines: Mapping[str, Mapping[str, float]],
    against: str,
    console: Console,
) -> None:
    """Print the table and the shares, draw the curves, and write all figures to `results.json`.

    Args:
        output: folder of the run.
        title: what the data are.
        results: one a model.
        names: of the modalities.
        baselines: scores of trivial models, by the keys of the metrics.
        against: the dense model, whose cost is 1.
        console: where to print.
    """
    folder = Path(output)
    columns = {f"{name}_loss": (f"{name} loss", ".4f") for name in names} | _SHARED
    print_table(title, results, columns, baselines, console)
    reached = shares(results, names, against) if any(result.name == against for result in results) else {}
    for model, row in reached.items():
        for cost, what in (("flops", "FLOPs"), ("seconds", "training time")):
            told = ", ".join(f"{name} {_percent(row[f'{name}_{cost}'])}" for name in names)
            console.print(f"{model} reaches the final validation loss of {against} at this share of its {what}: {told}")
    plot_modalities(folder / "losses.png", results, names)
    rows = [{"name": name, **scores} for name, scores in baselines.items()]
    rows += [{"name": result.name, **result.metrics} for result in results]
    write_text(folder / "results.json", json.dumps({"data": title, "rows": rows, "shares": reached}, indent=2))
    console.print(f"Written to {folder}: config.yaml, results.json, losses.png, pictures.png, and each model's folder")


def _percent(share: float) -> str:
    return "never" if math.isnan(share) else f"{100 * share:.0f} %"


def plot_modalities(path: Path, results: Sequence[RunResult], names: Sequence[str]) -> None:
    """Draw the validation loss of each modality, a column each, against FLOPs above and time below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(names), 6.4), layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False)
    for row, (cost, label) in enumerate((("flops", "FLOPs"), ("seconds", "seconds of training"))):
        for column, name in enumerate(names):
            for result in results:
                axes[row][column].plot(*curve(result, name, cost), label=result.name, linewidth=1.3)
            axes[row][column].set(xlabel=label, ylabel="validation loss" if column == 0 else "")
            axes[row][column].set_title(name if row == 0 else "")
    axes[0][0].legend()
    figure.savefig(path, dpi=120)


def plot_pictures(path: Path, captions: Sequence[str], rows: Mapping[str, Tensor]) -> None:
    """Draw pictures under their captions, a row for the true ones and for each model.

    Args:
        path: PNG to write.
        captions: one a column.
        rows: heading -> (columns, C, S, S) from 0 to 1.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.25 * len(captions) + 0.8, 1.3 * len(rows) + 0.6), layout="constrained")
    axes = figure.subplots(len(rows), len(captions), squeeze=False)
    for row, (line, (heading, pictures)) in enumerate(zip(axes, rows.items(), strict=True)):
        for place, (panel, picture) in enumerate(zip(line, pictures, strict=True)):
            shown: Any = picture.permute(1, 2, 0) if len(picture) == 3 else picture[0]
            panel.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
            if place == 0:
                panel.set_ylabel(heading, fontsize=8)
            if row == 0:
                panel.set_title("\n".join(_lines(captions[place])), fontsize=5)
    figure.savefig(path, dpi=150)


def _lines(caption: str, width: int = 18, most: int = 4) -> list[str]:
    lines = [""]
    for word in caption.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines[:most]
