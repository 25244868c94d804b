"""What stacks cost at growing lengths: arithmetic, time, memory and state, as ratios to one of them."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from tokenmix.blocks import Stack
from tokenmix.compare.flops import count_flops
from tokenmix.compare.memory import free_bytes, peak_bytes
from tokenmix.compare.portrait import StackMixer, has_steps
from tokenmix.laws.bench import Bench
from tokenmix.layout import Layout
from tokenmix.mixer import check_positive
from tokenmix.stack_state import StackState

STEPS = 4  # single tokens a round, of which the median counts
TIMES = {"forward_seconds": "forward_ratio", "train_seconds": "train_ratio", "step_seconds": "step_ratio"}
MEMORY = {"forward_bytes": "forward_bytes_ratio", "train_bytes": "train_bytes_ratio"}
GROWTH = ("flops", "forward_seconds", "train_seconds", "step_seconds", "forward_bytes", "train_bytes", "state_bytes")

Row = dict[str, Any]


@dataclass
class CostsConfig:
    """At which lengths costs are measured, and how often."""

    measure: bool = True
    """Whether a comparison measures costs at all; `measure_costs` itself does when it is called."""
    lengths: list[int] = field(default_factory=lambda: [256, 512, 1024, 2048, 4096, 8192])
    """Tokens a row, rising."""
    rounds: int = 5
    """Runs of each stack at each length; medians are reported."""
    batch_size: int = 1
    """Rows."""
    backward: bool = True
    """Whether forward and backward of training are measured too."""

    def __post_init__(self) -> None:
        if not self.lengths:
            raise ValueError("lengths: expected at least one, found none")
        for length in self.lengths:
            check_positive("lengths", length)
        if any(after <= before for before, after in pairwise(self.lengths)):
            raise ValueError(f"lengths: expected them rising, found {self.lengths}")
        check_positive("rounds", self.rounds)
        check_positive("batch_size", self.batch_size)


def measure_costs(
    stacks: Mapping[str, Stack],
    config: CostsConfig,
    reference: str,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure arithmetic, time, memory and state of stacks at growing lengths, on the device of their parameters.

        ratio = median over rounds of seconds(stack) / seconds(reference), both of the same round
        growth = slope of log(cost) over log(length), by least squares over the upper half of the lengths

    Times are wall-clock. In a round every stack runs once at a length, one after the other, beginning with another one
    each time, so that a machine that slows down slows down all; first calls are apart. FLOPs are counted as by
    `tokenmix.compare.flops.count_flops`, memory as by `tokenmix.compare.memory.peak_bytes`: the input, the parameters
    and (in training) their gradients are there before and not in it. A step reads one token when `length` tokens and a
    few more have been read; `state_bytes` are those in use after exactly `length`, without what is reserved.

    What a stack cannot do is None (a stack that is not causal token by token has no state), and a stack that fails at
    a length has an "error" there; so has one that would take more memory than is free, judged by its shorter lengths.

    Args:
        stacks: by name; left unchanged, copies are measured.
        config: lengths and rounds.
        reference: the name that ratios are to.
        progress: called with what is measured next.

    Returns:
        What JSON can hold: "reference", "threads", "rounds"; "rows" with "stack", "length", "parameters", "flops" (of
        a forward), "state_bytes", "warmup_seconds" (the first forward), "forward_seconds", "train_seconds" (forward
        and backward), "step_seconds", "forward_bytes", "train_bytes" and their ratios, or "error"; and "growth", by
        stack and cost.

    Raises:
        ValueError: a reference that is not among the stacks.

    Example:
        >>> stacks = {"a": Stack(16, {"a": {"mixer": "attention", "heads": 2}}, "a")}
        >>> costs = measure_costs(stacks, CostsConfig(lengths=[8, 16], rounds=1, backward=False), "a")
        >>> [row["state_bytes"] for row in costs["rows"]], costs["growth"]["a"]["state_bytes"]
        ([1024, 2048], 1.0)
    """
    if reference not in stacks:
        raise ValueError(f"reference: expected one of {', '.join(stacks)}, found {reference!r}")
    rows: dict[str, list[Row]] = {name: [] for name in stacks}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        contestants = {name: _Contestant(stack, config) for name, stack in stacks.items()}
        for length in config.lengths:
            for name, row in _measure_at(length, contestants, rows, config, reference, progress).items():
                rows[name].append(row)
    return {
        "reference": reference,
        "threads": torch.get_num_threads(),
        "rounds": config.rounds,
        "rows": [row for of_stack in rows.values() for row in of_stack],
        "growth": {name: {key: growth(found, key, config.lengths) for key in GROWTH} for name, found in rows.items()},
    }


