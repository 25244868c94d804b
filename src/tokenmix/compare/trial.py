"""One run of a comparison: a stack, a task, a learning rate and a seed, trained and scored in a folder of its own."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, TrainerState, set_seed

import tokenmix
from tokenmix.compare.budget import Size, build_model
from tokenmix.compare.config import CompareConfig, ProtocolConfig
from tokenmix.compare.judge import Judge, evaluate, mean_score
from tokenmix.compare.model import TaskModel
from tokenmix.compare.task import Task, build_task
from tokenmix.layout import Layout
from tokenmix.plugins import source_digest
from tokenmix.training.resume import claim_folder, last_complete_checkpoint, setting_differences, write_text
from tokenmix.training.run import TrainingConfig
from tokenmix.training.trainer import MixerTrainer

# keys of the protocol that say which runs there are, or change no number
_APART = ("workers", "learning_rates", "seeds", "search", "reference", "budget", "save_seconds", "keep_weights")


@dataclass(frozen=True)
class Trial:
    """What one run is.

    Attributes:
        task, stack: their names in the config.
        learning_rate, seed: of the run.
        size: of the model, see `match_budget`.
    """

    task: str
    stack: str
    learning_rate: float
    seed: int
    size: Size

    @property
    def name(self) -> str:
        """Such as "recall/attention/lr_0.003_seed_0": its folder under `runs`."""
        return f"{self.task}/{self.stack}/lr_{self.learning_rate:g}_seed_{self.seed}"

    def folder(self, config: CompareConfig) -> Path:
        """Where it is kept."""
        return Path(config.output) / "runs" / self.name

    def resolved(self, config: CompareConfig) -> dict[str, Any]:
        """All that its numbers follow from, for config.json."""
        protocol = asdict(config.protocol_of(self.task))
        for name in _APART:
            del protocol[name]
        return {
            "task": config.task_spec(self.task),
            "mixers": config.mixers_of(self.stack),
            "pattern": config.stacks[self.stack],
            "model": {**asdict(config.model), "intermediate_size": self.size.feed_forward_dim},
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "protocol": protocol,
            "code": code_of(config.task_spec(self.task), *config.mixers_of(self.stack).values()),
        }

    def finished(self, config: CompareConfig) -> dict[str, Any] | None:
        """What the run gave, if it has ended; None otherwise.

        Raises:
            ValueError: a folder that holds a run with other settings.
        """
        if other := self.other_settings(config):
            raise ValueError(f"output: {self.folder(config)} holds a run with {other[0]}")
        path = self.folder(config) / "metrics.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def other_settings(self, config: CompareConfig) -> list[str]:
        """Settings of the run in its folder that are not those of the config; none where there is no run.

        Returns:
            Such as ["protocol.steps=12, found protocol.steps=4"].
        """
        path = self.folder(config) / "config.json"
        if not path.is_file():
            return []
        return setting_differences(path.read_text(encoding="utf-8"), json.dumps(self.resolved(config)))


def code_of(*specs: Mapping[str, Any]) -> dict[str, str]:
    """What results rest on besides their settings: versions, and digests of the files of one's own classes."""
    names = [value for spec in specs for key, value in spec.items() if key in ("mixer", "task")]
    own = {name: source_digest(name) for name in names if isinstance(name, str) and ":" in name}
    return {"tokenmix": tokenmix.__version__, "torch": torch.__version__, **own}


