"""Tables and plots hold what was measured."""

import io
import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib import image
from matplotlib.figure import Figure
from rich.console import Console

from tokenmix.training import RunResult, plot_losses, plot_max_logits, print_table

COLUMNS = {"bits": ("bits/byte", ".3f"), "parameters": ("parameters", ",.0f")}
BASELINES = {"unigram": 4.72, "bigram": 3.61}


def run(name: str, scale: float = 1.0) -> RunResult:
    history: list[dict[str, Any]] = [
        {"loss": scale * loss, "step": 10 * i} for i, loss in enumerate([3.0, 2.0, 1.5], 1)
    ]
    for i, line in enumerate(history):
        line |= {"max_logit/0/all": scale + i, "max_logit/2/50": 2 * scale + i, "max_logit/2/all": 3 * scale + i}
    history.append({"train_runtime": 3.0, "step": 30})
    return RunResult(name, {"bits": 2.0 * scale, "parameters": 1234567.0}, history)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, in order."""
    saved: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: Any, **options: Any) -> None:
        saved.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def test_table() -> None:
    console = Console(file=io.StringIO(), width=100)
    baselines = {name: {next(iter(COLUMNS)): value} for name, value in BASELINES.items()}
    print_table("The title", [run("mine", 0.5), run("other")], COLUMNS, baselines, console)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert [row for row in rows if row] == [
        ["unigram", "4.720", ""],
        ["bigram", "3.610", ""],
        ["mine", "1.000", "1,234,567"],
        ["other", "2.000", "1,234,567"],
    ]
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.startswith("The title")
    assert "bits/byte" in text


def test_loss_plot(tmp_path: Path, figures: list[Figure]) -> None:
    plot_losses(tmp_path / "loss.png", [run("mine"), run("other", 0.5)], BASELINES)
    height, width, _ = image.imread(tmp_path / "loss.png").shape
    assert min(height, width) > 300
    (axes,) = figures[0].axes
    curves = {line.get_label(): line for line in axes.lines if len(line.get_xdata()) == 3}
    assert sorted(curves) == ["mine", "other"]
    assert list(curves["mine"].get_xdata()) == [10, 20, 30]
    assert list(curves["other"].get_ydata()) == pytest.approx([loss / math.log(2) for loss in (1.5, 1.0, 0.75)])
    dashed = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed == list(BASELINES.values())
    assert len(axes.lines) == 4
    assert [text.get_text() for text in axes.texts] == list(BASELINES)
    assert "bits per byte" in axes.get_ylabel()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_max_logit_plot(tmp_path: Path, figures: list[Figure], count: int) -> None:
    """One panel a monitored stack, also where there is only one; a stack without attention has none."""
    results = [run(f"run {i}", i + 1.0) for i in range(count)]
    silent = RunResult("mamba", {}, [{"loss": 1.0, "step": 1}])
    plot_max_logits(tmp_path / "max.png", [silent, *results])
    assert image.imread(tmp_path / "max.png").shape[1] > 300
    panels = figures[0].axes
    assert [axes.get_title() for axes in panels] == [result.name for result in results]
    for i, axes in enumerate(panels):
        found = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
        scale = i + 1.0
        assert found == {
            "layer 0, window all": [scale, scale + 1, scale + 2],
            "layer 2, window 50": [2 * scale, 2 * scale + 1, 2 * scale + 2],
            "layer 2, window all": [3 * scale, 3 * scale + 1, 3 * scale + 2],
        }
        styles = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
        assert len(styles) == 3


def test_no_max_logit_plot_without_logits(tmp_path: Path) -> None:
    plot_max_logits(tmp_path / "max.png", [RunResult("mamba", {}, [{"loss": 1.0, "step": 1}])])
    assert not (tmp_path / "max.png").exists()
