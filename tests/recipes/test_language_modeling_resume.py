"""The recipe stopped, started again, and run by several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from recipe_cases import TRAIN, losses, metrics


def is_whole(checkpoint: Path) -> bool:
    """Whether its last file is there to the end."""
    try:
        return bool(json.loads((checkpoint / "trainer_state.json").read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return False


def kill_after_checkpoint(arguments: list[str], folder: Path) -> list[str]:
    """Start the recipe as a process, SIGKILL it once a folder holds a whole checkpoint; the lines that it printed.

    The pipe is small and read byte by byte, so the process waits for its reader and cannot be more than 4 kB of
    log, some 40 steps, ahead of it.
    """
    process = subprocess.Popen(
        [sys.executable, str(TRAIN), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        pipesize=4096,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    lines = []
    with process:
        assert process.stdout is not None
        while line := process.stdout.readline():
            lines.append(line.decode(errors="replace"))
            if any(is_whole(checkpoint) for checkpoint in folder.glob("checkpoint-*")):
                process.kill()
                break
    assert process.returncode == -9, "".join(lines)
    return lines


def test_interrupted_training_resumes_exactly(
    recipe: ModuleType, tiny: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    """Killed in the first stack, started again, killed in the second, started again: as if never interrupted."""
    arguments = [*tiny, "--training.steps", "70", "--training.save_steps", "10", "--training.log_steps", "1"]
    arguments += ["--training.trainer.disable_tqdm", "true"]
    recipe.main([*arguments, "--output", str(tmp_path / "whole")])
    run, whole = tmp_path / "run", tmp_path / "whole"

    kill_after_checkpoint(arguments, run / "hybrid")
    assert not (run / "hybrid" / "metrics.json").exists()
    (run / "hybrid" / "checkpoint-65").mkdir()  # as if killed while it was written
    (run / "hybrid" / "checkpoint-65" / "model.safetensors").write_bytes(b"half")

    lines = kill_after_checkpoint(arguments, run / "attention")
    logged = [line for line in lines if line.startswith("{'loss'")]
    second = next(i for i, line in enumerate(lines) if "attention: a" in line)
    assert 0 < len([line for line in lines[:second] if line in logged]) <= 60  # it went on and did not start anew
    assert (run / "hybrid" / "metrics.json").is_file()
    assert not (run / "attention" / "metrics.json").exists()
    first = {path: path.stat().st_mtime_ns for path in (run / "hybrid").rglob("*")}

    recipe.main(arguments)
    assert {path: path.stat().st_mtime_ns for path in (run / "hybrid").rglob("*")} == first
    for stack in ("hybrid", "attention"):
        files = [folder / stack / "model" / "model.safetensors" for folder in (run, whole)]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert list(losses(run / stack)) == list(range(1, 71))
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
