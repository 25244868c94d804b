"""`tokenmix compare`: from a question about mixers to a report."""

from __future__ import annotations

import argparse
import shlex
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenmix.cli.errors import UsageError, json_object

if TYPE_CHECKING:
    from tokenmix.compare.config import CompareConfig
    from tokenmix.compare.runner import Asked

_USAGE = "tokenmix compare [CONFIG] [--KEY VALUE ...] [options]"
_MORE = """
CONFIG is the name of a comparison that comes with tokenmix (--list shows them) or a YAML file; default demo. Any key of
it can be overridden, also where a task replaces it: --protocol.seeds '[0,1,2,3,4]', --tasks.recall.pairs '[4,8]',
--output runs/mine. The same command goes on where it was stopped, and with another mixer runs what is missing. The page
keeps what earlier commands left in the folder: stacks that --mixer added, and what --task and --stack leave out.
"""


def add_parser(commands: Any) -> None:
    """Add the arguments of this command; CONFIG and keys are left to `tokenmix.compare.typed`."""
    parser = commands.add_parser(
        "compare",
        help="compare mixers on tasks, with costs, in one report",
        usage=_USAGE,
        description=run.__doc__,
        epilog=_MORE,
    )
    add = parser.add_argument
    add(
        "--mixer",
        action="append",
        default=[],
        metavar="M",
        help="one more to compare: a name, MODULE:CLASS or file.py:CLASS",
    )
    add("--options", action="append", default=[], metavar="JSON", help="""its options, as '{"window": 4}'""")
    add("--task", action="append", default=[], metavar="T", help="train this task of the config alone (repeatable)")
    add("--stack", action="append", default=[], metavar="S", help="train this stack of the config alone (repeatable)")
    add("--baseline", metavar="FILE", help="results.json of an earlier comparison: what got better and worse")
    add("--only", metavar="RUN", help="one run alone, such as recall/attention/lr_0.003_seed_0, and its numbers")
    add("--open", action="store_true", help="open the page in a browser")
    add("--list", action="store_true", help="list the comparisons that come with tokenmix, and the tasks")


def run(arguments: argparse.Namespace, rest: Sequence[str] = ()) -> int:
    """Train stacks of mixers on tasks with equal budgets, several learning rates and seeds; measure costs; report."""
    try:
        from tokenmix.compare.report import print_run, print_tables, write_report
        from tokenmix.compare.runner import run_comparison
        from tokenmix.training import make_console
    except ModuleNotFoundError as error:
        raise UsageError(f"{error}; pip install 'tokenmix[compare]'") from error
    if arguments.list:
        return _list()
    try:
        console = make_console(140)  # whole tables, in a file too
        config, notes = _read_config(rest)
        asked, more = _ask(config, arguments)
        for note in [*notes, *more]:
            console.print(note, markup=False, highlight=False)
        results = run_comparison(
            config,
            command=shlex.join(["tokenmix", *sys.argv[1:]]),
            baseline=arguments.baseline,
            only=arguments.only,
            asked=asked,
            console=console,
        )
        if arguments.only:
            print_run(results["runs"][0], console)
            return 1 if results["runs"][0]["status"] == "failed" else 0
        page = write_report(results, config.output)
    except SystemExit as stop:  # the reason has been printed
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    except (TypeError, ValueError, OSError, ModuleNotFoundError) as error:
        raise UsageError(str(error)) from error
    print_tables(results, console, asked.tasks)
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


def _read_config(rest: Sequence[str]) -> tuple[CompareConfig, list[str]]:
    """The config of the file and what was typed over it, and what of the file gave way."""
    from tokenmix.compare.config import CompareConfig
    from tokenmix.compare.tree import check_override, check_tree, read_tree
    from tokenmix.compare.typed import prefer_typed, split_typed
    from tokenmix.training import parse_config

    typed = split_typed(rest)
    file = _config_file(typed.config or "demo")
    check_tree(read_tree(file), CompareConfig, source=str(file))
    for key, text in typed.overrides:
        if key != "config" and not key.endswith("+"):
            check_override(key, text, CompareConfig)
    config, _ = parse_config(CompareConfig, ["--config", str(file), *typed.arguments])
    return config, prefer_typed(config, typed.overrides)


def _config_file(name: str) -> Path:
    from tokenmix.compare.config import PRESETS
    from tokenmix.compare.mistakes import near

    if (PRESETS / f"{name}.yaml").is_file():
        return PRESETS / f"{name}.yaml"
    if not Path(name).is_file():
        known = sorted(path.stem for path in PRESETS.glob("*.yaml"))
        raise ValueError(
            f"CONFIG: expected a YAML file or one of {', '.join(known)}, found {name!r}{near(name, known)}"
        )
    return Path(name)


def _ask(config: CompareConfig, arguments: argparse.Namespace) -> tuple[Asked, list[str]]:
    """What is to be trained, once the stacks of --mixer are in the config; and what could not be brought back."""
    from tokenmix.compare.kept import earlier_results, restore_added
    from tokenmix.compare.mistakes import near
    from tokenmix.compare.runner import Asked

    config.check()
    own = list(config.stacks)
    refused = restore_added(config, earlier_results(config))
    restored = [name for name in config.stacks if name not in own]
    for option, there in (("task", config.tasks), ("stack", config.stacks)):
        if unknown := [name for name in getattr(arguments, option) if name not in there]:
            close = near(unknown[0], there)
            raise ValueError(f"--{option}: expected one of {', '.join(there)}, found {unknown[0]!r}{close}")
    given = _add_mixers(config, arguments, restored)
    stacks = [*(arguments.stack or own), *given]
    added = [name for name in config.stacks if name not in own]
    return Asked(arguments.task or None, stacks, added), [f"not on the page: {reason}" for reason in refused]


def _add_mixers(config: CompareConfig, arguments: argparse.Namespace, restored: Sequence[str]) -> list[str]:
    """A stack for each --mixer, under the name of its class or mixer; one that was added before is that one."""
    from tokenmix.compare.kept import add_stack

    if len(arguments.options) > len(arguments.mixer):
        raise ValueError("--options: expected one for each --mixer at most, in their order")
    given: list[str] = []
    for number, name in enumerate(arguments.mixer):
        options = arguments.options[number] if number < len(arguments.options) else "{}"
        spec = {"mixer": name, **json_object("--options", options)}
        same = [s for s in restored if s not in given and list(config.mixers_of(s).values()) == [spec]]
        if same:
            given.append(same[0])
            continue
        letter = next(chr(code) for code in range(0x3B1, 0x10000) if chr(code) not in config.mixers)  # Greek, and on
        stack = name.rpartition(":")[2]
        while stack in config.stacks:
            stack += "_2"
        add_stack(config, stack, letter, {letter: spec})
        given.append(stack)
    return given
