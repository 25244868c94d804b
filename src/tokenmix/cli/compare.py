"""`tokenmix compare`: from a question about mixers to a report."""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenmix.cli.errors import UsageError

if TYPE_CHECKING:
    from tokenmix.compare.config import CompareConfig

_MORE = """
CONFIG is the name of a comparison that comes with tokenmix (--list shows them) or a YAML file. Any key of it can be
overridden: --protocol.seeds '[0,1,2,3,4]', --tasks.recall.pairs '[4,8]', --output runs/mine. The same command goes on
where it was stopped, and with another mixer runs what is missing.
"""


def add_parser(commands: Any) -> None:
    """Add the arguments of this command."""
    parser = commands.add_parser(
        "compare", help="compare mixers on tasks, with costs, in one report", description=run.__doc__, epilog=_MORE
    )
    add = parser.add_argument
    add("config", metavar="CONFIG", nargs="?", default="demo", help="name or YAML file (default: demo)")
    add(
        "--mixer",
        action="append",
        default=[],
        metavar="M",
        help="one more to compare: a name, MODULE:CLASS or file.py:CLASS",
    )
    add("--options", action="append", default=[], metavar="JSON", help="""its options, as '{"window": 4}'""")
    add("--task", action="append", default=[], metavar="T", help="only this task of the config (may be repeated)")
    add("--stack", action="append", default=[], metavar="S", help="only this stack of the config (may be repeated)")
    add("--baseline", metavar="FILE", help="results.json of an earlier comparison: what got better and worse")
    add("--only", metavar="RUN", help="one run alone, such as recall/attention/lr_0.003_seed_0, and its numbers")
    add("--open", action="store_true", help="open the page in a browser")
    add("--list", action="store_true", help="list the comparisons that come with tokenmix, and the tasks")


def run(arguments: argparse.Namespace, rest: Sequence[str] = ()) -> int:
    """Train stacks of mixers on tasks with equal budgets, several learning rates and seeds; measure costs; report."""
    try:
        from tokenmix.compare.config import CompareConfig
        from tokenmix.compare.report import print_run, print_tables, write_report
        from tokenmix.compare.runner import run_comparison
        from tokenmix.training import make_console, parse_config
    except ModuleNotFoundError as error:
        raise UsageError(f"{error}; pip install 'tokenmix[compare]'") from error
    if arguments.list:
        return _list()
    try:
        config, _ = parse_config(CompareConfig, ["--config", str(_config_file(arguments.config)), *rest])
    except SystemExit as stop:  # the reason has been printed
        return int(stop.code or 0)
    try:
        _narrow(config, arguments)
        _add_mixers(config, arguments)
        console = make_console(140)  # whole tables, in a file too
        results = run_comparison(
            config, command=_command(), baseline=arguments.baseline, only=arguments.only, console=console
        )
        if arguments.only:
            print_run(results["runs"][0], console)
            return 1 if results["runs"][0]["status"] == "failed" else 0
        page = write_report(results, config.output)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    except (TypeError, ValueError, OSError, ModuleNotFoundError) as error:
        raise UsageError(str(error)) from error
    print_tables(results, console)
    console.print(f"\nThe page: {page.resolve()}", markup=False, highlight=False, soft_wrap=True)
    if arguments.open:
        webbrowser.open(page.resolve().as_uri())
    return 1 if any(entry["status"] == "failed" for entry in results["runs"]) else 0


def _list() -> int:
    from tokenmix.compare.config import PRESETS
    from tokenmix.compare.task import list_tasks

    print("comparisons:")
    for path in sorted(PRESETS.glob("*.yaml")):
        print(f"  {path.stem:12} {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")
    print("tasks:")
    for name, task in list_tasks().items():
        print(f"  {name:18} {(task.__doc__ or '').splitlines()[0]}")
    return 0


def _config_file(name: str) -> Path:
    from tokenmix.compare.config import PRESETS

    if (PRESETS / f"{name}.yaml").is_file():
        return PRESETS / f"{name}.yaml"
    if not Path(name).is_file():
        known = ", ".join(sorted(path.stem for path in PRESETS.glob("*.yaml")))
        raise UsageError(f"CONFIG: expected a YAML file or one of {known}, found {name!r}")
    return Path(name)


def _narrow(config: CompareConfig, arguments: argparse.Namespace) -> None:
    """Leave out the tasks that were not asked for, and ask each of the others of the stacks that were."""
    config.check()
    for option, there in (("task", config.tasks), ("stack", config.stacks)):
        if unknown := [name for name in getattr(arguments, option) if name not in there]:
            raise ValueError(f"--{option}: expected one of {', '.join(there)}, found {unknown[0]!r}")
    if arguments.task:
        config.tasks = {name: spec for name, spec in config.tasks.items() if name in arguments.task}
    if arguments.stack:  # the others stay in the config, since one of them sets the budget
        for task in config.tasks:
            asked = [name for name in config.stacks_of(task) if name in arguments.stack]
            config.tasks[task] = {**config.tasks[task], "stacks": asked}


def _add_mixers(config: CompareConfig, arguments: argparse.Namespace) -> None:
    """A stack for each --mixer, under the name of its class or mixer."""
    if len(arguments.options) > len(arguments.mixer):
        raise ValueError("--options: expected one for each --mixer at most, in their order")
    free = (chr(code) for code in itertools.count(0x3B1) if chr(code) not in config.mixers)  # Greek, and on
    for number, name in enumerate(arguments.mixer):
        letter = next(free)
        options = arguments.options[number] if number < len(arguments.options) else "{}"
        try:
            given = json.loads(options)
        except json.JSONDecodeError as error:
            raise ValueError(f"--options: expected a JSON object, found {options!r} ({error})") from error
        if not isinstance(given, dict):
            raise ValueError(f"--options: expected a JSON object, found {options!r}")
        stack = name.rpartition(":")[2]
        while stack in config.stacks:
            stack += "_2"
        config.mixers[letter] = {"mixer": name, **given}
        config.stacks[stack] = letter
        for spec in config.tasks.values():
            if isinstance(spec.get("stacks"), list):
                spec["stacks"] = [*spec["stacks"], stack]


def _command() -> str:
    """What was typed."""
    return shlex.join(["tokenmix", *sys.argv[1:]])
