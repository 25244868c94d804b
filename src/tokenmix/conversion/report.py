"""What a conversion gave: numbers in a file, a table, curves."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tokenmix.conversion.measure import SMALLEST_GAP
from tokenmix.training import make_console, write_text

TITLES = {
    "original": "original",
    "swap": "after the swap",
    "hidden": "1 match hidden states",
    "logits": "2 match logits",
    "finetune": "3 fine-tune",
    "control": "original, fine-tuned alike",
}


@dataclass
class Point:
    """A model along the way, scored on the held-out text.

    Args:
        name: "original", "swap", "hidden", "logits", "finetune" or "control".
        perplexity: a token. nats: its logarithm. bits_per_byte: of the text.
        closed_perplexity: (swap - here) / (swap - original) in perplexity; None where the swap lost less than 1 %, a
            gap too small to measure.
        closed_nats: the same in nats, where what is left counts for more.
        steps: updates of this stage. seconds: of its training.
        history: the Trainer's log of this stage, a dict a line.
    """

    name: str
    perplexity: float
    nats: float
    bits_per_byte: float
    closed_perplexity: float | None = None
    closed_nats: float | None = None
    steps: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Report:
    """What a conversion gave.

    Args:
        model: class of the original. text: what it was trained and scored on.
        layers: the mixer of each swapped layer. carried: what each took over from the attention.
        points: the original, the swap, each stage, and the control if there is one.
        parameters: of the original and the converted model.
        state_bytes: of both caches after `state_context` tokens of one row.
        tokens_per_second: of both, decoding single tokens after them.
        state_context: see there. device: on which it was measured, with the number of threads.
        folder: the converted model, for `from_pretrained`.
    """

    model: str
    text: str
    layers: dict[str, str]
    carried: dict[str, list[str]]
    points: list[Point]
    parameters: dict[str, int]
    state_bytes: dict[str, int]
    tokens_per_second: dict[str, float]
    state_context: int
    device: str
    folder: str

    def point(self, name: str) -> Point:
        """One point by its name.

        Raises:
            ValueError: a point that this conversion does not have.
        """
        for point in self.points:
            if point.name == name:
                return point
        raise ValueError(f"name: expected one of {', '.join(p.name for p in self.points)}, found {name!r}")

    @property
    def last(self) -> Point:
        """The converted model."""
        return [point for point in self.points if point.name != "control"][-1]

    @property
    def speed_ratio(self) -> float:
        """Decoding speed of the converted model over that of the original."""
        return self.tokens_per_second["converted"] / self.tokens_per_second["original"]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Keep it as JSON, whole or not at all."""
        write_text(Path(path), json.dumps(asdict(self), indent=2))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Report | None:
        """What `write` kept, or None."""
        if not Path(path).is_file():
            return None
        kept = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(**{**kept, "points": [Point(**point) for point in kept["points"]]})


def print_report(report: Report, console: Console | None = None) -> None:
    """Print the scores of every point, and the sizes and speeds of both models."""
    console = console or make_console()
    table = Table(title=f"{report.model} on {report.text}", title_justify="left")
    headings = ("model", "perplexity", "bits/byte", "gap closed:\nperplexity", "\nnats", "steps", "train s")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for point in report.points:
        closed = _shares(report, point)
        work = (f"{point.steps:,}", f"{point.seconds:,.0f}") if point.steps else ("", "")
        table.add_row(TITLES[point.name], f"{point.perplexity:,.3f}", f"{point.bits_per_byte:.3f}", *closed, *work)
    _explain_small(table, [report])
    console.print(table)
    sizes = Table("", "original", "converted", "ratio", title_justify="left")
    rows: dict[str, Mapping[str, float]] = {
        "parameters": report.parameters,
        f"state bytes after {report.state_context:,} tokens": report.state_bytes,
        f"decoded tokens/s ({report.device})": report.tokens_per_second,
    }
    for name, values in rows.items():
        before, after = values["original"], values["converted"]
        sizes.add_row(name, f"{before:,.0f}", f"{after:,.0f}", f"{after / before:.3f}")
    console.print(sizes)
    for layer, mixer in report.layers.items():
        console.print(f"layer {layer}: {mixer}, carried over: {', '.join(report.carried[layer]) or 'nothing'}")
    console.print(f"Written to {report.folder}", soft_wrap=True)


