"""What an untrained stack does, found by trying: which tokens its outputs read, how its state grows, and the laws."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenmix.blocks import Stack
from tokenmix.laws import LAWS, check_mixer
from tokenmix.laws.bench import Bench, Placed
from tokenmix.laws.influence import influence
from tokenmix.laws.trial import LEAK_FLOAT64, Trial
from tokenmix.layout import Layout
from tokenmix.mixer import TokenMixer, check_positive
from tokenmix.state import MixerState

FAR = 1024  # tokens of the row in which an end of the reach is looked for
FADED = 1e-36  # of the largest gradient: below, numbers have run out, not the reach
STATE_LENGTHS = (64, 256)
SHORTEST, LONGEST = 48, 256  # tokens a row of the laws


@dataclass
class PortraitConfig:
    """What a portrait shows."""

    measure: bool = True
    """Whether a comparison draws portraits at all; `draw_portrait` itself does when it is called."""
    length: int = 48
    """Tokens of the picture of influence."""
    laws: bool = True
    """Whether the laws are tried on every mixer, a second or two each."""

    def __post_init__(self) -> None:
        check_positive("length", self.length)
        if self.length < 2:
            raise ValueError(f"length: expected at least 2 tokens, found {self.length}")


class StackMixer(TokenMixer):
    """A whole stack as one mixer, so that what measures mixers measures stacks.

    Args:
        stack: used as it is, not copied.

    Example:
        >>> stack = Stack(8, {"g": {"mixer": "gam", "slots": 4}}, "gg")
        >>> StackMixer(stack)(torch.zeros(1, 3, 8)).shape
        torch.Size([1, 3, 8])
    """

    causal = "optional"
    ordered = False  # the stack brings tokens into order where its mixers ask for it

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack.dim, is_causal=all(mixer.is_causal for mixer in stack.mixers))
        self.stack = stack
        self.needs = tuple(sorted({name for mixer in stack.mixers for name in mixer.needs}))

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        """See `TokenMixer.mix`; without a state, which is the stack's own affair."""
        y: Tensor = self.stack(x, layout)
        return y


def has_steps(stack: Stack) -> bool:
    """Whether a stack reads token by token with a state.

    Example:
        >>> has_steps(Stack(8, {"a": {"mixer": "attention", "heads": 2, "causal": False}}, "a"))
        False
    """
    return all(mixer.step == 1 and not {"grid", "edges"} & set(mixer.needs) for mixer in stack.mixers)


