"""What earlier commands left in the folder of a comparison, and belongs on its page without being asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from tokenmix.compare.config import CompareConfig
from tokenmix.compare.folder import read_results
from tokenmix.compare.plan import Outcomes, Pair, Plan, all_pairs, join_pairs, make_pair, make_task, run_plan
from tokenmix.compare.task import Task
from tokenmix.compare.trial import Trial


@dataclass
class Kept:
    """What is kept of earlier commands.

    Attributes:
        tasks: those that were built already, and those that were built to find out.
        pairs: whose runs have all ended, with the settings of now.
        outcomes: of their runs, by name.
        left_out: why others are not on the page, in words.
    """

    tasks: dict[str, Task] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    outcomes: Outcomes = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def earlier_results(config: CompareConfig) -> dict[str, Any]:
    """results.json of the comparison's folder; empty where there is none that can be read."""
    try:
        return read_results(config.output)
    except ValueError:
        return {}


def restore_added(config: CompareConfig, earlier: Mapping[str, Any]) -> list[str]:
    """Bring back the stacks that earlier commands added with --mixer, where their runs are still in the folder.

    Args:
        config: changed in place.
        earlier: results of the folder.

    Returns:
        A sentence for each that cannot be brought back.
    """
    refused = []
    for stack, spec in (earlier.get("added") or {}).items():
        if stack in config.stacks or not any(Path(config.output, "runs").glob(f"*/{_literal(stack)}")):
            continue
        taken = [x for x, mixer in spec["mixers"].items() if config.mixers.get(x, mixer) != mixer]
        if taken:
            refused.append(f"{stack}, which --mixer added: the config has another mixer {taken[0]} now")
            continue
        add_stack(config, stack, spec["pattern"], spec["mixers"])
    return refused


def add_stack(config: CompareConfig, stack: str, pattern: str, mixers: Mapping[str, Any]) -> None:
    """One more stack, that every task is asked of."""
    config.mixers |= {letter: dict(spec) for letter, spec in mixers.items()}
    config.stacks[stack] = pattern
    for task, spec in config.tasks.items():
        if isinstance(spec.get("stacks"), list):
            config.tasks[task] = {**spec, "stacks": [*spec["stacks"], stack]}


def keep_pairs(
    config: CompareConfig, pairs: Iterable[tuple[str, str]], earlier: Mapping[str, Any], tasks: Mapping[str, Task]
) -> Kept:
    """Those of some pairs whose runs have all ended in the folder, with the settings of now.

    Args:
        config: of the comparison.
        pairs: (task, stack) that this command does not ask for.
        earlier: results of the folder, which know what was skipped.
        tasks: that are built already.
    """
    kept = Kept(dict(tasks))
    skipped = {(entry["task"], entry["stack"]) for entry in earlier.get("skipped", [])}
    for name, stack in pairs:
        if (name, stack) not in skipped and not Path(config.output, "runs", name, stack).is_dir():
            continue
        try:
            if name not in kept.tasks:
                kept.tasks[name] = make_task(config, name)
            pair = make_pair(config, name, stack, kept.tasks[name])
            outcomes = run_plan(config, join_pairs(kept.tasks, [pair]), partial(_ended, config))
        except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
            kept.left_out.append(f"{name}/{stack}: {error}")
            continue
        kept.pairs.append(pair)
        kept.outcomes |= outcomes
    return kept


def in_order(config: CompareConfig, tasks: Mapping[str, Task], pairs: list[Pair]) -> Plan:
    """The plan of some pairs, in the order of the config."""
    places = {pair: place for place, pair in enumerate(all_pairs(config))}
    return join_pairs(dict(tasks), sorted(pairs, key=lambda pair: places[pair.task, pair.stack]))


def added_stacks(config: CompareConfig, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What `restore_added` brings back."""
    return {name: {"pattern": config.stacks[name], "mixers": config.mixers_of(name)} for name in names}


def tell_kept(kept: Kept, console: Console) -> None:
    """Say what of earlier commands is on the page, and what is not."""
    by_task: dict[str, list[str]] = {}
    for pair in kept.pairs:
        by_task.setdefault(pair.task, []).append(pair.stack)
    if by_task:
        named = "; ".join(f"{task}: {', '.join(stacks)}" for task, stacks in by_task.items())
        console.print(f"on the page too, from earlier commands: {named}", markup=False, highlight=False)
    for reason in kept.left_out:
        console.print(f"not on the page: {reason}", markup=False, highlight=False)


def _ended(config: CompareConfig, trials: list[Trial]) -> Outcomes:
    """What runs gave, none of which is run.

    Raises:
        ValueError: one that has not ended, or has other settings.
    """
    found = {trial.name: trial.finished(config) for trial in trials}
    ended = {name: outcome for name, outcome in found.items() if outcome is not None}
    if len(ended) < len(found):
        raise ValueError(f"only {len(ended)} of {len(found)} runs have ended")
    return ended


def _literal(name: str) -> str:
    """A name as a pattern that matches it alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
