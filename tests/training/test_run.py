"""TrainingConfig as Hugging Face's arguments, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tokenmix.training import TrainingConfig, rows_per_device


def test_arguments(tmp_path: Path) -> None:
    config = TrainingConfig(
        steps=7, batch_size=12, accumulation=3, learning_rate=0.5, warmup_steps=2, schedule="linear", weight_decay=0.2
    )
    found = config.arguments(tmp_path / "run")
    assert (found.max_steps, found.per_device_train_batch_size, found.gradient_accumulation_steps) == (7, 4, 3)
    assert (found.learning_rate, found.warmup_steps, found.lr_scheduler_type) == (0.5, 2, "linear")
    assert (found.weight_decay, found.adam_beta2, found.max_grad_norm) == (0.2, 0.95, 1.0)
    assert found.output_dir == str(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_arguments_of_the_trainer(tmp_path: Path) -> None:
    config = TrainingConfig(trainer={"max_steps": -1, "num_train_epochs": 5, "optim": "sgd"})
    found = config.arguments(tmp_path)
    assert (found.max_steps, found.num_train_epochs, found.optim) == (-1, 5, "sgd")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="about machines without an accelerator")
def test_bfloat16_on_the_processor(tmp_path: Path) -> None:
    found = TrainingConfig(bf16=True).arguments(tmp_path)
    assert found.bf16
    assert found.device == torch.device("cpu")


def test_batch_is_cut_over_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows_per_device(64, accumulation=2, processes=4) == 8
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=r"batch_size: expected a multiple of .* = 1 \* 4, found 6"):
        TrainingConfig(batch_size=6).arguments(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, found 0"),
        ({"steps": -5}, "steps: expected at least 1, found -5"),
        ({"batch_size": 0}, "batch_size: expected a multiple of .* found 0"),
        ({"batch_size": 6, "accumulation": 4}, r"batch_size: expected a multiple of .* = 4 \* 1, found 6"),
        ({"accumulation": 0}, "batch_size: expected a multiple of .* found"),
    ],
)
def test_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**options).arguments(tmp_path)
