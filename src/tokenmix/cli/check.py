"""`tokenmix check`: the laws, over a mixer of ours or anyone's."""

from __future__ import annotations

import argparse
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
    from tokenmix.plugins import load_mixer_class

    if ":" in target:
        try:
            own = load_mixer_class(target)
        except ValueError as error:
            raise UsageError(str(error)) from error
    try:
        if ":" not in target:
            return build_mixer({"mixer": target, **options}, dim)
        return own(dim, **options)
    except (TypeError, ValueError) as error:
        hint = "" if ":" in target else "; a class of your own is MODULE:CLASS or file.py:CLASS"
        raise UsageError(f"cannot build {target}: {error}{hint}") from error
