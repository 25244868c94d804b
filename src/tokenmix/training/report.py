"""What a recipe shows at its end: a table, curves, and numbers in a file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tokenmix.training.resume import write_text


@dataclass
class RunResult:
    """What one trained stack gave.

    Args:
        name: of the stack.
        metrics: numbers for the table and for metrics.json.
        history: the Trainer's log, a dict a line.
        sample: generated text.
    """

    name: str
    metrics: dict[str, float]
    history: list[dict[str, Any]] = field(default_factory=list)
    sample: str = ""

    def write(self, path: Path) -> None:
        """Keep it as JSON, whole or not at all."""
        write_text(path, json.dumps(asdict(self), indent=2))

    @classmethod
    def read(cls, path: Path) -> RunResult | None:
        """What `write` kept, or None."""
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def print_table(
    title: str,
    results: Sequence[RunResult],
    columns: Mapping[str, tuple[str, str]],
    baselines: Mapping[str, Mapping[str, float]],
    console: Console | None = None,
) -> None:
    """Print a row for each baseline, then for each stack.

    Args:
        title: of the table.
        results: the stacks.
        columns: heading and format (such as ".3f") by key of the metrics, the score first.
        baselines: scores of each trivial model, by the same keys as far as they have them.
        console: where to print; default the terminal.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for heading, _ in columns.values():
        table.add_column(heading, justify="right")
    for name, scores in baselines.items():
        cells = (format(scores[key], form) if key in scores else "" for key, (_, form) in columns.items())
        table.add_row(name, *cells, style="dim")
    table.add_section()
    for result in results:
        found = result.metrics
        table.add_row(
            result.name, *(format(found[key], form) if key in found else "" for key, (_, form) in columns.items())
        )
    (console or Console()).print(table)


def make_console(width: int = 100) -> Console:
    """The terminal, at least `width` columns wide, so that tables are whole in a file too."""
    return Console(width=max(width, Console().width))


def plot_losses(
    path: str | os.PathLike[str],
    results: Sequence[RunResult],
    baselines: Mapping[str, float],
    bytes_per_token: float = 1.0,
) -> None:
    """Draw the training loss of each stack against steps, with the baselines as dashed lines.

    Args:
        path: PNG to write.
        results: the stacks, with their history (losses in nats a token).
        baselines: horizontal lines, in bits a byte.
        bytes_per_token: of the training text.
    """
    figure, (axes,) = _figure()
    for result in results:
        lines = [line for line in result.history if "loss" in line]
        bits = [line["loss"] / math.log(2) / bytes_per_token for line in lines]
        axes.plot([line["step"] for line in lines], bits, label=result.name, linewidth=1.2)
    for name, value in baselines.items():
        axes.axhline(value, color="0.6", linestyle="--", linewidth=0.8)
        axes.annotate(name, (1.0, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="0.4")
    axes.set(xlabel="step", ylabel="training loss (bits per byte)")
    axes.legend()
    figure.savefig(Path(path), dpi=120)


def plot_max_logits(path: str | os.PathLike[str], results: Sequence[RunResult]) -> None:
    """Draw the largest attention logit of each layer against steps, one panel a monitored stack; no file if none is.

    Args:
        path: PNG to write.
        results: the stacks; the history of a monitored one holds `max_logit/<layer>/<kind>`.
    """
    keys_of = {
        result.name: sorted({key for line in result.history for key in line if key.startswith("max_logit/")})
        for result in results
    }
    monitored = [result for result in results if keys_of[result.name]]
    if not monitored:
        return
    figure, panels = _figure(columns=len(monitored))
    styles = ["-", ":", "--"]
    for axes, result in zip(panels, monitored, strict=True):
        keys = keys_of[result.name]
        kinds = sorted({key.split("/")[2] for key in keys})
        for key in keys:
            layer, kind = key.split("/")[1:]
            lines = [line for line in result.history if key in line]
            axes.plot(
                [line["step"] for line in lines],
                [line[key] for line in lines],
                linestyle=styles[kinds.index(kind) % len(styles)],
                color=f"C{int(layer) % 10}",
                label=f"layer {layer}, window {kind}",
                linewidth=1.2,
            )
        axes.set(title=result.name, xlabel="step", ylabel="max |q.k| / sqrt(d)")
        axes.legend(fontsize="small")
    figure.savefig(Path(path), dpi=120)


def _figure(columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0 if columns == 1 else 5.0 * columns, 4.2), layout="constrained")
    return figure, figure.subplots(1, columns, sharey=True, squeeze=False)[0]