def draw_portrait(
    stack: Stack, config: PortraitConfig | None = None, mixers: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Measure what an untrained stack does; nothing is taken from what its mixers say of themselves.

    All is measured on a copy in eval mode with every parameter moved a little, so that zeros hide nothing; influence
    and reach in float64, in a row without padding:

        influence[i, j] = max over draws and channels of |y_i(x, token j changed) - y_i(x)|,  over the largest of all

    A stack that raises has an "error" instead of what could not be measured, and broken laws.

    Args:
        stack: left unchanged.
        config: what to show.
        mixers: descriptions by letter, the keys of "laws"; default from the mixers' attributes.

    Returns:
        What JSON can hold: "length"; "influence" (L x L, three digits); "reads_future", whether some output moves
        when a later token changes; "reach" and "reach_bounded", see `reach_of`; "state_growth", "flat" or "growing"
        between 64 and 256 tokens, and "state_bytes_per_token" (None without a state); "laws", for each mixer a list
        of "law", "number", "status", "worst", "tolerance" and "note".

    Example:
        >>> found = draw_portrait(Stack(8, {"g": {"mixer": "gam", "slots": 4}}, "gg"), PortraitConfig(8, laws=False))
        >>> found["reach"], found["reach_bounded"], found["reads_future"], found["state_growth"]
        (4, True, False, 'flat')
    """
    config = PortraitConfig() if config is None else config
    found: dict[str, Any] = {"length": config.length}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts: list[Callable[[], dict[str, Any]]] = [lambda: _reading(stack, config.length), lambda: _state(stack)]
        for part in parts:
            try:
                found |= part()
            except Exception as error:  # whatever a mixer raises
                found.setdefault("error", f"{type(error).__name__}: {error}")
    blank = ("influence", "reads_future", "reach", "reach_bounded", "state_growth", "state_bytes_per_token")
    found = {**dict.fromkeys(blank), **found, "laws": {}}
    if config.laws:
        for description, mixer in distinct_mixers(stack, mixers).items():
            found["laws"][description] = _laws(mixer)
    return found


def reach_of(stack: Stack, length: int = FAR, seed: int = 0) -> tuple[int, bool]:
    """How far back the last token of a long row reads, and whether that is an end or only the end of the row.

        reach = largest d with |d (w . y_(L-1)) / d x_(L-1-d)| > 0,  w random, in float64

    Any gradient but an exact zero counts: what a window leaves out, it leaves out exactly. A decay only fades, and is
    no end; so if the farthest gradient is below 1e-36 of the largest, where the numbers of a float32 run out, the reach
    is not bounded, and the number is how far it was seen. What mixes by a Fourier transform rounds everywhere, and is
    not bounded either.

    Args:
        stack: left unchanged.
        length: tokens of the row.
        seed: of the inputs and of the parameters' noise.

    Returns:
        The reach in tokens, and whether it is bounded within the row.

    Raises:
        ValueError: gradients that are not finite, or none at all.

    Example:
        >>> reach_of(Stack(8, {"w": {"mixer": "sliding_window", "heads": 2, "window": 5}}, "www"), length=64)
        (12, True)
    """
    check_positive("length", length)
    bench = Bench(StackMixer(stack), length=length, seed=seed)
    mixer, placed = bench.copy(torch.float64), _row(bench, length)
    x = placed.x.clone().requires_grad_()
    y = mixer(x, placed.layout)
    weights = bench.normal(y.shape[2], dtype=y.dtype)
    (gradient,) = torch.autograd.grad((y[0, -1] * weights).sum(), x, allow_unused=True)
    if gradient is None or not bool(torch.isfinite(gradient).all()) or not bool(gradient.any()):
        raise ValueError("stack: expected finite gradients of its last output that are not all zero, found others")
    size = gradient[0].abs().amax(-1)
    farthest = int(torch.nonzero(size)[0, 0])
    reach = length - 1 - farthest
    return reach, reach < length - 1 and float(size[farthest] / size.max()) >= FADED


def _reading(stack: Stack, length: int) -> dict[str, Any]:
    """Influence, reads_future, reach, reach_bounded."""
    bench = Bench(StackMixer(stack), length=length)
    moved = influence(bench, bench.copy(torch.float64), _row(bench, length), Trial(6, "reach"))
    if not float(moved.max()) > 0:
        raise ValueError("stack: expected outputs that move when tokens change, found none")
    moved = moved / moved.max()
    back = torch.arange(length)[:, None] - torch.arange(length)  # i - j
    near = int(back[moved > LEAK_FLOAT64].max())
    far, bounded = reach_of(stack, max(FAR, 2 * length))
    return {
        "influence": [[float(f"{value:.3g}") for value in row] for row in moved.tolist()],
        "reads_future": bool((moved.triu(1) > LEAK_FLOAT64).any()),
        "reach": max(near, far),
        "reach_bounded": bounded,
    }


@torch.no_grad()
def _state(stack: Stack) -> dict[str, Any]:
    """state_growth, state_bytes_per_token; nothing for a stack without a state."""
    if not has_steps(stack):
        return {}
    bench = Bench(StackMixer(stack))
    subject, sizes = bench.copy(), []
    if not isinstance(subject, StackMixer):
        raise TypeError(f"stack: expected a copy of a StackMixer, found {type(subject).__name__}")
    for length in STATE_LENGTHS:
        state, placed = subject.stack.init_state(1), bench.place([bench.document(length)])
        subject.stack(placed.x, placed.layout, state)
        sizes.append(state.nbytes)
    grown = (sizes[1] - sizes[0]) / (STATE_LENGTHS[1] - STATE_LENGTHS[0])
    return {"state_growth": "growing" if grown > 0 else "flat", "state_bytes_per_token": grown}


def _row(bench: Bench, length: int) -> Placed:
    return bench.place([bench.document(length, torch.float64)])


# ---------------------------------------------------------------------- laws


def distinct_mixers(stack: Stack, mixers: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, TokenMixer]:
    """A mixer for each letter of a stack's pattern, by its description as JSON; equal descriptions once.

    Args:
        stack: whose mixers.
        mixers: descriptions by letter; default the name and those options that a mixer keeps as attributes and that
            are not the defaults (with the letter, where two would be described alike).

    Example:
        >>> list(distinct_mixers(Stack(8, {"g": {"mixer": "gam", "slots": 4}}, "gg")))
        ['{"mixer": "gam", "slots": 4}']
    """
    found = dict(zip(reversed(stack.letters), reversed(stack.mixers), strict=True))  # the first layer of each letter
    described: dict[str, TokenMixer] = {}
    for letter in dict.fromkeys(stack.letters):
        if mixers is not None and letter in mixers:
            described.setdefault(json.dumps(dict(mixers[letter]), default=str), found[letter])
            continue
        options = _options(found[letter])
        if json.dumps(options) in described:
            options["letter"] = letter
        described[json.dumps(options)] = found[letter]
    return described


def _options(mixer: TokenMixer) -> dict[str, Any]:
    """A description of a mixer from its attributes."""
    options: dict[str, Any] = {"mixer": type(mixer).name or type(mixer).__qualname__}
    for name, parameter in inspect.signature(type(mixer)).parameters.items():
        value = getattr(mixer, "is_causal" if name == "causal" else name, None)
        if name != "dim" and isinstance(value, (bool, int, float, str)) and value != parameter.default:
            options[name] = value
    return options


def _laws(mixer: TokenMixer) -> list[dict[str, Any]]:
    """The verdicts of all laws on a mixer, in rows a few times as long as its window."""
    try:
        verdicts = check_mixer(mixer, length=_law_length(mixer), raise_on_failure=False, print_table=False).verdicts
    except Exception as error:  # it cannot even be copied
        note = f"the laws were not tried: {type(error).__name__}: {error}"
        blank = {"status": "broken", "worst": None, "tolerance": 0.0, "note": note}
        return [{"law": law.name, "number": law.number, **blank} for law in LAWS]
    return [
        {
            "law": verdict.law.name,
            "number": verdict.law.number,
            "status": verdict.status,
            "worst": verdict.worst if verdict.worst is not None and math.isfinite(verdict.worst) else None,
            "tolerance": verdict.tolerance,
            "note": verdict.note,
        }
        for verdict in verdicts
    ]


def _law_length(mixer: TokenMixer) -> int:
    """Twice the tokens that an output reads where it says that they are few; within reason."""
    try:
        claimed = mixer.reach(Layout(), FAR)
        window = FAR if claimed is None else int(claimed[0, -1].sum())
    except Exception:  # it needs a grid or edges to say it, or its reach is broken, which a law will find
        return SHORTEST
    return SHORTEST if window >= FAR else min(max(SHORTEST, 2 * window), LONGEST)
