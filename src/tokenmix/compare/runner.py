"""A comparison from its config to its results."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from tokenmix.compare.baseline import against_baseline
from tokenmix.compare.budget import build_model
from tokenmix.compare.config import CompareConfig
from tokenmix.compare.describe import describe_run, describe_task, environment
from tokenmix.compare.findings import find
from tokenmix.compare.folder import FORMAT, check_settings, claimed, read_results
from tokenmix.compare.kept import Kept, added_stacks, earlier_results, in_order, keep_pairs, tell_kept
from tokenmix.compare.measured import Measured
from tokenmix.compare.plan import Outcomes, Plan, all_pairs, join_pairs, make_pairs, plan_of_run, run_plan
from tokenmix.compare.summary import summarise
from tokenmix.compare.workers import run_all
from tokenmix.training.resume import write_text


@dataclass(frozen=True)
class Asked:
    """What a command asks of a comparison.

    Attributes:
        tasks, stacks: names of what is trained; None for all. What has ended of the others stays on the page.
        added: stacks that do not stand in the config's file.
    """

    tasks: Sequence[str] | None = None
    stacks: Sequence[str] | None = None
    added: Sequence[str] = ()

    def wants(self, task: str, stack: str) -> bool:
        """Whether a stack is to be trained on a task."""
        return (self.tasks is None or task in self.tasks) and (self.stacks is None or stack in self.stacks)


def run_comparison(
    config: CompareConfig,
    *,
    command: str = "",
    baseline: str | os.PathLike[str] | None = None,
    only: str | None = None,
    asked: Asked | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train, score and measure everything that is missing, and write results.json.

    Args:
        config: what is compared.
        command: that started it, for the report.
        baseline: results.json of an earlier comparison, to compare with.
        only: name of one run, such as "recall/attention/lr_0.003_seed_0": nothing else is run or reported.
        asked: which part of it; the results also hold what has ended of the rest.
        console: for bars and tables.

    Returns:
        The results; `tokenmix.compare.page` shows what is in them.

    Raises:
        ValueError: a config whose parts do not fit together, other settings in a run's folder, a baseline that cannot
            be read, an unknown run, or a folder that another process is writing to.
    """
    console, asked = console or Console(), asked or Asked()
    if only is not None:
        _, trial = plan_of_run(config, only)
        check_settings(config, [trial])
        with claimed(Path(config.output)):
            return {"runs": [run_all(config, [trial], console)[only]]}
    tasks, pairs = make_pairs(config, [pair for pair in all_pairs(config) if asked.wants(*pair)])
    before = None if baseline is None else read_results(baseline)
    check_settings(config, [trial for pair in pairs for trial in pair.trials])
    began = time.perf_counter()
    with claimed(Path(config.output)):
        earlier = earlier_results(config)
        rest = [pair for pair in all_pairs(config) if not asked.wants(*pair)]
        kept = keep_pairs(config, rest, earlier, tasks)
        tell_kept(kept, console)
        plan = in_order(config, kept.tasks, [*pairs, *kept.pairs])
        resumed = any(trial.finished(config) is not None for trial in plan.trials)
        for entry in plan.skipped:
            console.print(f"skipped: {entry['task']}/{entry['stack']}: {entry['reason']}", markup=False)
        run = partial(run_all, config, console=console)
        outcomes = kept.outcomes | run_plan(config, join_pairs(tasks, pairs), run)
        results = _described(config, plan, outcomes, command)
        _keep_commands(results, kept, earlier)
        results["added"] = added_stacks(config, asked.added)
        sizes = {stack: size for (_, stack), size in reversed(plan.sizes.items())}  # of its first task
        sizes = {stack: sizes[stack] for stack in config.stacks if stack in sizes}
        measured = Measured(config, next(iter(plan.tasks.values())), sizes, console)
        results["costs"], results["portraits"] = measured.costs(), measured.portraits()
        results["summary"] = summarise(results)
        results["baseline"] = None if before is None else against_baseline(results, before, str(baseline))
        results["findings"] = find(results)
        results["environment"]["seconds"] = None if resumed else time.perf_counter() - began
        write_text(Path(config.output) / "results.json", json.dumps(results, indent=1))
    return results


def _described(config: CompareConfig, plan: Plan, outcomes: Outcomes, command: str) -> dict[str, Any]:
    """What the results say of tasks, stacks and runs, before anything is concluded from them."""
    first = next(iter(plan.tasks.values()))
    there = {*(stack for _, stack in plan.sizes), *(entry["stack"] for entry in plan.skipped)}
    return {
        "format": FORMAT,
        "command": command,
        "environment": environment(config),
        "config": asdict(config),
        "tasks": {name: describe_task(config, name, task, task.references()) for name, task in plan.tasks.items()},
        "stacks": {
            name: {
                "pattern": pattern,
                "letters": build_model(config, name, first).stack.letters,
                "mixers": config.mixers_of(name),
            }
            for name, pattern in config.stacks.items()
            if name in there
        },
        "runs": [describe_run(trial, outcomes[trial.name], command) for trial in plan.trials if trial.name in outcomes],
        "skipped": plan.skipped,
    }


def _keep_commands(results: dict[str, Any], kept: Kept, earlier: Mapping[str, Any]) -> None:
    """Say of runs that earlier commands made which command that was."""
    commands = {run["folder"]: run["command"] for run in earlier.get("runs", [])}
    pairs = {(pair.task, pair.stack) for pair in kept.pairs}
    for run in results["runs"]:
        if (run["task"], run["stack"]) in pairs:
            run["command"] = commands.get(run["folder"]) or run["command"]
    results["kept"] = [{"task": pair.task, "stack": pair.stack} for pair in kept.pairs]