def growth(rows: list[Row], key: str, lengths: list[int]) -> float | None:
    """Slope of a cost in log-log over the upper half of the lengths; None where fewer than two were measured.

    Example:
        >>> rows = [{"length": n, "flops": 3 * n**2} for n in (64, 128, 256, 512)]
        >>> growth(rows, "flops", [64, 128, 256, 512])
        2.0
    """
    upper = lengths[-max(2, (len(lengths) + 1) // 2) :]
    points = [(row["length"], row[key]) for row in rows if row["length"] in upper and row.get(key) is not None]
    if len(points) < 2 or len({cost > 0 for _, cost in points}) == 2:
        return None
    if points[0][1] == 0:
        return 0.0  # nothing at any length
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in zip(*points, strict=True))
    x, y = x - x.mean(), y - y.mean()
    return round(float((x * y).sum() / (x * x).sum()), 4) + 0.0


def _measure_at(
    length: int,
    contestants: Mapping[str, _Contestant],
    before: Mapping[str, list[Row]],
    config: CostsConfig,
    reference: str,
    progress: Callable[[str], None] | None,
) -> dict[str, Row]:
    """A row of each stack at one length."""
    found: dict[str, Row] = {}
    alive = dict(contestants)

    def run(name: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # out of memory, or whatever a mixer raises
            found[name] = {key: found[name][key] for key in ("stack", "length", "parameters")}
            found[name]["error"] = f"{type(error).__name__}: {error}".split("\n")[0]
            alive.pop(name).release()
            return None

    for name, contestant in contestants.items():
        if progress is not None:
            progress(f"{name} at {length} tokens")
        found[name] = {"stack": name, "length": length, "parameters": contestant.parameters}
        run(name, partial(_refuse_too_large, before[name], length, contestant.device))
        if name in alive and (prepared := run(name, partial(contestant.prepare, length))) is not None:
            found[name] |= prepared
    if progress is not None:
        progress(f"{config.rounds} rounds at {length} tokens")
    for key, ratio in TIMES.items():
        seconds: dict[str, list[float | None]] = {name: [] for name in alive}
        for turn in range(config.rounds):
            names = list(alive)
            first = turn % max(len(names), 1)
            for name in names[first:] + names[:first]:
                seconds[name].append(run(name, partial(alive[name].seconds, key)))
        for name in alive:
            here, there = _known(seconds[name]), _known(seconds[reference]) if reference in alive else []
            found[name][key] = median(here) if here else None
            ratios = [one / other for one, other in zip(here, there, strict=False)]
            found[name][ratio] = median(ratios) if ratios else None
    for name, contestant in alive.items():
        for key, ratio in MEMORY.items():
            one, other = found[name][key], found[reference][key] if reference in alive else None
            found[name][ratio] = one / other if one is not None and other else None
        contestant.release()
    return found


def _known(seconds: list[float | None]) -> list[float]:
    return [value for value in seconds if value is not None]


def _refuse_too_large(before: list[Row], length: int, device: torch.device) -> None:
    """Raise if the memory of two shorter lengths, continued, is more than is free."""
    past = [row for row in before if "error" not in row][-2:]
    free = free_bytes(device)
    if len(past) < 2 or free is None:
        return
    (short, less), (long, more) = ((row["length"], max(row[key] or 1 for key in MEMORY)) for row in past)
    expected = more * (length / long) ** (math.log(more / less) / math.log(long / short))
    if expected > free:
        raise MemoryError(f"not run: about {expected / 1e9:.1f} GB expected, {free / 1e9:.1f} GB free")


class _Contestant:
    """A copy of a stack, its inputs at one length, and the calls that are measured."""

    def __init__(self, stack: Stack, config: CostsConfig) -> None:
        self.stack, self.config = copy.deepcopy(stack), config
        first = next(self.stack.parameters(), torch.zeros(()))
        self.device, self.dtype = first.device, first.dtype
        self.parameters = sum(parameter.numel() for parameter in self.stack.parameters())
        self.bench = Bench(StackMixer(stack))
        self.release()

    def release(self) -> None:
        """Forget the inputs and the state."""
        self.x = self.leaf = self.token = self.gradient = torch.zeros(())
        self.layout: Layout | None = None
        self.token_layout: Layout | None = None
        self.state: StackState | None = None

    def prepare(self, length: int) -> Row:
        """Make the inputs of a length, run each call once, and count what needs no clock."""
        self.x, self.layout = self.inputs(length)
        self.leaf, self.gradient = self.x.clone().requires_grad_(), torch.randn_like(self.x)
        row: Row = {"flops": self.flops(), "state_bytes": None, "train_bytes": None}
        row["warmup_seconds"] = self.seconds("forward_seconds")
        row["forward_bytes"] = peak_bytes(self.forward, self.device)
        if self.config.backward:
            self.seconds("train_seconds")  # from now on there are gradients to add to
            row["train_bytes"] = peak_bytes(self.train, self.device)
        if has_steps(self.stack):
            self.stack.eval()
            self.state = self.stack.init_state(self.config.batch_size)
            self.state.reserve(length + STEPS * (self.config.rounds + 1))
            with torch.no_grad():
                self.stack(self.x, self.layout, self.state)
            row["state_bytes"] = self.state.nbytes
            self.token, self.token_layout = self.inputs(1)
            self.seconds("step_seconds")
        return row

    def inputs(self, length: int) -> tuple[Tensor, Layout | None]:
        """Random rows, with a layout if the mixers need one."""
        placed = self.bench.place([self.bench.document(length, self.dtype) for _ in range(self.config.batch_size)])
        return placed.x.to(self.device), placed.layout.to(self.device) if placed.layout.fields() else None

    def flops(self) -> int | None:
        """Of a forward; None where the count does not run but the stack may."""
        try:
            return count_flops(self.stack, self.x, self.layout).total
        except Exception:  # the plain form of attention needs more memory than the fused one
            return None

    def forward(self) -> Tensor:
        """Without gradients."""
        with torch.no_grad():
            y: Tensor = self.stack(self.x, self.layout)
        return y

    def train(self) -> None:
        """Forward and backward, to the parameters and the input."""
        self.stack(self.leaf, self.layout).backward(self.gradient)

    def step(self) -> None:
        """One token."""
        with torch.no_grad():
            self.stack(self.token, self.token_layout, self.state)

    def seconds(self, key: str) -> float | None:
        """Of one call, or the median of a few steps; None for what is not measured."""
        if key == "train_seconds":
            self.stack.train()
            return self.time(self.train) if self.config.backward else None
        self.stack.eval()
        if key == "forward_seconds":
            return self.time(self.forward)
        return None if self.state is None else median(self.time(self.step) for _ in range(STEPS))

    def time(self, call: Callable[[], Any]) -> float:
        """Wall-clock seconds of a call, without the collection of garbage."""
        collects = gc.isenabled()
        gc.disable()
        try:
            self.wait()
            start = perf_counter()
            call()
            self.wait()
            return perf_counter() - start
        finally:
            if collects:
                gc.enable()

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
