"""A comparison from its config to its results."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from tokenmix.compare.baseline import against_baseline
from tokenmix.compare.budget import Size, build_model, match_budget, skip_reason
from tokenmix.compare.config import CompareConfig
from tokenmix.compare.describe import describe_run, describe_task, environment
from tokenmix.compare.findings import find
from tokenmix.compare.measured import Measured
from tokenmix.compare.summary import best_rate, summarise
from tokenmix.compare.task import Task, build_task
from tokenmix.compare.trial import Trial
from tokenmix.compare.workers import run_all
from tokenmix.training.resume import write_text

FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """What will be run.

    Attributes:
        tasks: by name.
        sizes: of each (task, stack) that is run.
        trials: the runs.
        skipped: {"task", "stack", "reason"} of what is not.
        references: of each task.
    """

    tasks: dict[str, Task]
    sizes: dict[tuple[str, str], Size]
    trials: list[Trial]
    skipped: list[dict[str, str]]
    references: dict[str, dict[str, float]]


def make_plan(config: CompareConfig) -> Plan:
    """Build every model once, so that a mistake in the last one is found before the first is trained.

    Raises:
        ValueError, TypeError: names, options or sizes that do not fit.
        ModuleNotFoundError: a package that a task needs.
    """
    config.check()
    tasks = {name: build_task(config.task_spec(name)) for name in config.tasks}
    sizes: dict[tuple[str, str], Size] = {}
    trials, skipped = [], []
    for name, task in tasks.items():
        protocol = config.protocol_of(name)
        labels = [str(case[task.vary]) for case in task.cases]
        if len(set(labels)) < len(labels):
            raise ValueError(f"tasks.{name}: expected another {task.vary} for each case, found {', '.join(labels)}")
        for stack in config.stacks_of(name):
            reason = skip_reason(config, stack, task)
            if reason is not None:
                skipped.append({"task": name, "stack": stack, "reason": reason})
                continue
            size = sizes[name, stack] = match_budget(config, stack, task)
            trials += [
                Trial(name, stack, rate, seed, size) for seed in protocol.seeds for rate in protocol.learning_rates
            ]
    if not trials:
        raise ValueError(f"stacks: expected at least one that can be asked a task, found none: {skipped}")
    return Plan(tasks, sizes, trials, skipped, {name: task.references() for name, task in tasks.items()})


def run_comparison(
    config: CompareConfig,
    *,
    command: str = "",
    baseline: str | os.PathLike[str] | None = None,
    only: str | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train, score and measure everything that is missing, and write results.json.

    Args:
        config: what is compared.
        command: that started it, for the report.
        baseline: results.json of an earlier comparison, to compare with.
        only: name of one run, such as "recall/attention/lr_0.003_seed_0": nothing else is run or reported.
        console: for bars and tables.

    Returns:
        The results; `tokenmix.compare.page` shows what is in them.

    Raises:
        ValueError: a config whose parts do not fit together, another config in a run's folder, a baseline that cannot
            be read, an unknown run, or a folder that another process is writing to.
    """
    console = console or Console()
    plan = make_plan(config)
    earlier = None if baseline is None else read_results(baseline)
    trials = plan.trials
    if only is not None:
        trials = [trial for trial in trials if trial.name == only]
        if not trials:
            raise ValueError(f"only: expected a run such as {plan.trials[0].name}, found {only!r}")
    began = time.perf_counter()
    resumed = any(trial.finished(config) is not None for trial in trials)
    with _claimed(Path(config.output)):
        for entry in plan.skipped:
            console.print(f"skipped: {entry['task']}/{entry['stack']}: {entry['reason']}", markup=False)
        if only is not None:
            return {"runs": [run_all(config, trials, console)[only]]}
        outcomes = train_all(config, plan, console)
        trials = [trial for trial in trials if trial.name in outcomes]
        results: dict[str, Any] = {
            "format": FORMAT,
            "command": command,
            "environment": environment(config),
            "config": asdict(config),
            "tasks": {
                name: describe_task(config, name, task, plan.references[name]) for name, task in plan.tasks.items()
            },
            "stacks": {
                name: {
                    "pattern": pattern,
                    "letters": build_model(config, name, plan.tasks[next(iter(plan.tasks))]).stack.letters,
                    "mixers": config.mixers_of(name),
                }
                for name, pattern in config.stacks.items()
            },
            "runs": [describe_run(trial, outcomes[trial.name], command) for trial in trials],
            "skipped": plan.skipped,
        }
        results["summary"] = summarise(results)
        sizes = {stack: size for (_, stack), size in reversed(plan.sizes.items())}  # of its first task
        sizes = {stack: sizes[stack] for stack in config.stacks if stack in sizes}
        measured = Measured(config, next(iter(plan.tasks.values())), sizes, console)
        results["costs"], results["portraits"] = measured.costs(), measured.portraits()
        results["baseline"] = None if earlier is None else against_baseline(results, earlier, str(baseline))
        results["findings"] = find(results)
        results["environment"]["seconds"] = None if resumed else time.perf_counter() - began
        write_text(Path(config.output) / "results.json", json.dumps(results, indent=1))
    return results


def train_all(config: CompareConfig, plan: Plan, console: Console) -> dict[str, dict[str, Any]]:
    """The outcomes of all runs, or of the grid with one seed and then of its best rates with the others."""
    if config.protocol.search == "every seed":
        return run_all(config, plan.trials, console)
    first = [trial for trial in plan.trials if trial.seed == config.protocol_of(trial.task).seeds[0]]
    outcomes = run_all(config, first, console)
    while missing := [trial for trial in chosen_trials(plan, first, outcomes) if trial.name not in outcomes]:
        outcomes |= run_all(config, missing, console)
    return outcomes


def chosen_trials(plan: Plan, first: list[Trial], outcomes: dict[str, dict[str, Any]]) -> list[Trial]:
    """All seeds of each stack's best learning rate by the first seed, of those at which no seed was lost so far."""
    lost = {(t.task, t.stack, t.learning_rate) for t in plan.trials if _lost(outcomes.get(t.name))}
    chosen = set()
    for task, stack in plan.sizes:
        mine = [t for t in first if (t.task, t.stack) == (task, stack) and (task, stack, t.learning_rate) not in lost]
        by_rate = {trial.learning_rate: [outcomes[trial.name]] for trial in mine}
        chosen.add((task, stack, best_rate(by_rate, plan.tasks[task].higher_is_better)))
    return [trial for trial in plan.trials if (trial.task, trial.stack, trial.learning_rate) in chosen]


def _lost(outcome: dict[str, Any] | None) -> bool:
    return outcome is not None and outcome["status"] != "finished"


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """results.json of a comparison, from the file or its folder.

    Raises:
        ValueError: no file, or one of another kind.
    """
    file = Path(path) / "results.json" if Path(path).is_dir() else Path(path)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["format"] != FORMAT or not isinstance(found["summary"], list):
            raise KeyError("format")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"baseline: expected results.json of a comparison, found {file} ({error})") from error
    return found


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Refuse a folder that another process is writing to."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as file:
        _lock(file, folder)
        yield


def _lock(file: TextIO, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on this system
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ValueError(f"output: another process is running a comparison in {folder}") from error
