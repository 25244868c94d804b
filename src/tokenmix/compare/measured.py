"""Costs and portraits of a comparison's stacks, measured once and kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tokenmix.blocks import Stack
from tokenmix.compare.budget import Size, build_model
from tokenmix.compare.config import CompareConfig
from tokenmix.compare.costs import measure_costs
from tokenmix.compare.describe import cpu_name
from tokenmix.compare.portrait import draw_portrait
from tokenmix.compare.task import Task
from tokenmix.compare.trial import code_of
from tokenmix.layout import Layout
from tokenmix.mixer import TokenMixer
from tokenmix.training.resume import write_text

Told = dict[str, Any]


class Measured:
    """Measures the stacks without their embeddings and heads, and keeps each number until what it depends on changes.

    Args:
        config: of the comparison.
        task: any, to build a model with.
        sizes: by stack, those of its first task.
        console: tells what is going on.
    """

    def __init__(self, config: CompareConfig, task: Task, sizes: dict[str, Size], console: Console) -> None:
        self.config, self.console, self.folder = config, console, Path(config.output)
        torch.set_num_threads(config.protocol.threads)
        self.stacks: dict[str, Stack] = {}
        self.told: dict[str, Told] = {}
        for name, size in sizes.items():
            torch.manual_seed(0)
            self.stacks[name] = build_model(config, name, task, size.feed_forward_dim).stack
            options = {"mixers": config.mixers_of(name), "pattern": config.stacks[name]}
            code = code_of(*config.mixers_of(name).values())
            self.told[name] = {**options, "feed_forward_dim": size.feed_forward_dim, "code": code}
        self.shared: Told = {"model": asdict(config.model)}

    def costs(self) -> dict[str, Any] | None:
        """What `measure_costs` gives, all stacks in one run; None if it is not wanted."""
        config = self.config.costs
        if not config.measure:
            return None
        reference = self.config.reference if self.config.reference in self.stacks else next(iter(self.stacks))
        key = {**self.shared, "stacks": self.told, "costs": asdict(config), "reference": reference, "cpu": cpu_name()}
        return self._kept("costs", key, lambda tell: measure_costs(self.stacks, config, reference, tell))

    def portraits(self) -> dict[str, dict[str, Any]]:
        """What `draw_portrait` gives, and "says_causal", what the mixers say, by stack; empty if it is not wanted."""
        if not self.config.portrait.measure:
            return {}
        return {name: self._portrait(name) | {"says_causal": _says_causal(x)} for name, x in self.stacks.items()}

    def _portrait(self, name: str) -> dict[str, Any]:
        config, stack, mixers = self.config.portrait, self.stacks[name], self.config.mixers
        key = {**self.shared, "stack": self.told[name], "portrait": asdict(config)}

        def draw(_: Callable[[str], None]) -> dict[str, Any]:
            # a stack that chooses what it reads by content may look bounded in one draw; only closed forms are known
            known = all(_closed_form(mixer) for mixer in stack.mixers)
            return draw_portrait(stack, config, mixers) | {"reach_known": known}

        return self._kept(f"portraits/{name}", key, draw)

    def _kept(self, name: str, key: Told, measure: Callable[[Callable[[str], None]], dict[str, Any]]) -> dict[str, Any]:
        """What the file of this name holds for a key, or what is measured now."""
        path, key = self.folder / f"{name}.json", json.loads(json.dumps(key))
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["key"] == key:
                return found["value"]
        except (OSError, ValueError, KeyError):
            pass
        with self.console.status(f"measuring {name}") as status:
            value = measure(lambda text: status.update(f"measuring {name}: {text}"))
        write_text(path, json.dumps({"key": key, "value": value}))
        return value


def _says_causal(stack: Stack) -> bool:
    return all(mixer.is_causal for mixer in stack.mixers)


def _closed_form(mixer: TokenMixer) -> bool:
    try:
        return mixer.reach(Layout(), 8) is not None
    except Exception:  # it needs fields to say, or is somebody's own
        return False
