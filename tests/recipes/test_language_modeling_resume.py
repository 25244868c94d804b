"""The recipe stopped, started again, and run by several processes."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from recipe_cases import TRAIN, losses, metrics

from fork_server import ForkServer
from killed_training import kill_training


def test_interrupted_training_resumes_exactly(
    processes: ForkServer, recipe: ModuleType, tiny: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    """Killed in the first stack, started again, killed in the second, started again: as if never interrupted."""
    arguments = [*tiny, "--training.steps", "12", "--training.save_steps", "5", "--training.log_steps", "1"]
    arguments += ["--training.trainer.disable_tqdm", "true"]
    recipe.main([*arguments, "--output", str(tmp_path / "whole")])
    run, whole = tmp_path / "run", tmp_path / "whole"

    kill_training(processes, 8, [str(TRAIN), *arguments])
    assert [path.name for path in (run / "hybrid").iterdir()] == ["checkpoint-5"]
    (run / "hybrid" / "checkpoint-9").mkdir()  # as if killed while it was written
    (run / "hybrid" / "checkpoint-9" / "model.safetensors").write_bytes(b"half")

    lines = kill_training(processes, 7 + 8, [str(TRAIN), *arguments]).stdout.splitlines()
    second = next(i for i, line in enumerate(lines) if "attention: a" in line)
    assert len([line for line in lines[:second] if line.startswith("{'loss'")]) == 7  # it did not start anew
    assert (run / "hybrid" / "metrics.json").is_file()
    assert [path.name for path in (run / "attention").iterdir()] == ["checkpoint-5"]
    first = {path: path.stat().st_mtime_ns for path in (run / "hybrid").rglob("*")}

    recipe.main(arguments)
    assert {path: path.stat().st_mtime_ns for path in (run / "hybrid").rglob("*")} == first
    for stack in ("hybrid", "attention"):
        files = [folder / stack / "model" / "model.safetensors" for folder in (run, whole)]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert list(losses(run / stack)) == list(range(1, 13))
        assert losses(run / stack) == losses(whole / stack)
        assert metrics(run / stack)["sample"] == metrics(whole / stack)["sample"]

    monkeypatch.setattr(recipe, "train_or_resume", None)  # a third start would fail if it trained
    (run / "loss.png").unlink()
    recipe.main(arguments)
    assert (run / "loss.png").is_file()


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_killed_after_its_last_checkpoint(recipe: ModuleType, tiny: list[str], tmp_path: Path, schedule: str) -> None:
    """Between the last checkpoint and the results: nothing is trained further, and the time is that of training."""
    arguments = [*tiny, "--stacks", "{attention: a}", "--training.schedule", schedule]
    recipe.main(arguments)
    folder = tmp_path / "run" / "attention"
    before, weights = metrics(tmp_path / "run" / "attention"), (folder / "model" / "model.safetensors").read_bytes()
    (folder / "metrics.json").unlink()
    (folder / "model" / "model.safetensors").unlink()
    recipe.main(arguments)
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-4"]
    assert (folder / "model" / "model.safetensors").read_bytes() == weights
    after = metrics(folder)
    assert after["metrics"]["bits_per_byte"] == before["metrics"]["bits_per_byte"]
    assert after["metrics"]["train_seconds"] == pytest.approx(before["metrics"]["train_seconds"], rel=0.5)
    assert after["sample"] == before["sample"]


@pytest.mark.slow  # two processes that import torch
def test_two_processes_train_as_one(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    arguments = [*tiny, "--stacks", "{attention: a}", "--model.dropout", "0.0"]
    recipe.main([*arguments, "--output", str(tmp_path / "one")])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(TRAIN), *arguments]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("sample of attention") == 1  # one process reports
    one, two = (metrics(tmp_path / name / "attention")["metrics"] for name in ("one", "run"))
    assert two["bits_per_byte"] == pytest.approx(one["bits_per_byte"], abs=1e-3)
