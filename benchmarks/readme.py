"""python -m benchmarks.readme: write README's table of speed from benchmarks/results.json, or check it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.report import markdown

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- speed:begin, written by python -m benchmarks.readme -->", "<!-- speed:end -->"


def with_table(text: str, table: str) -> str:
    """A README with its table replaced.

    Raises:
        ValueError: the marks are missing.

    Example:
        >>> with_table(f"a {BEGIN} old {END} b", "new").splitlines()
        ['a <!-- speed:begin, written by python -m benchmarks.readme -->', 'new', '<!-- speed:end --> b']
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"README: expected the marks {BEGIN} and {END}")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}"


def main() -> int:
    """Write, or with --check say whether README is up to date."""
    parser = argparse.ArgumentParser("python -m benchmarks.readme", description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results.json")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    old = options.readme.read_text()
    new = with_table(old, markdown(json.loads(options.results.read_text())))
    if options.check:
        return int(new != old)
    options.readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
