"""`tokenmix mixers`: what mixers there are, and what their arguments are."""

from __future__ import annotations

import argparse
import inspect
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from tokenmix.cli.errors import UsageError

EXAMPLE_LENGTH, EXAMPLE_DIM = 1024, 256


def add_parser(commands: Any) -> None:
    """Add the arguments of this command."""
    mixers = commands.add_parser("mixers", help="list the mixers, or describe one", description=run.__doc__)
    mixers.add_argument("name", nargs="?", metavar="NAME", help="describe this mixer and its arguments")
    mixers.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """List the mixers, or describe one with its arguments and their defaults."""
    from tokenmix.mixer import get_mixer, list_mixers

    if arguments.name is None:
        rows = [_summary(name) for name in list_mixers()]
        if arguments.json:
            print(json.dumps(rows, indent=2))
        else:
            _print_summaries(rows)
        return 0
    try:
        cls = get_mixer(arguments.name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    described = {**_summary(arguments.name), "arguments": _arguments(cls), "doc": inspect.getdoc(cls) or ""}
    if arguments.json:
        print(json.dumps(described, indent=2))
        return 0
    print(f"{arguments.name}: {described['doc']}\n")
    table = Table(title="Arguments", title_justify="left")
    for heading in ("name", "default"):
        table.add_column(heading)
    for name, default in described["arguments"].items():
        table.add_row(name, default)
    Console().print(table)
    return 0


def _summary(name: str) -> dict[str, Any]:
    from tokenmix.mixer import build_mixer, get_mixer

    cls = get_mixer(name)
    try:
        mixer = build_mixer(name, EXAMPLE_DIM)
        numbers = mixer.state_numel(EXAMPLE_LENGTH) if mixer.is_causal else None
    except (TypeError, ValueError):  # needs arguments, or another width
        numbers = None
    return {
        "name": name,
        "causal": cls.causal,
        "needs": list(cls.needs),
        "cost": cls.cost,
        "state_size": numbers,
        "paper": cls.paper,
    }


def _print_summaries(rows: list[dict[str, Any]]) -> None:
    table = Table(caption=f"state: numbers kept for a row after {EXAMPLE_LENGTH} tokens of width {EXAMPLE_DIM}")
    for heading in ("mixer", "causal", "needs", "cost", "state", "paper"):
        table.add_column(heading, justify="right" if heading == "state" else "left", no_wrap=heading == "mixer")
    for row in rows:
        state = "-" if row["state_size"] is None else f"{row['state_size']:,}"
        table.add_row(row["name"], row["causal"], ", ".join(row["needs"]) or "-", row["cost"], state, row["paper"])
    Console().print(table)


def _arguments(cls: type) -> dict[str, str]:
    """Arguments of the constructor, through **options to those of the parent, with their defaults."""
    found: dict[str, str] = {}
    for owner in cls.__mro__:
        if "__init__" not in vars(owner):
            continue
        parameters = list(inspect.signature(owner).parameters.values())
        for p in parameters:
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and (not found or p.name not in found):
                if found and p.default is p.empty:
                    continue  # what the subclass fills in itself
                found[p.name] = "required" if p.default is p.empty else repr(p.default)
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return found
