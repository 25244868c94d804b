"""What is compared, by which protocol: the YAML tree of `tokenmix compare`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tokenmix.compare.costs import CostsConfig
from tokenmix.compare.mistakes import near
from tokenmix.compare.model import ModelConfig
from tokenmix.compare.portrait import PortraitConfig
from tokenmix.mixer import TokenMixer, check_positive
from tokenmix.plugins import load_mixer_class

PRESETS = Path(__file__).parent / "presets"


@dataclass
class ProtocolConfig:
    """How every model is trained and scored; a task may replace values of its own under `training`."""

    budget: Literal["parameters", "flops", "none"] = "parameters"
    """What is held equal, by the inner width of the feed-forwards: parameters, the FLOPs of a forward, or nothing."""
    reference: str | None = None
    """The stack whose size is the budget, and whose cost is 1; default the first."""
    learning_rates: list[float] = field(default_factory=lambda: [1e-3, 3e-3, 1e-2])
    """The grid that each stack is trained on; the best is chosen by validation scores."""
    search: Literal["every seed", "first seed"] = "every seed"
    """Which seeds the whole grid is trained with; with "first seed" the others are trained at its best rate alone."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Of the weights and of the order of data; one order for all stacks."""
    steps: int = 1000
    """Updates at most."""
    batch_size: int = 64
    """Rows an update."""
    warmup_steps: int = 50
    """Updates of linear warm-up; the learning rate then falls to 0 as a cosine."""
    weight_decay: float = 0.1
    """On matrices alone."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    evaluate_every: int = 100
    """Updates between two validation scores."""
    patience: int = 0
    """Validation scores without a better one before a run ends early; 0: it does not. A solved task always ends it."""
    valid_rows: int = 256
    """Rows of each case to validate on."""
    test_rows: int = 1024
    """Rows of each case to report."""
    save_seconds: float = 60.0
    """Time between two checkpoints of a run."""
    keep_weights: bool = False
    """Keep the trained weights in each run's folder."""
    workers: int | None = None
    """Runs at a time; default as many as there are cores. It changes no number but times."""
    threads: int = 1
    """Of each run."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        for name in ("steps", "batch_size", "evaluate_every", "valid_rows", "test_rows", "threads"):
            check_positive(name, getattr(self, name))
        if self.workers is not None:
            check_positive("workers", self.workers)
        for name in ("learning_rates", "seeds"):
            values = getattr(self, name)
            if not isinstance(values, list) or not values or len({f"{value}" for value in values}) < len(values):
                raise ValueError(f"{name}: expected a list of at least one, all different, found {values}")
        for rate in self.learning_rates:
            _check_number("learning_rates", rate, above=True)
        if len({f"{rate:g}" for rate in self.learning_rates}) < len(self.learning_rates):
            raise ValueError(f"learning_rates: expected rates that differ in 6 digits, found {self.learning_rates}")
        for seed in self.seeds:
            if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
                raise ValueError(f"seeds: expected whole numbers from 0 to 2^32 - 1, found {seed!r}")
        for name in ("warmup_steps", "patience"):
            if getattr(self, name) != 0:
                check_positive(name, getattr(self, name))
        for name in ("save_seconds", "weight_decay"):
            _check_number(name, getattr(self, name))
        _check_number("clip", self.clip, above=True)
        if not isinstance(self.keep_weights, bool):
            raise TypeError(f"keep_weights: expected true or false, found {self.keep_weights!r}")


def _check_number(name: str, value: Any, *, above: bool = False) -> None:
    """Refuse what is no finite number from 0 on, or above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, found {value!r}")
    if not math.isfinite(value) or value < 0 or (above and value == 0):
        raise ValueError(f"{name}: expected a number {'above 0' if above else 'of 0 or more'}, found {value}")


