"""What a report says of tasks, runs and the machine."""

from __future__ import annotations

import inspect
import os
import platform
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

import tokenmix
from tokenmix.compare.config import CompareConfig
from tokenmix.compare.task import Task
from tokenmix.compare.trial import Trial


def describe_task(config: CompareConfig, name: str, task: Task, references: dict[str, float]) -> dict[str, Any]:
    """What the report says of a task."""
    cases = [str(case[task.vary]) for case in task.cases]
    return {
        "task": task.name or type(task).__name__,
        "spec": config.task_spec(name),
        "definition": definition(task),
        "source": task.source,
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        "solved": task.solved,
        "references": references,
        "blind": task.blind,
        "needs_causal": task.needs_causal,
        "vary": task.vary,
        "cases": cases,
        "longest": task.max_length,
        "spans": {label: task.span(case) for label, case in zip(cases, task.cases, strict=True)},
    }


def definition(task: Task) -> str:
    """The docstring of a task up to its arguments, as plain text."""
    text = inspect.getdoc(type(task)) or ""
    for heading in ("Args:", "Attributes:", "Raises:", "Example:", "Source:"):
        text = text.split(f"\n{heading}")[0]
    return text.strip()


def describe_run(trial: Trial, outcome: dict[str, Any], command: str) -> dict[str, Any]:
    """One run in the results."""
    alone = f"{command} --only {shlex.quote(trial.name)}" if command else ""
    return {
        "task": trial.task,
        "stack": trial.stack,
        "learning_rate": trial.learning_rate,
        "seed": trial.seed,
        "parameters": trial.size.parameters,
        "feed_forward_dim": trial.size.feed_forward_dim,
        "flops": trial.size.flops,
        "folder": str(Path("runs") / trial.name),
        "command": alone,
        **outcome,
    }


def environment(config: CompareConfig) -> dict[str, Any]:
    """Where and with what the numbers were made."""
    return {
        "tokenmix": tokenmix.__version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "workers": config.protocol.workers,
        "threads": config.protocol.threads,
        "date": time.strftime("%Y-%m-%d"),
    }


def _commit() -> str | None:
    folder = Path(__file__).parent
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude", "*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_name() -> str:
    """The processor, as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
