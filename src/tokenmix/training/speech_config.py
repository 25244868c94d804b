"""Which speech a recipe trains on, and what its models are."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tokenmix.nearest import nearest
from tokenmix.training.run import TrainingConfig

C = TypeVar("C")
_KINDS = {bool: "true or false", int: "an integer", str: "a text", dict: "a mapping", list: "a list"}


@dataclass
class SpeechDataConfig:
    """Which recordings, and how they are read."""

    name: str = "espeak"
    """A source of `tokenmix.data.speech.load_speech`."""
    folder: str | None = None
    """Where it is on disk; default the source's own place."""
    options: dict[str, Any] = field(default_factory=dict)
    """More keywords of the source, such as languages, voices or the speaker to leave out."""
    train_clips: int | None = None
    """Train on the first of a seeded shuffle only; None for all."""
    valid_clips: int = 200
    """Clips of the validation split that are scored during training, at most."""
    max_seconds: float = 15.0
    """Longer clips are left out of training, and counted."""
    speeds: list[float] = field(default_factory=lambda: [0.9, 1.0, 1.1])
    """Each training clip is played at one of these speeds, drawn anew every time."""
    strict: bool = False
    """End at the first bad file, instead of counting, naming and leaving it out."""
    check: bool = False
    """Decode every file before training, and not only read its header."""


@dataclass
class SpeechTask:
    """One data set and how to train on it.

    Args:
        name: of the task.
        data: the recordings.
        training: how.
        start_from: an earlier task, whose model this one starts from.
    """

    name: str
    data: SpeechDataConfig
    training: TrainingConfig
    start_from: str | None = None


def read_tasks(
    tasks: Mapping[str, Mapping[str, Any]], data: SpeechDataConfig, training: TrainingConfig
) -> dict[str, SpeechTask]:
    """Tasks by name, each with what it changes in the settings that all share.

    Args:
        tasks: by name, any of the keys data, training and start_from.
        data, training: shared settings.

    Raises:
        ValueError: no task, an unknown key (with the nearest), or a start that is no earlier task.

    Example:
        >>> tasks = {"a": {}, "b": {"training": {"steps": 7}, "start_from": "a"}}
        >>> read_tasks(tasks, SpeechDataConfig(), TrainingConfig())["b"].training.steps
        7
    """
    if not tasks:
        raise ValueError("tasks: expected at least one, such as {synthetic: {data: {name: espeak}}}, found none")
    found: dict[str, SpeechTask] = {}
    for name, given in tasks.items():
        entry = dict(given or {})
        where = f"tasks.{name}"
        refuse_unknown(where, entry, ("data", "training", "start_from"))
        start = entry.get("start_from")
        if start is not None and start not in found:
            raise ValueError(f"{where}.start_from: expected one of the tasks before it {list(found)}, found {start!r}")
        own = changed(data, entry.get("data"), f"{where}.data"), changed(training, entry.get("training"), where)
        found[name] = SpeechTask(name, *own, start)
    return found


def changed(settings: C, changes: Mapping[str, Any] | None, where: str) -> C:
    """A dataclass with some fields changed.

    Raises:
        ValueError: a key that is no field, with the nearest ones, or a value of another type.

    Example:
        >>> changed(SpeechDataConfig(), {"name": "fsdd"}, "data").name
        'fsdd'
    """
    changes = dict(changes or {})
    refuse_unknown(where, changes, [f.name for f in dataclasses.fields(settings)])  # type: ignore[arg-type]  # a dataclass
    for name, value in changes.items():
        kind = type(getattr(settings, name))
        if kind is float and not isinstance(value, bool):
            try:
                changes[name] = float(value)  # YAML takes 1e-3 for a text
            except (TypeError, ValueError):
                raise ValueError(f"{where}.{name}: expected a number, found {value!r}") from None
        elif kind in (bool, int, str, dict, list) and type(value) is not kind:
            raise ValueError(f"{where}.{name}: expected {_KINDS[kind]}, found {value!r}")
    return dataclasses.replace(settings, **changes)  # type: ignore[type-var]  # a dataclass


def refuse_unknown(where: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse keys that nobody reads.

    Raises:
        ValueError: the key, and the nearest known ones.
    """
    for key in given:
        if key not in known:
            raise ValueError(f"{where}.{key}: not a key here; {nearest(key, known)}")
