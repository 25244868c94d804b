"""Choose a baseline's settings on validation, then run it with several seeds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenmix.data.graphs import NodeData
from tokenmix.training.graph_baselines.run import WITHOUT_CHANCE, BaselineResult, check_baseline, run_baseline
from tokenmix.training.graph_baselines.settings import settings_of
from tokenmix.training.graph_score import over_seeds
from tokenmix.training.report import RunResult


@dataclass(frozen=True, eq=False)
class TunedBaseline:
    """A baseline with the settings that validation chose.

    Args:
        name: of the baseline.
        settings: the chosen ones.
        runs: with them, one a seed; one in all for a baseline without chance.
        trials: all settings that were tried, on the first seed.
    """

    name: str
    settings: dict[str, Any]
    runs: tuple[BaselineResult, ...]
    trials: tuple[BaselineResult, ...]

    def result(self) -> RunResult:
        """Means over seeds, for the table of a recipe."""
        rows = [
            {"val": run.val, "test": run.test, "parameters": run.parameters, "train_seconds": run.seconds}
            for run in self.runs
        ]
        metrics = over_seeds(rows) | {"seeds": len(self.runs), "trials": len(self.trials)}
        return RunResult(self.name, metrics, sample=json.dumps(self.settings))


def tune_baseline(
    name: str,
    data: NodeData,
    *,
    trials: int,
    seeds: Sequence[int] = (0, 1, 2),
    budget: float | None = None,
    report: Callable[[str], None] | None = None,
) -> TunedBaseline:
    """Try settings on the first seed, keep the best on validation (the first of equals), and run it with every seed.

    Test accuracies are computed and never looked at.

    Args:
        name: of the baseline.
        data: the graph.
        trials: settings to try, of `settings_of`.
        seeds: of the runs; those of the first are its trial.
        budget: seconds after which no further setting is begun; the first is always tried. None: no limit. What is
            chosen then depends on the speed of the machine.
        report: gets a line a run.

    Raises:
        ValueError: no seeds or trials, and what `run_baseline` refuses.

    Example:
        >>> from tokenmix.data.graphs import load_graph
        >>> tuned = tune_baseline("label_propagation", load_graph("wordnet"), trials=1)
        >>> tuned.settings, len(tuned.runs), tuned.runs[0].test > 0.7
        ({'alpha': 0.9, 'steps': 50}, 1, True)
    """
    check_baseline(name, data)
    if not seeds:
        raise ValueError("seeds: expected at least one, found none")
    started, tried = time.perf_counter(), list[BaselineResult]()

    def run(settings: dict[str, Any], seed: int) -> BaselineResult:
        found = run_baseline(name, data, settings, seed)
        if report is not None:
            report(f"{name} {settings} seed {seed}: validation {found.val:.4f}, {found.seconds:.1f} s")
        return found

    for settings in settings_of(name, trials):
        if tried and budget is not None and time.perf_counter() - started > budget:
            break
        tried.append(run(settings, seeds[0]))
    best = max(tried, key=lambda result: result.val)
    others = [] if name in WITHOUT_CHANCE else [run(best.settings, seed) for seed in seeds[1:]]
    return TunedBaseline(name, best.settings, (best, *others), tuple(tried))


def tune_kept(
    name: str, data: NodeData, trials: int, seeds: Sequence[int], folder: str | os.PathLike[str]
) -> RunResult:
    """`tune_baseline` for a recipe: what it gave is kept in a folder, and read there the next time.

    Args:
        name: of the baseline.
        data: the graph.
        trials: settings to try.
        seeds: of the runs.
        folder: of `<name>.json`. It belongs to one configuration: other trials or seeds need another folder.

    Returns:
        Metrics val, test, parameters, train_seconds, each with its spread over seeds; seeds; trials. The chosen
        settings as JSON in `sample`, every trial's settings and validation accuracy in `history`.

    Raises:
        ValueError: see `tune_baseline`.
    """
    check_baseline(name, data)
    path = Path(folder) / f"{name}.json"
    kept = RunResult.read(path)
    if kept is not None:
        return kept
    tuned = tune_baseline(name, data, trials=trials, seeds=seeds)
    result = tuned.result()
    result.history = [
        {"settings": trial.settings, "val": trial.val, "seconds": trial.seconds} for trial in tuned.trials
    ]
    result.write(path)
    return result
