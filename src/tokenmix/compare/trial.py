"""One run of a comparison: a stack, a task, a learning rate and a seed, trained and scored in a folder of its own."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from tokenmix.compare.budget import Size, build_model
from tokenmix.compare.config import CompareConfig, ProtocolConfig
from tokenmix.compare.model import TaskModel
from tokenmix.compare.task import Split, Task, build_task
from tokenmix.layout import Layout
from tokenmix.training.resume import claim_folder, last_complete_checkpoint, write_text
from tokenmix.training.run import TrainingConfig
from tokenmix.training.trainer import MixerTrainer

TEST_SEED = 1_000_003  # of validation and test rows: the same for all runs


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
        for name in ("workers", "learning_rates", "seeds", "search", "reference", "budget"):
            del protocol[name]  # what says which runs there are, and not what is in one
        return {
            "task": config.task_spec(self.task),
            "mixers": config.mixers_of(self.stack),
            "pattern": config.stacks[self.stack],
            "model": {**asdict(config.model), "intermediate_size": self.size.feed_forward_dim},
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "protocol": protocol,
        }

    def finished(self, config: CompareConfig) -> dict[str, Any] | None:
        """What the run gave, if it has ended; None otherwise.

        Raises:
            ValueError: a folder that holds a run with other settings.
        """
        folder = self.folder(config)
        if not (folder / "config.json").is_file():
            return None
        claim_folder(folder, json.dumps(self.resolved(config), indent=2), name="config.json")
        path = folder / "metrics.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


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
    if result["stopped"] == "diverged":
        result |= {"status": "diverged", "valid": None, "test": None, "cases": {}}
    else:
        cases = evaluate(model, task, "test", protocol.test_rows)
        result |= {
            "valid": judge.history(state)[-1][1],
            "test": mean_score(cases),
            "cases": {k: s / n for k, (s, n) in cases.items()},
        }
    if protocol.keep_weights:
        save_file(model.state_dict(), str(folder / "model.safetensors"))
    write_text(folder / "metrics.json", json.dumps(result, indent=2))
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return result


@torch.no_grad()
def evaluate(model: TaskModel, task: Task, split: Split, rows: int, at_once: int = 128) -> dict[str, tuple[float, int]]:
    """Sum of the score and number of answers for each case, on the same rows for every model.

    Args:
        model: left in the mode it was in.
        task: the task.
        split: "valid" or "test".
        rows: of each case.
        at_once: rows of a forward.
    """
    training = model.training
    model.eval()
    found: dict[str, tuple[float, int]] = {}
    for number, case in enumerate(task.cases):
        total, answers = 0.0, 0
        for part in range(-(-rows // at_once)):
            batch = task.batch(split, TEST_SEED, number + part * len(task.cases), min(at_once, rows - part * at_once))
            score, count = task.score(model(batch.inputs, batch.layout), batch.targets)
            total, answers = total + score, answers + count
        found[str(case[task.vary])] = (total, answers)
    model.train(training)
    return found


def mean_score(cases: dict[str, tuple[float, int]]) -> float:
    """The mean over all answers of each case, and over cases.

    Example:
        >>> mean_score({"4": (3.0, 4), "8": (2.0, 8)})
        0.5
    """
    return sum(total / answers for total, answers in cases.values()) / len(cases)


class TrainedTask(nn.Module):
    """A model with the loss of its task, as the Trainer wants it."""

    def __init__(self, model: TaskModel, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, inputs: Tensor, targets: Tensor, layout: dict[str, Any]) -> dict[str, Tensor]:
        """{"loss": of a batch}."""
        return {"loss": self.task.loss(self.model(inputs, Layout(**layout)), targets)}


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


class Judge(TrainerCallback):
    """Scores a model on validation rows now and then, and ends a training that has solved its task or gains no more."""

    def __init__(self, task: Task, protocol: ProtocolConfig, report: Callable[[int], None] | None) -> None:
        self.task, self.protocol, self.report = task, protocol, report
        self.saved = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Score, decide, report."""
        if state.global_step % self.protocol.evaluate_every == 0 or state.global_step >= state.max_steps:
            score = mean_score(evaluate(_unwrapped(model).model, self.task, "valid", self.protocol.valid_rows))
            # not by Trainer.log, after which the loss of this step would not be logged
            state.log_history.append({"step": state.global_step, "valid": score if math.isfinite(score) else math.nan})
            control.should_training_stop = self.reason(state) != "all steps" or control.should_training_stop
        if time.monotonic() - self.saved >= self.protocol.save_seconds:
            control.should_save, self.saved = True, time.monotonic()
        if self.report is not None:
            self.report(state.global_step)

    @staticmethod
    def history(state: TrainerState) -> list[list[float]]:
        """[update, validation score] of every evaluation."""
        return [[line["step"], line["valid"]] for line in state.log_history if "valid" in line]

    def reason(self, state: TrainerState) -> str:
        """Why training ends at this state, or "all steps"."""
        sign = 1 if self.task.higher_is_better else -1
        scores = [sign * score for _, score in self.history(state)]
        if any(math.isnan(score) for score in scores) or _lost(state):
            return "diverged"
        if scores and self.task.enough is not None and scores[-1] >= sign * self.task.enough:
            return "solved"
        if self.protocol.patience and scores and len(scores) - 1 - scores.index(max(scores)) >= self.protocol.patience:
            return "no better"
        return "all steps"


def _lost(state: TrainerState) -> bool:
    return any(not math.isfinite(line["loss"]) for line in state.log_history if "loss" in line)


def _unwrapped(model: Any) -> TrainedTask:
    return getattr(model, "module", model)


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
