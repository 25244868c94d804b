"""One training run with Hugging Face's Trainer, which goes on where it was stopped."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from tokenmix.training.resume import last_complete_checkpoint
from tokenmix.training.trainer import MixerTrainer


@dataclass
class TrainingConfig:
    """How to train; `trainer` takes any other keyword of Hugging Face's TrainingArguments."""

    steps: int = 200
    """Updates of the weights."""
    batch_size: int = 16
    """Rows an update, over all processes and accumulation."""
    accumulation: int = 1
    """Forwards an update."""
    learning_rate: float = 3e-3
    """Its peak."""
    warmup_steps: int = 20
    """Updates of linear warm-up."""
    schedule: str = "cosine"
    """Of the learning rate after warm-up."""
    weight_decay: float = 0.1
    """On matrices alone."""
    beta2: float = 0.95
    """Of AdamW."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    bf16: bool = False
    """Autocast to bfloat16."""
    log_steps: int = 10
    """Updates between two lines of the log."""
    save_steps: int = 200
    """Updates between two checkpoints."""
    seed: int = 0
    """Of weights, order of data, and samples."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """More keywords of TrainingArguments."""

    def arguments(self, folder: str | os.PathLike[str]) -> TrainingArguments:
        """As Hugging Face's TrainingArguments, writing to a folder."""
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, found {self.steps}; for epochs set trainer.max_steps to -1")
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        options = {
            "output_dir": str(folder),
            "max_steps": self.steps,
            "per_device_train_batch_size": rows_per_device(self.batch_size, self.accumulation, processes),
            "gradient_accumulation_steps": self.accumulation,
            "learning_rate": self.learning_rate,
            "warmup_steps": self.warmup_steps,
            "lr_scheduler_type": self.schedule,
            "weight_decay": self.weight_decay,
            "adam_beta2": self.beta2,
            "max_grad_norm": self.clip,
            "bf16": self.bf16,
            "use_cpu": not torch.accelerator.is_available(),
            "logging_steps": self.log_steps,
            "save_steps": self.save_steps,
            "save_total_limit": 2,
            "seed": self.seed,
            "dataloader_pin_memory": torch.cuda.is_available(),
            "report_to": "none",
        }
        return TrainingArguments(**{**options, **self.trainer})


@dataclass(frozen=True)
class Trained:
    """What a finished training gave.

    Args:
        history: the Trainer's log from the first step on, a dict a line.
        seconds: wall time of this process's part.
        steps: updates in this process's part.
    """

    history: list[dict[str, Any]]
    seconds: float
    steps: int


def train_or_resume(
    model: nn.Module, config: TrainingConfig, folder: str | os.PathLike[str], **options: Any
) -> Trained:
    """Train, from the folder's last whole checkpoint if there is one; the result is bit for bit the same.

    Args:
        model: with the weights that it starts from.
        config: how to train.
        folder: for checkpoints.
        options: `train_dataset`, `data_collator`, `processing_class` and others of Hugging Face's Trainer.

    Returns:
        The log and the time; the model is trained in place.
    """
    checkpoint = last_complete_checkpoint(Path(folder))
    trainer = MixerTrainer(model=model, args=config.arguments(folder), **options)
    before = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.perf_counter() - before
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)  # no autocast after training
    done = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    return Trained(trainer.state.log_history, seconds, trainer.state.global_step - done)


def rows_per_device(batch_size: int, accumulation: int, processes: int) -> int:
    """Rows of one forward, so that an update is `batch_size` rows on any number of processes.

    Raises:
        ValueError: if the batch cannot be cut evenly.

    Example:
        >>> rows_per_device(64, accumulation=2, processes=4)
        8
    """
    parts = accumulation * processes
    if batch_size < 1 or parts < 1 or batch_size % parts:
        raise ValueError(
            "batch_size: expected a multiple of accumulation * processes = "
            f"{accumulation} * {processes}, found {batch_size}"
        )
    return batch_size // parts
