"""`tokenmix check`: the laws, over a mixer of ours or anyone's."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from tokenmix.cli.errors import UsageError, json_object


def add_parser(commands: Any) -> None:
    """Add the arguments of this command."""
    check = commands.add_parser("check", help="run the laws over a mixer", description=run.__doc__)
    check.add_argument(
        "target", metavar="MIXER", help="MODULE:CLASS, path/to/file.py:CLASS, or the name of a registered mixer"
    )
    check.add_argument("--dim", type=int, default=32, help="width to build the mixer with (default 32)")
    check.add_argument("--options", default="{}", metavar="JSON", help="""arguments, such as '{"window": 4}'""")
    check.add_argument(
        "--law", action="append", metavar="N", help="number or name of a law; may be repeated (default: all ten)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the laws over a mixer; exit status 1 if one is broken."""
    from tokenmix.laws.check import check_mixer, choose_laws

    laws: list[int | str] | None = None
    if arguments.law:
        laws = [int(law) if law.isdigit() else law for law in arguments.law]
    try:
        choose_laws(laws)
    except ValueError as error:
        raise UsageError(f"--law: {error}") from error
    mixer = _build(arguments.target, arguments.dim, json_object("--options", arguments.options))
    report = check_mixer(mixer, laws=laws, raise_on_failure=False)
    for verdict in report.broken:
        print(f"law {verdict.law.number} ({verdict.law.name}) is broken: {verdict.note}")
    return 0 if report.passed else 1


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
