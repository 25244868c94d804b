"""What was skipped in a run, against the table of reasons in docs/hf_suite.md."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

TABLE = Path(__file__).parents[2] / "docs" / "hf_suite.md"


def read_results(report: Path) -> tuple[dict[str, Counter[str]], Counter[str]]:
    """Tests of each class by outcome, and skips by reason, of pytest's XML report."""
    classes: dict[str, Counter[str]] = {}
    reasons: Counter[str] = Counter()
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        skipped = case.find("skipped")
        failed = case.find("failure") is not None or case.find("error") is not None
        outcome = "skipped" if skipped is not None else "failed" if failed else "passed"
        classes.setdefault(case.get("classname", "").rpartition(".")[2], Counter())[outcome] += 1
        if skipped is not None:
            reasons[skipped.get("message", "")] += 1
    return classes, reasons


def check_skips(reasons: Counter[str]) -> list[str]:
    """Mistakes: skips whose reason is not in the table, and rows of the table that nothing was skipped for.

    A row begins with the reason as transformers prints it, in backquotes; `…` stands for any text.
    """
    rows = re.findall(r"^\| `(.+?)` \|", TABLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    patterns = {row: ".*".join(map(re.escape, row.split("…"))) for row in rows}
    used, mistakes = set(), []
    for reason, count in reasons.items():
        fitting = [row for row, pattern in patterns.items() if re.fullmatch(pattern, reason, flags=re.DOTALL)]
        used.update(fitting)
        if not fitting:
            mistakes.append(f"{count} tests skipped for a reason that {TABLE.name} does not give: {reason!r}")
    mistakes += [
        f"{TABLE.name} gives a reason that no test was skipped for: {row!r}" for row in rows if row not in used
    ]
    return mistakes