def run_trial(config: CompareConfig, trial: Trial, report: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Train and score one model, or go on where it was stopped, or read what it gave.

    Args:
        config: of the comparison.
        trial: which run.
        report: called with the number of updates done.

    Returns:
        What is in metrics.json: "status" ("finished", or "diverged" where the loss was no number), "stopped" (why it
        ended), "valid" and "test" (scores), "cases" (test scores of each case), "steps", "seconds", "history" of
        validation scores.

    Raises:
        ValueError: a folder that holds a run with other settings.
    """
    kept = trial.finished(config)
    if kept is not None:
        return kept
    folder, protocol = trial.folder(config), config.protocol_of(trial.task)
    claim_folder(folder, json.dumps(trial.resolved(config), indent=2), name="config.json")
    torch.set_num_threads(protocol.threads)
    set_seed(trial.seed)
    task = build_task(config.task_spec(trial.task))
    model = build_model(config, trial.stack, task, trial.size.feed_forward_dim)
    judge = Judge(task, protocol, report)
    began = time.perf_counter()
    state = _train(TrainedTask(model, task), judge, task, protocol, trial, folder)
    seconds = [line["seconds"] for line in state.log_history if "seconds" in line]
    result: dict[str, Any] = {
        "status": "finished",
        "stopped": judge.reason(state),
        "steps": state.global_step,
        "seconds": seconds[-1] if seconds else time.perf_counter() - began,
        "history": judge.history(state),
    }
    cases = evaluate(model, task, "test", protocol.test_rows)
    if result["stopped"] == "diverged" or not math.isfinite(mean_score(cases)):
        result |= {"status": "diverged", "valid": None, "test": None, "cases": {}}
    else:
        result |= {
            "valid": judge.history(state)[-1][1],
            "test": mean_score(cases),
            "cases": {label: total / answers for label, (total, answers) in cases.items()},
            "answers": sum(answers for _, answers in cases.values()),
        }
    if protocol.keep_weights:
        save_file(model.state_dict(), str(folder / "model.safetensors"))
    write_text(folder / "metrics.json", json.dumps(result, indent=2))
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return result


class TrainedTask(nn.Module):
    """A model with the loss of its task, as the Trainer wants it."""

    def __init__(self, model: TaskModel, task: Task) -> None:
        super().__init__()
        self.model, self.task, self.loss = model, task, torch.zeros(())

    def forward(self, inputs: Tensor, targets: Tensor, layout: dict[str, Any]) -> dict[str, Tensor]:
        """{"loss": of a batch}."""
        loss = self.task.loss(self.model(inputs, Layout(**layout)), targets)
        self.loss = loss.detach()
        return {"loss": loss}


class Batches(Dataset[dict[str, Any]]):
    """The training batches of a run, one an item, made when they are asked for."""

    def __init__(self, task: Task, seed: int, rows: int, steps: int) -> None:
        self.task, self.seed, self.rows, self.steps = task, seed, rows, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, number: int) -> dict[str, Any]:
        batch = self.task.batch("train", self.seed, number, self.rows)
        fields = {name: getattr(batch.layout, name) for name in batch.layout.fields()}
        return {"inputs": batch.inputs, "targets": batch.targets, "layout": fields}


class TrialTrainer(MixerTrainer):
    """A Trainer that reads batches in their order."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]  # Batches have a length


def _train(
    model: TrainedTask, judge: Judge, task: Task, protocol: ProtocolConfig, trial: Trial, folder: Path
) -> TrainerState:
    """Train from the last whole checkpoint, if there is one, to the end."""
    training = TrainingConfig(
        steps=protocol.steps,
        batch_size=1,  # an item is a batch
        learning_rate=trial.learning_rate,
        warmup_steps=protocol.warmup_steps,
        weight_decay=protocol.weight_decay,
        clip=protocol.clip,
        log_steps=protocol.evaluate_every,
        seed=trial.seed,
        trainer={
            "save_strategy": "no",
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "logging_nan_inf_filter": False,
            "log_level": "error",
        },
    )
    checkpoint = last_complete_checkpoint(folder)
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state.global_step >= state.max_steps or judge.reason(state) != "all steps":  # killed after its end
            model.load_state_dict(load_file(str(checkpoint / "model.safetensors")))
            return state
    trainer = TrialTrainer(
        model=model,
        args=training.arguments(folder),
        train_dataset=Batches(task, trial.seed, protocol.batch_size, protocol.steps),
        data_collator=lambda items: items[0],
        callbacks=[judge],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer.state
