"""Runs over processes, with bars that tell the time left."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tokenmix.compare.config import CompareConfig
from tokenmix.compare.trial import Trial, run_trial
from tokenmix.processes import begin_worker, cores
from tokenmix.training.resume import last_complete_checkpoint

Outcome = dict[str, Any]
_reports: Any = None  # of this worker, to its parent


def run_all(config: CompareConfig, trials: Sequence[Trial], console: Console) -> dict[str, Outcome]:
    """Run what has not ended yet, several at a time; runs do not depend on how many.

    Args:
        config: of the comparison.
        trials: the runs.
        console: for bars and a line a finished run.

    Returns:
        By name of the run, what `run_trial` gives, or {"status": "failed", "error": ...} for one that raised; that
        one is not kept, so it is tried again the next time.
    """
    found: dict[str, Outcome] = {}
    waiting = []
    for trial in trials:
        kept = trial.finished(config)
        if kept is None:
            waiting.append(trial)
        else:
            found[trial.name] = kept
    if found:
        console.print(f"{len(found)} of {len(trials)} runs had ended before and are not repeated")
    for trial in waiting:
        checkpoint = last_complete_checkpoint(trial.folder(config))
        if checkpoint is not None:
            done, steps = checkpoint.name.removeprefix("checkpoint-"), config.protocol_of(trial.task).steps
            line = f"{trial.name}: goes on from its checkpoint, after update {done} of {steps}"
            console.print(line, markup=False, highlight=False)
    if not waiting:
        return found
    workers = min(config.protocol.workers or max(1, cores() // config.protocol.threads), len(waiting))
    with _bars(console) as progress:
        bars = _Bars(progress, config, waiting, len(trials))
        if workers == 1:
            for trial in waiting:
                outcome = _guarded(config, trial, partial(bars.step, trial.name))
                found[trial.name] = bars.end(trial, outcome)
            return found
        found |= _in_processes(config, waiting, workers, bars)
    return found


def _in_processes(config: CompareConfig, trials: Sequence[Trial], workers: int, bars: _Bars) -> dict[str, Outcome]:
    context = multiprocessing.get_context("spawn")  # a forked torch may hang
    reports = context.Queue()
    found: dict[str, Outcome] = {}
    with ProcessPoolExecutor(workers, context, _begin, (reports, config.protocol.threads)) as pool:
        running: dict[Future[Outcome], Trial] = {pool.submit(_work, config, trial): trial for trial in trials}
        try:
            while running:
                ended, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                _read(reports, bars.step)
                for future in ended:
                    trial = running.pop(future)
                    found[trial.name] = bars.end(trial, _result(future))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    return found


def _result(future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except BrokenProcessPool:
        return {"status": "failed", "error": "a worker process died (out of memory?); the same command tries again"}


def _begin(reports: Any, threads: int) -> None:
    """Set up a worker, which ends when its parent does, also one that is killed."""
    global _reports  # noqa: PLW0603  # one a process
    _reports = reports
    begin_worker(threads)


def _work(config: CompareConfig, trial: Trial) -> Outcome:
    return _guarded(config, trial, lambda done: _reports.put((trial.name, done)))


def _guarded(config: CompareConfig, trial: Trial, report: Callable[[int], None]) -> Outcome:
    try:
        return run_trial(config, trial, report)
    except Exception as error:  # whatever a mixer raises must not end the other runs
        return {"status": "failed", "error": f"{type(error).__name__}: {error}"}


def _read(reports: Any, step: Callable[[str, int], None]) -> None:
    while True:
        try:
            step(*reports.get_nowait())
        except queue.Empty:
            return


def _bars(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("updates"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, speed_estimate_period=300, transient=True)


class _Bars:
    """One bar for everything, and one a run that is going on."""

    def __init__(self, progress: Progress, config: CompareConfig, trials: Sequence[Trial], runs: int) -> None:
        self.progress, self.runs, self.ended = progress, runs, runs - len(trials)
        self.steps = {trial.name: config.protocol_of(trial.task).steps for trial in trials}
        self.all = progress.add_task("all runs", total=sum(self.steps.values()))
        self.own: dict[str, TaskID] = {}
        self.done: dict[str, int] = {}

    def step(self, name: str, done: int) -> None:
        """A run has done so many updates."""
        if name not in self.own:
            self.own[name] = self.progress.add_task(name, total=self.steps[name])
        self.progress.update(self.own[name], completed=done)
        self.progress.advance(self.all, done - self.done.get(name, 0))
        self.done[name] = done

    def end(self, trial: Trial, outcome: Outcome) -> Outcome:
        """A run has ended: say so."""
        self.step(trial.name, self.steps[trial.name])  # what an early end leaves out need not be waited for
        self.progress.remove_task(self.own.pop(trial.name))
        self.ended += 1
        score = outcome.get("test")
        text = outcome.get("error") or outcome["status"] if score is None else f"{score:.4f}, {outcome['stopped']}"
        spent = f" after {outcome['steps']} updates, {outcome['seconds']:.0f} s" if "steps" in outcome else ""
        line = f"{self.ended}/{self.runs} {trial.name}: {text}{spent}"
        self.progress.console.print(line, markup=False, highlight=False)
        return outcome
