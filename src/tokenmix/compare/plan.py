"""What a comparison runs: every model is built once, so that a mistake is found before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenmix.compare.budget import Size, check_mixers, match_budget, skip_reason
from tokenmix.compare.config import CompareConfig
from tokenmix.compare.mistakes import near, placed
from tokenmix.compare.summary import best_rate
from tokenmix.compare.task import Task, build_task
from tokenmix.compare.trial import Trial

Outcomes = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Pair:
    """A stack that is asked a task.

    Attributes:
        task, stack: their names.
        size: of the model; None where the stack cannot be asked.
        reason: why it cannot.
        trials: its runs.
    """

    task: str
    stack: str
    size: Size | None
    reason: str | None
    trials: list[Trial]


@dataclass(frozen=True)
class Plan:
    """What will be run.

    Attributes:
        tasks: by name.
        sizes: of each (task, stack) that is run.
        trials: the runs.
        skipped: {"task", "stack", "reason"} of what is not.
    """

    tasks: dict[str, Task]
    sizes: dict[tuple[str, str], Size]
    trials: list[Trial]
    skipped: list[dict[str, str]]


def make_plan(config: CompareConfig, pairs: Iterable[tuple[str, str]] | None = None) -> Plan:
    """Build every model once, so that a mistake in the last one is found before the first is trained.

    Args:
        config: of the comparison.
        pairs: (task, stack) of what is run; default everything.

    Raises:
        ValueError, TypeError: names, options or sizes that do not fit.
        ModuleNotFoundError: a package that a task needs.
    """
    return join_pairs(*make_pairs(config, pairs))


def make_pairs(
    config: CompareConfig, pairs: Iterable[tuple[str, str]] | None = None
) -> tuple[dict[str, Task], list[Pair]]:
    """The tasks by name and the pairs that `make_plan` makes a plan of; it raises what that raises."""
    config.check()
    wanted = all_pairs(config) if pairs is None else list(pairs)
    check_mixers(config, [config.reference, *(stack for _, stack in wanted)])
    tasks = {name: make_task(config, name) for name in dict.fromkeys(task for task, _ in wanted)}
    made = [make_pair(config, name, stack, tasks[name]) for name, stack in wanted]
    if not any(pair.trials for pair in made):
        found = "; ".join(f"{pair.task}/{pair.stack}: {pair.reason}" for pair in made) or "none"
        raise ValueError(f"stacks: expected at least one that can be asked a task, found {found}")
    return tasks, made


def all_pairs(config: CompareConfig) -> list[tuple[str, str]]:
    """Every (task, stack) that the config asks."""
    return [(task, stack) for task in config.tasks for stack in config.stacks_of(task)]


def make_task(config: CompareConfig, name: str) -> Task:
    """A task of the config.

    Raises:
        ValueError, TypeError: what it refuses, or two cases that no plot could tell apart.
    """
    with placed(f"tasks.{name}"):
        task = build_task(config.task_spec(name))
        labels = [str(case[task.vary]) for case in task.cases]
        if len(set(labels)) < len(labels):
            raise ValueError(f"expected another {task.vary} for each case, found {', '.join(labels)}")
    return task


def make_pair(config: CompareConfig, name: str, stack: str, task: Task) -> Pair:
    """The runs of one stack on one task, or why there are none."""
    reason = skip_reason(config, stack, task)
    if reason is not None:
        return Pair(name, stack, None, reason, [])
    size, protocol = match_budget(config, stack, task), config.protocol_of(name)
    trials = [Trial(name, stack, rate, seed, size) for seed in protocol.seeds for rate in protocol.learning_rates]
    return Pair(name, stack, size, None, trials)


def join_pairs(tasks: dict[str, Task], pairs: Sequence[Pair]) -> Plan:
    """Everything that is known of some pairs, tasks in the order of the pairs."""
    return Plan(
        {name: tasks[name] for name in dict.fromkeys(pair.task for pair in pairs)},
        {(pair.task, pair.stack): pair.size for pair in pairs if pair.size is not None},
        [trial for pair in pairs for trial in pair.trials],
        [{"task": p.task, "stack": p.stack, "reason": p.reason} for p in pairs if p.reason is not None],
    )


def plan_of_run(config: CompareConfig, name: str) -> tuple[Plan, Trial]:
    """The plan of the one task and stack that a run belongs to, and the run.

    Args:
        config: of the comparison.
        name: such as "recall/attention/lr_0.003_seed_0".

    Raises:
        ValueError: an unknown run, with what there is.
    """
    config.check()
    task, _, rest = name.partition("/")
    stack, _, last = rest.partition("/")
    form = "only: expected TASK/STACK/lr_RATE_seed_SEED with"
    if task not in config.tasks:
        tasks = config.tasks
        raise ValueError(f"{form} a task among {', '.join(tasks)}, found {task!r} in {name!r}{near(task, tasks)}")
    stacks = config.stacks_of(task)
    if stack not in stacks:
        known = ", ".join(stacks)
        raise ValueError(f"{form} a stack of {task} among {known}, found {stack!r} in {name!r}{near(stack, stacks)}")
    plan = make_plan(config, [(task, stack)])
    found = next((trial for trial in plan.trials if trial.name == name), None)
    if found is None:
        protocol = config.protocol_of(task)
        rates = ", ".join(f"{rate:g}" for rate in protocol.learning_rates)
        seeds = ", ".join(map(str, protocol.seeds))
        raise ValueError(f"{form} a rate of {task} among {rates} and a seed among {seeds}, found {last!r}")
    return plan, found


# ---------------------------------------------------------------------- which runs, and in which order


def run_plan(config: CompareConfig, plan: Plan, run: Callable[[list[Trial]], Outcomes]) -> Outcomes:
    """The outcomes of all runs, or of the grid with one seed and then of its best rates with the others.

    Args:
        config: of the comparison.
        plan: what is run.
        run: gives the outcome of each of some runs, by name.
    """
    if config.protocol.search == "every seed":
        return run(plan.trials)
    first = [trial for trial in plan.trials if trial.seed == config.protocol_of(trial.task).seeds[0]]
    outcomes = run(first)
    while missing := [trial for trial in _chosen(plan, first, outcomes) if trial.name not in outcomes]:
        outcomes |= run(missing)
    return outcomes


def _chosen(plan: Plan, first: list[Trial], outcomes: Outcomes) -> list[Trial]:
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
