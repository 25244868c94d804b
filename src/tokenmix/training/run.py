"""One training run with Hugging Face's Trainer, which goes on where it was stopped."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerState, TrainingArguments

from tokenmix.training.resume import last_complete_checkpoint
from tokenmix.training.trainer import MixerTrainer

_OVERRIDABLE = {"max_steps", "report_to", "use_cpu", "dataloader_pin_memory"}  # without a field in TrainingConfig


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
        if processes == 1 and torch.cuda.device_count() > 1:
            raise ValueError(
                f"batch_size: one process sees {torch.cuda.device_count()} GPUs, which the Trainer would give "
                f"{self.batch_size} rows each; start with torchrun --nproc_per_node, or set CUDA_VISIBLE_DEVICES to one"
            )
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
        taken = sorted(set(self.trainer) & set(options) - _OVERRIDABLE)
        if taken:
            raise ValueError(f"trainer: expected keywords that have no field of their own, found {', '.join(taken)}")
        return TrainingArguments(**{**options, **self.trainer})


@dataclass(frozen=True)
class Trained:
    """What a finished training gave.

    Args:
        history: the Trainer's log from the first step on, a dict a line.
        steps: updates of the weights.
        seconds: time in training, over all starts; what a kill threw away is not counted.
    """

    history: list[dict[str, Any]]
    steps: int
    seconds: float


def train_or_resume(
    model: PreTrainedModel,
    config: TrainingConfig,
    folder: str | os.PathLike[str],
    *,
    trainer_class: type[MixerTrainer] = MixerTrainer,
    **options: Any,
) -> Trained:
    """Train, from the folder's last whole checkpoint if there is one; the result is bit for bit the same.

    Args:
        model: with the weights that it starts from.
        config: how to train.
        folder: for checkpoints.
        trainer_class: a Trainer with another loss.
        options: `train_dataset`, `data_collator`, `processing_class` and others of the Trainer.

    Returns:
        The log and the time; the model is trained in place.
    """
    arguments = config.arguments(folder)
    with arguments.main_process_first(desc="looking for a checkpoint"):
        checkpoint = last_complete_checkpoint(Path(folder))
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        control = state.stateful_callbacks.get("TrainerControl", {}).get("args", {})
        stopped = control.get("should_training_stop", False)  # by a callback, before the last step
        if stopped or state.global_step >= state.max_steps:  # killed after its end; the Trainer would train on
            if arguments.load_best_model_at_end and state.best_model_checkpoint is not None:
                checkpoint = checkpoint.with_name(Path(state.best_model_checkpoint).name)
            weights = type(model).from_pretrained(checkpoint).state_dict()
            model.load_state_dict(weights)
            torch.nn.Module.to(model, arguments.device)
            return _trained(state)
    trainer = trainer_class(model=model, args=arguments, **options)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)  # no autocast after training
    return _trained(trainer.state)


def _trained(state: TrainerState) -> Trained:
    seconds = [line["seconds"] for line in state.log_history if "seconds" in line]
    return Trained(state.log_history, state.global_step, seconds[-1] if seconds else math.nan)


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