@dataclass
class CompareConfig:
    """The whole configuration of a comparison."""

    mixers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """A description for each letter: {a: {mixer: attention, heads: 4}}; of a class: {mixer: my_file.py:MyMixer}."""
    stacks: dict[str, str] = field(default_factory=dict)
    """What is compared: a pattern of letters for each name: {attention: a, hybrid: ma}."""
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """A description for each task: {recall: {task: recall, pairs: [4, 8]}}. `training` in it replaces values of the
    protocol for this task: {training: {steps: 300}}; `stacks` names those that are asked, else all are."""
    model: ModelConfig = field(default_factory=ModelConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    costs: CostsConfig = field(default_factory=CostsConfig)
    portrait: PortraitConfig = field(default_factory=PortraitConfig)
    output: str = "runs/compare"
    """Folder of the comparison; the same command goes on where it was stopped."""

    @property
    def reference(self) -> str:
        """Name of the stack that sets the budget."""
        return self.protocol.reference or next(iter(self.stacks))

    def mixers_of(self, stack: str) -> dict[str, dict[str, Any]]:
        """The mixers of one stack, by letter, classes as they are described."""
        return {letter: dict(self.mixers[letter]) for letter in dict.fromkeys(self.stacks[stack])}

    def protocol_of(self, task: str) -> ProtocolConfig:
        """The protocol with what a task replaces.

        Raises:
            ValueError: a key that is none of the protocol's, or that must be the same for all tasks.
        """
        own = self.tasks[task].get("training", {})
        fixed = {"budget", "reference", "search", "workers", "threads"}
        names = [f.name for f in dataclasses.fields(ProtocolConfig) if f.name not in fixed]
        if not isinstance(own, Mapping) or (unknown := sorted(set(own) - set(names))):
            found = unknown if isinstance(own, Mapping) else own
            close = near(str(unknown[0]), names) if isinstance(own, Mapping) else ""
            raise ValueError(f"tasks.{task}.training: expected keys among {', '.join(names)}, found {found}{close}")
        try:
            return dataclasses.replace(self.protocol, **own)
        except (TypeError, ValueError) as error:
            raise ValueError(f"tasks.{task}.training: {error}") from error

    def task_spec(self, task: str) -> dict[str, Any]:
        """The description of one task, without its training and stacks."""
        return {key: value for key, value in self.tasks[task].items() if key not in ("training", "stacks")}

    def stacks_of(self, task: str) -> list[str]:
        """The stacks that are asked a task.

        Raises:
            ValueError: a name that no stack has.
        """
        asked = self.tasks[task].get("stacks", list(self.stacks))
        unknown = [name for name in asked if name not in self.stacks] if isinstance(asked, list) else asked
        if not isinstance(asked, list) or unknown or len(set(asked)) < len(asked):
            found, there = unknown or asked, ", ".join(self.stacks)
            close = near(str(unknown[0]), self.stacks) if isinstance(asked, list) and unknown else ""
            raise ValueError(
                f"tasks.{task}.stacks: expected a list of different names among {there}, found {found}{close}"
            )
        return list(asked)

    def check(self) -> None:
        """Refuse names that do not fit together.

        Raises:
            ValueError: no stack or task, a letter without a mixer, an unknown reference, names that make no folder.
        """
        if not self.output:
            raise ValueError("output: expected a folder, found an empty string")
        for name, kind in (("stacks", self.stacks), ("tasks", self.tasks)):
            if not kind:
                raise ValueError(f"{name}: expected at least one, found none")
            for key in kind:
                if not key or key in (".", "..") or any(c in key for c in "/\\:"):
                    raise ValueError(f"{name}: expected names without / \\ :, since folders bear them, found {key!r}")
        for stack, pattern in self.stacks.items():
            missing = sorted(set(pattern) - set(self.mixers))
            if missing or not pattern:
                raise ValueError(
                    f"stacks: expected letters of mixers {sorted(self.mixers)} for {stack!r}, found {pattern!r}"
                )
        if self.reference not in self.stacks:
            close = near(self.reference, self.stacks)
            raise ValueError(
                f"protocol.reference: expected one of {list(self.stacks)}, found {self.reference!r}{close}"
            )
        for letter, spec in self.mixers.items():
            if len(letter) != 1 or not isinstance(spec, dict) or "mixer" not in spec:
                raise ValueError(f"mixers: expected one letter and a key 'mixer', found {letter!r}: {spec}")
        for task in self.tasks:
            self.protocol_of(task)
            self.stacks_of(task)


def with_classes(mixers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Descriptions in which names such as "my_file.py:MyMixer" have become classes.

    Raises:
        ValueError: a file, module or class that is not there, or no TokenMixer.

    Example:
        >>> with_classes({"g": {"mixer": "tokenmix.mixers.gam:GAM", "slots": 4}})["g"]["mixer"].__name__
        'GAM'
    """
    return {letter: {**spec, "mixer": _resolve(spec["mixer"])} for letter, spec in mixers.items()}


def _resolve(name: Any) -> str | type[TokenMixer]:
    return load_mixer_class(name) if isinstance(name, str) and ":" in name else name