def plot_reports(path: str | os.PathLike[str], reports: Mapping[str, Report]) -> None:
    """Draw perplexities along the way, and the loss of each stage against its steps.

    Args:
        path: PNG to write.
        reports: by name; their originals are taken to be the same.
    """
    from matplotlib.figure import Figure

    stages = [name for name in ("hidden", "logits", "finetune") if any(_has(r, name) for r in reports.values())]
    figure = Figure(figsize=(4.2 * (1 + len(stages)), 3.8), layout="constrained")
    axes = figure.subplots(1, 1 + len(stages), squeeze=False)[0]
    for name, report in reports.items():
        along = [point for point in report.points if point.name not in ("original", "control")]
        places = [["swap", *stages].index(point.name) for point in along]
        axes[0].plot(places, [point.perplexity for point in along], marker="o", label=name)
    first = next(iter(reports.values()))
    axes[0].axhline(first.point("original").perplexity, color="0.5", linestyle="--", label="original")
    axes[0].set(yscale="log", ylabel="perplexity of held-out text", title="after each stage")
    axes[0].set_xticks(range(1 + len(stages)), ["swap", *stages])
    axes[0].legend()
    labels = {"hidden": "error / size of the answer", "logits": "KL (nats a token)", "finetune": "loss (nats a token)"}
    for panel, stage in zip(axes[1:], stages, strict=True):
        for name, report in reports.items():
            history = report.point(stage).history if _has(report, stage) else []
            lines = [line for line in history if "loss" in line]
            panel.plot([line["step"] for line in lines], [line["loss"] for line in lines], label=name)
        panel.set(xlabel="step", ylabel=labels[stage], title=TITLES[stage], yscale="log")
    figure.savefig(Path(path), dpi=110)


def gap_table(title: str, reports: Mapping[str, Report], baselines: Mapping[str, Mapping[str, float]]) -> Table:
    """One row for each baseline, the original, its control, and each conversion at each point.

    Args:
        title: of the table.
        reports: by name, of conversions of one model.
        baselines: "bits_per_byte", and "perplexity" where it is a token's, of trivial models by name.
    """
    table = Table(title=title, title_justify="left")
    for heading in ("model", "perplexity", "bits/byte", "gap closed:\nperplexity", "\nnats", "state bytes", "tokens/s"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, scores in baselines.items():
        perplexity = f"{scores['perplexity']:.2f}" if "perplexity" in scores else ""
        table.add_row(name, perplexity, f"{scores['bits_per_byte']:.3f}", style="dim")
    shown: set[str] = set()
    for name, report in reports.items():
        for point in report.points:
            same = point.name in ("original", "control")
            if same and point.name in shown:
                continue
            if point is report.points[0] or point.name == "swap":
                table.add_section()
            shown.add(point.name)
            title = TITLES[point.name] if same else f"{name}: {TITLES[point.name]}"
            sizes = ("", "")
            which = "original" if point.name == "original" else "converted" if point is report.last else ""
            if which:
                sizes = (f"{report.state_bytes[which]:,}", f"{report.tokens_per_second[which]:,.0f}")
            closed = _shares(report, point)
            table.add_row(title, f"{point.perplexity:,.2f}", f"{point.bits_per_byte:.3f}", *closed, *sizes)
    _explain_small(table, reports.values())
    return table


def _has(report: Report, name: str) -> bool:
    return any(point.name == name for point in report.points)


def _shares(report: Report, point: Point) -> tuple[str, str]:
    """The shares of the gap that a point closed, in perplexity and nats, as cells of a table."""
    if point.name in ("original", "swap"):
        return "", ""
    swap = report.point("swap")
    pairs = ((point.closed_perplexity, swap.perplexity), (point.closed_nats, swap.nats))
    cells = [("too small" if math.isfinite(lost) else "") if share is None else f"{share:.1%}" for share, lost in pairs]
    return cells[0], cells[1]


def _explain_small(table: Table, reports: Iterable[Report]) -> None:
    """Say below a table what "too small" means, where it stands in it."""
    if any("too small" in _shares(report, point) for report in reports for point in report.points):
        table.caption = f"too small: the swap lost less than {SMALLEST_GAP:.0%}, a gap too small to measure"
        table.caption_justify = "left"
