"""check_mixer: run the laws that a mixer claims, print a table, raise on the first that is broken."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tokenmix.laws.bench import Bench
from tokenmix.laws.cost import cost
from tokenmix.laws.gradients import gradients
from tokenmix.laws.influence import causality, reach
from tokenmix.laws.isolation import packing, padding
from tokenmix.laws.storage import storage
from tokenmix.laws.streaming import streaming
from tokenmix.laws.symmetry import equivariance
from tokenmix.laws.trial import LawBroken, NotClaimed, Trial
from tokenmix.laws.values import values
from tokenmix.mixer import TokenMixer, build_mixer, check_positive

Status = Literal["passed", "broken", "not claimed"]


class Law(NamedTuple):
    """A law: its number, its name, and the function that tries it."""

    number: int
    name: str
    run: Callable[[Bench, Trial], None]

    @property
    def statement(self) -> str:
        """The law in a sentence."""
        return inspect.getdoc(self.run) or ""


LAWS: tuple[Law, ...] = (
    Law(1, "values", values),
    Law(2, "padding", padding),
    Law(3, "packing", packing),
    Law(4, "causality", causality),
    Law(5, "streaming", streaming),
    Law(6, "reach", reach),
    Law(7, "equivariance", equivariance),
    Law(8, "gradients", gradients),
    Law(9, "cost", cost),
    Law(10, "storage", storage),
)


@dataclass(frozen=True)
class Verdict:
    """What one law says about one mixer.

    Attributes:
        law: the law.
        status: "passed", "broken" or "not claimed".
        worst: the gap nearest to its tolerance, where gaps were measured.
        tolerance: the tolerance of that gap.
        note: what was found (broken) or why nothing was tried (not claimed).
        error: what ended the law, if broken.
    """

    law: Law
    status: Status
    worst: float | None = None
    tolerance: float = 0.0
    note: str = ""
    error: Exception | None = None


@dataclass(frozen=True)
class Report:
    """The verdicts on one mixer, in the order of the laws."""

    mixer: str
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """True if no law is broken."""
        return all(verdict.status != "broken" for verdict in self.verdicts)

    @property
    def broken(self) -> tuple[Verdict, ...]:
        """The verdicts of broken laws."""
        return tuple(verdict for verdict in self.verdicts if verdict.status == "broken")

    def table(self) -> Table:
        """A table to print with rich."""
        table = Table(title=f"The laws and {self.mixer}", title_justify="left")
        for heading in ("law", "verdict", "worst", "tolerance", "note"):
            table.add_column(heading, justify="right" if heading in ("worst", "tolerance") else "left")
        colours = {"passed": "green", "broken": "bold red", "not claimed": "dim"}
        for v in self.verdicts:
            worst = "" if v.worst is None else f"{v.worst:.3g}"
            tolerance = "" if v.worst is None else f"{v.tolerance:.3g}" if v.tolerance else "exact"
            status = f"[{colours[v.status]}]{v.status}[/]"
            table.add_row(f"{v.law.number} {v.law.name}", status, worst, tolerance, escape(v.note))
        return table


def check_mixer(
    mixer: TokenMixer | type[TokenMixer] | str | Mapping[str, Any],
    *,
    dim: int = 32,
    length: int = 32,
    seed: int = 0,
    grid_axes: int = 2,
    laws: Iterable[int | str] | None = None,
    raise_on_failure: bool = True,
    print_table: bool = True,
) -> Report:
    """Run each law that a mixer claims, print a table, and raise on the first broken law.

    The mixer itself is left unchanged: laws run on copies in eval mode, in float32 on the CPU, with every
    parameter moved a little, so that zeros hide nothing. Inputs carry every Layout field in `mixer.needs`.
    The random numbers of torch are as before afterwards.

    Args:
        mixer: a mixer, a class (built with `dim`), a registered name, or a description such as
            {"mixer": "sliding_window", "window": 4}.
        dim: width to build with, where `mixer` is not built yet.
        length: tokens a row; a few times the mixer's window (at least 24).
        seed: of parameters' noise and of inputs.
        grid_axes: axes of the grid for a mixer that needs one.
        laws: numbers or names; default all ten.
        raise_on_failure: raise LawBroken for the first broken law (after the table).
        print_table: print the table.

    Returns:
        The report: a verdict a law, with the worst number against its tolerance.

    Raises:
        LawBroken: an AssertionError with `number`, `law` and `finding`.
        TypeError: something that is no mixer. ValueError: an unknown law, or a length below 24.

    Example:
        >>> from tokenmix import TokenMixer
        >>> class Identity(TokenMixer):
        ...     ordered, cost, equivariance = False, "L", ("permutation",)
        ...     def mix(self, x, layout, state):
        ...         return 1 * x
        >>> check_mixer(Identity(dim=8), laws=["padding", 7], print_table=False).passed
        True
    """
    chosen = choose_laws(laws)
    check_positive("length", length)
    if length < 24:
        raise ValueError(f"length: expected at least 24 tokens, so that windows are passed, found {length}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = _build(mixer, dim)
        verdicts = []
        for law in chosen:
            torch.manual_seed(seed)
            verdicts.append(_judge(law, Bench(built, length=length, seed=seed, grid_axes=grid_axes)))
    name = type(built).name or type(built).__name__
    report = Report(name, tuple(verdicts))
    if print_table:
        Console().print(report.table())
    if raise_on_failure and report.broken:
        first = report.broken[0]
        raise LawBroken(first.law.number, first.law.name, first.note, name) from first.error
    return report


def choose_laws(laws: Iterable[int | str] | None) -> tuple[Law, ...]:
    """The laws of these numbers or names, in their order; all for None.

    Raises:
        ValueError: an unknown number or name.

    Example:
        >>> [law.name for law in choose_laws(["reach", 1])]
        ['values', 'reach']
    """
    if laws is None:
        return LAWS
    wanted = {laws} if isinstance(laws, (int, str)) else set(laws)
    unknown = [key for key in wanted if not any(key in (law.number, law.name) for law in LAWS)]
    if unknown:
        known = ", ".join(f"{law.number} {law.name}" for law in LAWS)
        raise ValueError(f"laws: unknown {unknown[0]!r}, known: {known}")
    return tuple(law for law in LAWS if law.number in wanted or law.name in wanted)


def _build(mixer: TokenMixer | type[TokenMixer] | str | Mapping[str, Any], dim: int) -> TokenMixer:
    if isinstance(mixer, TokenMixer):
        return mixer
    if isinstance(mixer, (str, Mapping)):
        return build_mixer(mixer, dim)
    if isinstance(mixer, type) and issubclass(mixer, TokenMixer):
        return mixer(dim)
    raise TypeError(f"mixer: expected a TokenMixer, a subclass, a name or a description, found {mixer!r}")


def _judge(law: Law, bench: Bench) -> Verdict:
    trial = Trial(law.number, law.name)
    try:
        law.run(bench, trial)
    except NotClaimed as reason:
        return Verdict(law, "not claimed", note=str(reason))
    except LawBroken as error:
        return Verdict(law, "broken", trial.worst, trial.tolerance, error.finding, error)
    except Exception as problem:  # whatever a mixer raises on valid input breaks the law
        note = f"the mixer raised {type(problem).__name__}: {problem}"
        return Verdict(law, "broken", trial.worst, trial.tolerance, note, problem)
    return Verdict(law, "passed", trial.worst, trial.tolerance)
