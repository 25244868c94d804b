"""The command `tokenmix`: compare, check and list mixers, convert a model, transcribe audio, say what is there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tokenmix.cli import check, compare, convert, env, mixers, transcribe
from tokenmix.cli.errors import UsageError

COMMANDS = {
    "compare": compare,
    "check": check,
    "mixers": mixers,
    "convert": convert,
    "transcribe": transcribe,
    "env": env,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments; default those of the process.

    Returns:
        0: all is well. 1: a law is broken, or a file of several cannot be read. 2: the command was not understood.

    Example:
        >>> main(["--version"])
        tokenmix ...
        0
    """
    parser = _parser()
    try:
        arguments, rest = parser.parse_known_args(argv)
        if rest and arguments.command != "compare":  # whose config has keys of its own
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
    except SystemExit as stop:  # argparse has printed the reason
        return int(stop.code or 0)
    if arguments.command is None:
        parser.print_help()
        return 2
    try:
        if arguments.command == "compare":
            return compare.run(arguments, rest)
        return COMMANDS[arguments.command].run(arguments)
    except UsageError as error:
        print(f"tokenmix {arguments.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    import tokenmix

    parser = argparse.ArgumentParser(prog="tokenmix", description="Mixing tokens, whatever they are.")
    parser.add_argument("--version", action="version", version=f"tokenmix {tokenmix.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS.values():
        command.add_parser(commands)
    return parser
