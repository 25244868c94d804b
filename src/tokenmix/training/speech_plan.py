"""Which models a speech recipe trains on which tasks, and from which weights each of them starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tokenmix.training.speech_config import SpeechTask, refuse_unknown

OWN_KEYS = ("decoder", "tasks", "start_from")  # of a model, beside the fields of its configuration
_SHARED = ("sampling_rate", "vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
_FREE = ("only", "workers")  # settings that change no result


class SpeechPlan:
    """Models and tasks that fit together.

    Args:
        models: by name, fields of a configuration and `OWN_KEYS`.
        tasks: all tasks, in their order.
        only: names of the tasks to run; None for all.

    Raises:
        ValueError: a name that is not there, a field that all models share, or a start that nothing will have made.

    Example:
        >>> from tokenmix.training.speech_config import SpeechDataConfig, read_tasks
        >>> from tokenmix.training import TrainingConfig
        >>> tasks = read_tasks({"a": {}, "b": {"start_from": "a"}}, SpeechDataConfig(), TrainingConfig())
        >>> plan = SpeechPlan({"m": {}, "s": {"start_from": "m", "tasks": ["b"]}}, tasks)
        >>> [str(place) for place in (plan.start("m", "b"), plan.start("s", "b"))]
        ['m/a', 'm/b']
    """

    def __init__(
        self,
        models: Mapping[str, Mapping[str, Any]],
        tasks: Mapping[str, SpeechTask],
        only: Sequence[str] | None = None,
    ) -> None:
        self.models, self.tasks = models, tasks
        refuse_unknown("only", dict.fromkeys(only or []), tasks)
        self.chosen = [name for name in tasks if only is None or name in only]
        if not models or not self.chosen:
            raise ValueError("models: expected at least one and a task for it, found none")
        for name, entry in models.items():
            if shared := sorted({*_SHARED} & {*entry}):
                raise ValueError(f"models.{name}.{shared[0]}: expected under model, since all models share it")
            refuse_unknown(f"models.{name}.tasks", dict.fromkeys(entry.get("tasks") or []), tasks)
            self._check_starts(name)

    def tasks_of(self, model: str) -> list[SpeechTask]:
        """The tasks to run of a model."""
        return [self.tasks[name] for name in self._all_tasks(model) if name in self.chosen]

    def start(self, model: str, task: str) -> Path | None:
        """The folder, from that of the run, of what a model starts a task from; None for weights drawn anew."""
        earlier, other = self.tasks[task].start_from, self.models[model].get("start_from")
        if earlier is not None and earlier in self._all_tasks(model):
            return Path(model) / earlier
        if other is not None:
            return Path(other) / task
        return None

    def waves(self) -> list[list[str]]:
        """Names of the models that can be trained at the same time, and then of those that start from them."""
        later = [name for name, entry in self.models.items() if entry.get("start_from")]
        return [[name for name in self.models if name not in later], later]

    def require_starts(self, output: str) -> None:
        """Refuse a task whose start is neither to be made now nor in the folder of the run.

        Raises:
            ValueError: names the task, and what it lacks.
        """
        for name in self.models:
            for task in self.tasks_of(name):
                place = self.start(name, task.name)
                if place is None or place.name in self.chosen or (Path(output) / place / "model").is_dir():
                    continue
                raise ValueError(f"only: {name} starts {task.name} from {place}, and {output} has no model there")

    def _all_tasks(self, model: str) -> list[str]:
        own = self.models[model].get("tasks")
        return [name for name in self.tasks if own is None or name in own]

    def _check_starts(self, name: str) -> None:
        other = self.models[name].get("start_from")
        if other is not None:
            refuse_unknown(f"models.{name}.start_from", {other: None}, self.models)
            found = self.models[other]
            if found.get("decoder") or found.get("start_from"):
                raise ValueError(
                    f"models.{name}.start_from: expected a model without a decoder and without a start of its own, "
                    f"found {other!r}"
                )
        own = self._all_tasks(name)
        for task in own:
            place, earlier = self.start(name, task), self.tasks[task].start_from
            if other is not None and place == Path(other) / task and task not in self._all_tasks(other):
                raise ValueError(f"models.{name}.start_from: expected a model trained on {task}, found {other!r}")
            if earlier is not None and place is None:
                raise ValueError(
                    f"models.{name}.tasks: expected {earlier!r} too, which {task} starts from, found {own}"
                )


def claimed_settings(resolved: str) -> str:
    r"""A resolved configuration without what changes no result, for `claim_folder`.

    Example:
        >>> claimed_settings("a: 1\nonly: [b]\nworkers: 2\n")
        'a: 1\n'
    """
    settings = {key: value for key, value in yaml.safe_load(resolved).items() if key not in _FREE}
    return str(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
