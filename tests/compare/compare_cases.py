"""Tiny comparisons that the tests run."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from tokenmix.compare import page_sections, report
from tokenmix.compare.config import CompareConfig
from tokenmix.compare.runner import run_comparison
from tokenmix.compare.trial import Trial, run_trial
from tokenmix.training import parse_config

QUIET = Console(quiet=True)

MIXERS = {
    "a": {"mixer": "attention", "heads": 2, "rope": True},
    "g": {"mixer": "gam", "slots": 8},
    "m": {"mixer": "mamba2", "state_size": 8, "head_dim": 16},
}


def tiny(output: Path, **changes: Any) -> dict[str, Any]:
    """The tree of a config: two stacks, two tasks, two rates, two seeds, twelve updates."""
    tree: dict[str, Any] = {
        "mixers": {letter: MIXERS[letter] for letter in "ag"},
        "stacks": {"attention": "a", "gam": "g"},
        "tasks": {
            "recall": {"task": "recall", "lengths": [16], "pairs": [2, 4], "vocabulary": 16},
            "parity": {"task": "parity", "lengths": [9], "training": {"steps": 6}},
        },
        "model": {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 40},
        "protocol": {
            "learning_rates": [0.003, 0.01],
            "seeds": [0, 1],
            "steps": 12,
            "batch_size": 8,
            "evaluate_every": 4,
            "warmup_steps": 2,
            "valid_rows": 8,
            "test_rows": 16,
            "workers": 1,
        },
        "costs": {"measure": False},
        "portrait": {"measure": False},
        "output": str(output),
    }
    for key, value in changes.items():
        tree[key] = {**tree[key], **value} if key in ("protocol", "costs", "portrait") else value
    return tree


def write(tree: dict[str, Any], path: Path) -> Path:
    """As a YAML file."""
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


def quick(output: Path, **changes: Any) -> dict[str, Any]:
    """A tiny comparison of one rate, one seed and two updates."""
    short = {"seeds": [0], "learning_rates": [0.01], "steps": 2, "evaluate_every": 2}
    tree = tiny(output, protocol=short, **changes)
    for spec in tree["tasks"].values():
        spec.pop("training", None)
    return tree


def load(tree: dict[str, Any], folder: Path) -> CompareConfig:
    """As the command reads it."""
    config, _ = parse_config(CompareConfig, ["--config", str(write(tree, folder / "compare.yaml"))])
    return config


@cache
def compared(base: Path) -> tuple[Path, dict[str, Any]]:
    """An uninterrupted comparison below pytest's base folder: its folder, to be copied and not changed, and results."""
    folder = base / "compared"
    folder.mkdir(exist_ok=True)  # of a call that failed, whose error must be seen again
    results = run_comparison(load(tiny(folder / "out"), folder), command="tokenmix compare x.yaml", console=QUIET)
    return folder / "out", results


def stop_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures, which take most of the time of a report and are tested in test_plots and test_page."""
    monkeypatch.setattr(report, "write_plots", lambda results, folder: [])
    monkeypatch.setattr(page_sections, "_picture", lambda plot, panel, caption=True: f"<p>{plot.panels[panel][0]}</p>")


def quality(results: dict[str, Any]) -> Any:
    """What must be equal between two comparisons: everything but times and places."""
    runs = [{k: v for k, v in run.items() if k not in ("seconds", "folder", "command")} for run in results["runs"]]
    summary = [{k: v for k, v in row.items() if k != "seconds"} for row in results["summary"]]
    return runs, summary, results["tasks"], results["skipped"]


class Killed(BaseException):
    """What ends a run in its middle."""


def kill_in_the_middle(config: CompareConfig, trial: Trial) -> None:
    """Run up to update 7."""

    def kill(step: int) -> None:
        if step == 7:
            raise Killed

    with pytest.raises(Killed):
        run_trial(config, trial, kill)
