"""What a comparison asks of a mixer: a task gives batches, a loss and a metric."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmix.compare.mistakes import near
from tokenmix.layout import Layout
from tokenmix.plugins import load_class

Split = Literal["train", "valid", "test"]
Case = Mapping[str, Any]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
IGNORED = -100  # a target that is not predicted


@dataclass(frozen=True)
class Batch:
    """Rows of a task.

    Attributes:
        inputs: (B, L) int64 tokens, or (B, L, features) float32.
        targets: (B, L) int64, -100 where nothing is predicted; (B,) int64 where a row has one answer; or (B, L)
            float32 for regression, NaN where nothing is predicted.
        layout: where the tokens live: the fields that the task declares in `fields`.
    """

    inputs: Tensor
    targets: Tensor
    layout: Layout = field(default_factory=Layout)


class Task:
    """A question that a model is trained on and scored by.

    A task implements `draw`. Batches are a function of the split, a seed and a number, so every mixer sees the same
    data in the same order, on any machine and however often it was stopped.

    Attributes:
        name: under which it is registered.
        source: where the definition comes from.
        vocab_size: kinds of input tokens; None for features.
        features: width of the inputs where they are features.
        outputs: numbers that a model predicts: classes, or 1 for regression.
        per: "token" for an answer a token, "row" for one a row.
        needs_causal: whether a mixer that reads the future would cheat.
        fields: Layout fields that batches have.
        cases: settings that batches come in, in turn, such as ({"length": 64, "pairs": 4}, ...). All rows of a batch
            are of one case, and scores are kept for each.
        vary: the key of a case that tells them apart in plots, such as "pairs".
        blind: the reference that a model reaches without reading the row; None for the first.
        metric: name of the score: "accuracy", "bits/byte" or "squared error".
        higher_is_better: the direction of the score.
        solved: the score from which on the task counts as solved; None where there is no such thing.
        enough: the validation score that ends a training; None where none does.
    """

    name: ClassVar[str] = ""
    source: ClassVar[str] = ""
    vocab_size: int | None = None
    features: int | None = None
    outputs: int = 1
    per: Literal["token", "row"] = "token"
    needs_causal: bool = True
    fields: tuple[str, ...] = ()
    cases: tuple[Case, ...] = ()
    vary: str = "length"
    blind: str | None = None
    metric: str = "accuracy"
    higher_is_better: bool = True
    solved: float | None = 0.99
    enough: float | None = 0.999

    def draw(self, case: Case, rows: int, split: Split, generator: np.random.Generator) -> Batch:
        """What a task implements: `rows` rows of one case.

        Args:
            case: one of `cases`.
            rows: how many.
            split: for tasks whose data is finite; generated rows may ignore it, the generator differs.
            generator: of all random numbers.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement draw(case, rows, split, generator)")

    def references(self) -> dict[str, float]:
        """Scores to compare with, by name: what guessing gives, and the optimum where it is known."""
        return {}

    def span(self, case: Case) -> int | None:
        """How far back a model must read for a score above guessing on every question; None where it is not fixed."""
        return None

    def batch(self, split: Split, seed: int, number: int, rows: int) -> Batch:
        """Batch `number` of a split: the same for equal arguments.

        Args:
            split: "train", "valid" or "test".
            seed: of the data.
            number: 0, 1, ...: cases take turns.
            rows: rows.
        """
        stream = [seed, zlib.crc32((self.name or type(self).__qualname__).encode()), SPLITS.index(split), number]
        return self.draw(self.cases[number % len(self.cases)], rows, split, np.random.default_rng(stream))

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Mean loss: cross-entropy over classes, or half the squared error where targets are numbers.

        Args:
            predictions: (B, L, outputs), or (B, outputs) where a row has one answer.
            targets: as in `Batch`.
        """
        if targets.is_floating_point():
            known = ~targets.isnan()
            return 0.5 * F.mse_loss(predictions[..., 0][known].float(), targets[known])
        return F.cross_entropy(predictions.reshape(-1, self.outputs).float(), targets.reshape(-1), ignore_index=IGNORED)

    def score(self, predictions: Tensor, targets: Tensor) -> tuple[float, int]:
        """Sum of the metric over the answers of a batch, and how many there are.

        Args:
            predictions, targets: as in `loss`.
        """
        if targets.is_floating_point():
            known = ~targets.isnan()
            return float(
                F.mse_loss(predictions[..., 0][known].double(), targets[known].double(), reduction="sum")
            ), int(known.sum())
        known = targets != IGNORED
        return float((predictions.argmax(-1) == targets)[known].sum()), int(known.sum())

    @property
    def max_length(self) -> int:
        """Tokens of the longest row."""
        return max(int(case["length"]) for case in self.cases)


# ---------------------------------------------------------------------- registry

T = TypeVar("T", bound=type[Task])
_TASKS: dict[str, type[Task]] = {}


def register_task(name: str) -> Callable[[T], T]:
    """Make a task known under a name, for configs and the command line.

    Raises:
        ValueError: if another class has the name already.
    """

    def register(cls: T) -> T:
        known = _TASKS.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"name: {name!r} is taken by {known.__module__}.{known.__qualname__}")
        cls.name = name
        _TASKS[name] = cls
        return cls

    return register


def list_tasks() -> dict[str, type[Task]]:
    """Registered tasks by name, in alphabetical order."""
    import tokenmix.compare.tasks  # noqa: F401  # registers ours

    return dict(sorted(_TASKS.items()))


def build_task(spec: str | Mapping[str, Any]) -> Task:
    """Build a task from its description: a name, or a mapping with the name under "task" and keywords.

    The name is a registered one, or that of a class of your own: "my_module:MyTask", "path/to/my_file.py:MyTask".

    Raises:
        ValueError: unknown name or keyword (with the nearest ones), or a value that the task refuses.

    Example:
        >>> build_task({"task": "recall", "pairs": [4], "lengths": [64]}).max_length
        64
    """
    options = {"task": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("task", None)
    known = list_tasks()
    if isinstance(name, str) and ":" in name:
        cls: type[Task] = load_class(name, Task)
    elif name in known:
        cls = known[name]
    else:
        raise ValueError(f"task: expected one of {', '.join(known)}, found {name!r}{near(str(name), known)}")
    accepted = list(inspect.signature(cls).parameters)
    for key in options:
        if key not in accepted:
            raise ValueError(f"{key}: expected one of {', '.join(accepted)} for task {name!r}{near(key, accepted)}")
    return cls(**options)


def tokens(values: np.ndarray) -> Tensor:
    """Integers of numpy as an int64 tensor."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))
