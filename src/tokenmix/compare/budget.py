"""Equal budgets: how wide the feed-forward of each stack must be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from tokenmix.blocks import MixerBlock
from tokenmix.compare.config import CompareConfig, with_classes
from tokenmix.compare.flops import count_flops
from tokenmix.compare.mistakes import placed
from tokenmix.compare.model import TaskModel
from tokenmix.compare.task import Task
from tokenmix.mixer import build_mixer

WIDTHS = (8, 16)  # of feed-forwards, between which the budget is a line


@dataclass(frozen=True)
class Size:
    """What one stack is given for one task.

    Attributes:
        feed_forward_dim: inner width of its feed-forwards; None where there are none.
        parameters: of the whole model.
        flops: of a forward of one row of the longest case, see `forward_flops`.
    """

    feed_forward_dim: int | None
    parameters: int
    flops: int


def build_model(config: CompareConfig, stack: str, task: Task, feed_forward_dim: int | None = None) -> TaskModel:
    """The model of one stack for one task."""
    mixers = with_classes(config.mixers_of(stack))
    return TaskModel(task, mixers, config.stacks[stack], config.model, feed_forward_dim)


def check_mixers(config: CompareConfig, stacks: Iterable[str]) -> None:
    """Build each mixer of some stacks alone, so that what is wrong with one is told by its letter.

    Raises:
        ValueError, TypeError: what a mixer refuses of its options, after "mixers.a: ".
    """
    with torch.random.fork_rng(devices=[]):
        for letter in dict.fromkeys(letter for stack in stacks for letter in config.stacks[stack]):
            with placed(f"mixers.{letter}"):
                build_mixer(with_classes({letter: config.mixers[letter]})[letter], config.model.hidden_size)


def match_budget(config: CompareConfig, stack: str, task: Task) -> Size:
    """The width at which a stack comes nearest to the reference's parameters, or FLOPs.

    Both are linear in the inner width of the feed-forwards, so two widths tell the line. The embedding, the head and
    the width of the features are equal anyway.

    Raises:
        ValueError: a stack that is above the budget with the narrowest feed-forward, or has none.
    """
    kind = config.protocol.budget
    if kind == "none" or stack == config.reference:
        return measure_size(config, stack, task, config.model.intermediate_size)
    if config.model.feed_forward is None:
        raise ValueError(
            f"model.feed_forward: expected one, since protocol.budget={kind!r} is met by its width, found None; "
            "set protocol.budget to none"
        )
    target = amount_of(kind, config, config.reference, task, config.model.intermediate_size)
    low, high = (amount_of(kind, config, stack, task, width) for width in WIDTHS)
    slope = (high - low) / (WIDTHS[1] - WIDTHS[0])
    width = round(WIDTHS[0] + (target - low) / slope)
    if width < 1:
        raise ValueError(
            f"stacks.{stack}: expected at most {target:,} {kind}, those of {config.reference}, found "
            f"{round(low - (WIDTHS[0] - 1) * slope):,} with the narrowest feed-forward; give {config.reference} a "
            f"larger model.intermediate_size, or take {stack} as protocol.reference"
        )
    return measure_size(config, stack, task, width)


def amount_of(kind: str, config: CompareConfig, stack: str, task: Task, width: int | None) -> int:
    """Parameters or FLOPs of a stack whose feed-forwards have an inner width."""
    with torch.random.fork_rng(devices=[]):
        model = build_model(config, stack, task, width)
        return sum(p.numel() for p in model.parameters()) if kind == "parameters" else forward_flops(model, task)


def measure_size(config: CompareConfig, stack: str, task: Task, width: int | None) -> Size:
    """Parameters and FLOPs of a stack whose feed-forwards have an inner width."""
    with torch.random.fork_rng(devices=[]):
        model = build_model(config, stack, task, width)
        numbers = sum(parameter.numel() for parameter in model.parameters())
        inner = width if width is not None or config.model.feed_forward is None else inner_width(model)
        return Size(inner, numbers, forward_flops(model, task))


def inner_width(model: TaskModel) -> int | None:
    """Inner width of the first feed-forward; None where there is none."""
    for block in model.stack.layers:
        if isinstance(block, MixerBlock) and block.feed_forward is not None:
            projections = [m for m in block.feed_forward.modules() if isinstance(m, torch.nn.Linear)]
            return projections[-1].in_features
    return None


def forward_flops(model: TaskModel, task: Task) -> int:
    """FLOPs of a forward of one row of the longest case, counted as by `tokenmix.compare.flops.count_flops`."""
    longest = max(range(len(task.cases)), key=lambda i: int(task.cases[i]["length"]))
    batch = task.batch("train", seed=0, number=longest, rows=1)
    return count_flops(model, batch.inputs, batch.layout).total


def skip_reason(config: CompareConfig, stack: str, task: Task) -> str | None:
    """Why a stack cannot be asked a task: fields that its mixers need, or a look at the future; None if it can.

    Raises:
        ValueError, TypeError: what a mixer refuses of its options.
    """
    for mixer in build_model(config, stack, task).stack.mixers:
        name = mixer.name or type(mixer).__name__
        if missing := [field for field in mixer.needs if field not in task.fields]:
            return f"{name} needs {', '.join(missing)} in the layout; the task gives {', '.join(task.fields) or 'none'}"
        if task.needs_causal and not mixer.is_causal:
            return f"{name} reads the future here, and the task would be given away"
    return None
