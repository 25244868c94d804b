"""Scores on rows that are the same for all runs, and when a training ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tokenmix.compare.config import ProtocolConfig
from tokenmix.compare.model import TaskModel
from tokenmix.compare.task import Split, Task

TEST_SEED = 1_000_003  # of validation and test rows: the same for all runs


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
    training, device = model.training, next(model.parameters()).device
    model.eval()
    found: dict[str, tuple[float, int]] = {}
    for number, case in enumerate(task.cases):
        total, answers = 0.0, 0
        for part in range(-(-rows // at_once)):
            batch = task.batch(split, TEST_SEED, number + part * len(task.cases), min(at_once, rows - part * at_once))
            predictions = model(batch.inputs.to(device), batch.layout.to(device))
            score, count = task.score(predictions, batch.targets.to(device))
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


class Judge(TrainerCallback):
    """Scores a model on validation rows now and then, and ends a training that has solved its task or gains no more."""

    def __init__(self, task: Task, protocol: ProtocolConfig, report: Callable[[int], None] | None) -> None:
        self.task, self.protocol, self.report = task, protocol, report
        self.saved = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Score, decide, report."""
        if not math.isfinite(float(_unwrapped(model).loss)):  # looked at after every update, so that it ends at once
            state.log_history.append({"step": state.global_step, "lost": True})
            control.should_training_stop = True
        elif state.global_step % self.protocol.evaluate_every == 0 or state.global_step >= state.max_steps:
            score = mean_score(evaluate(_unwrapped(model).model, self.task, "valid", self.protocol.valid_rows))
            # not by Trainer.log, after which the loss of this step would not be logged
            found: dict[str, Any] = {"valid": score} if math.isfinite(score) else {"lost": True}
            state.log_history.append({"step": state.global_step, **found})
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
        if any("lost" in line for line in state.log_history):
            return "diverged"
        if scores and self.task.enough is not None and scores[-1] >= sign * self.task.enough:
            return "solved"
        if self.protocol.patience and scores and len(scores) - 1 - scores.index(max(scores)) >= self.protocol.patience:
            return "no better"
        return "all steps"


def _unwrapped(model: Any) -> Any:
    return getattr(model, "module", model)
