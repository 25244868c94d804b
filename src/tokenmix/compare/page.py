"""The report of a comparison as one HTML file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from tokenmix.compare.findings import group_findings
from tokenmix.compare.formats import known, listed, plain, seconds_text
from tokenmix.compare.markup import Column, body, cell, command, esc, number, pairs, stack_name, table
from tokenmix.compare.page_costs import costs_section
from tokenmix.compare.page_sections import (
    method_section,
    plots_section,
    portraits_section,
    skipped_section,
    tasks_section,
)
from tokenmix.compare.page_tables import results_section, verdict, with_spread
from tokenmix.compare.plot_parts import stack_styles

Results = Mapping[str, Any]
_CHANGES = {
    "better": "good",
    "worse": "bad",
    "within the spread": "plain",
    "new": "level",
    "gone": "warn",
    "failed": "bad",
}


def write_page(results: Results, path: str | os.PathLike[str]) -> Path:
    """Write the report of a comparison as one HTML file: tables, plots, and every figure's config and command.

    The file refers to nothing outside of itself, and forbids its browser to load anything. Without scripts it is a
    readable page; with them its tables are sorted and filtered. Everything that comes from the results is shown as
    text, whatever it holds.

    Args:
        results: what results.json holds. "costs", "portraits" and "baseline" may be missing or None, as may numbers.
        path: HTML file to write; its folder is made if it is not there.

    Returns:
        The path.

    Raises:
        TypeError: results that are not a mapping.
        ValueError: results of another format, or without one of the parts that a page needs.

    Example:
        >>> write_page([], "page.html")
        Traceback (most recent call last):
        TypeError: results: expected a mapping, as results.json holds, found list
    """
    from tokenmix.training.resume import write_text

    _check(results)
    texts = {name: _part(name) for name in ("page.html", "page.css", "page.js")}
    sections = {
        "findings": ("Findings", _findings(results)),
        "baseline": ("Changes", _baseline(results)),
        "results": ("Results", results_section(results)),
        "costs": ("Costs", costs_section(results)),
        "plots": ("Plots", plots_section(results)),
        "portraits": ("Portraits", portraits_section(results)),
        "tasks": ("Tasks", tasks_section(results)),
        "skipped": ("Skipped", skipped_section(results)),
        "method": ("How it was measured", method_section(results)),
        "raw": ("Data", _RAW),
    }
    sections = {key: (title, inside) for key, (title, inside) in sections.items() if inside}
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, (title, _) in sections.items())
    heading = f"{listed(list(results['stacks']))} on {listed(list(results['tasks']))}"
    script = texts["page.js"].strip()
    values = {
        "title": f"{esc(heading)} · tokenmix compare",
        "heading": esc(heading),
        "lead": _lead(results),
        "links": f"<ul>{links}</ul>",
        "sections": "\n".join(_section(key, *pair, _notes(results).get(key, "")) for key, pair in sections.items()),
        "data": json.dumps(plain(dict(results)), ensure_ascii=False, default=str).replace("<", "\\u003c"),
        "style": texts["page.css"].strip(),
        "script": script,
        "hash": f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    }
    path = Path(path)
    write_text(path, re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], texts["page.html"]))
    return path


def _check(results: Results) -> None:
    if not isinstance(results, Mapping):
        raise TypeError(f"results: expected a mapping, as results.json holds, found {type(results).__name__}")
    if results.get("format", 1) != 1:
        raise ValueError(f"results: expected format 1, found {results['format']!r}")
    missing = [key for key in ("tasks", "stacks", "runs", "summary") if key not in results]
    if missing:
        raise ValueError(f"results: expected tasks, stacks, runs and summary, found no {listed(missing)}")


def _part(name: str) -> str:
    return resources.files("tokenmix.compare").joinpath("page", name).read_text(encoding="utf-8")


def _section(key: str, title: str, inside: str, note: str) -> str:
    below = f'<p class="note">{esc(note)}</p>' if note else ""
    return (
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>{below}{inside}</section>'
    )


def _notes(results: Results) -> dict[str, str]:
    costs, baseline = results.get("costs") or {}, results.get("baseline") or {}
    return {
        "results": "Each row opens: its runs, the command that makes each again, and the config they came from.",
        "baseline": f"Against {baseline.get('path')}: mean over seeds, plus or minus one standard deviation.",
        "costs": f"× ref. is divided by {costs.get('reference')} at the same length: the median over "
        f"{_counted(costs.get('rounds'), 'round')} on {_counted(costs.get('threads'), 'thread')}. "
        "State is what decoding keeps after that many tokens; memory is the peak above what the weights take. "
        "First call is the first forward at that length, with all that is set up on the way; it is in no other time.",
        "portraits": "What each untrained stack does, found by trying: which tokens an output reads, and the laws.",
    }


_RAW = (
    '<p>All numbers of this page, with every run: <a class="download" download="results.json" href="#data">Download '
    'results.json</a></p><noscript><p class="note">They stand at the end of this file, as JSON.</p></noscript>'
)

# ---------------------------------------------------------------------- sections


def _lead(results: Results) -> str:
    runs, about = results["runs"], results.get("environment") or {}
    took = f", in {seconds_text(about['seconds'])}" if known(about.get("seconds")) else ""
    counts = (
        _counted(len(results["stacks"]), "stack"),
        _counted(len(results["tasks"]), "task"),
        _counted(len(runs), "run"),
    )
    lead = "{} on {}: {}{}{}.".format(*counts, _grid(results), took)
    shown = {str(key): esc(value) for key, value in about.items() if value is not None and key != "seconds"}
    return f'<p class="lead">{lead}</p><p>{command(results.get("command", ""))}</p>{pairs(shown)}'


def _grid(results: Results) -> str:
    """How many learning rates and seeds a stack was really run with on a task."""
    tried: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in results["runs"]:
        tried.setdefault((run["task"], run["stack"]), []).append(run)
    if not tried:
        return ""
    several = []
    for key in ("learning_rate", "seed"):
        counts = [len({run[key] for run in mine}) for mine in tried.values()]
        upto = "up to " if min(counts) < max(counts) else ""
        several.append(f"{upto}{_counted(max(counts), key.replace('_', ' '))}")
    if ((results.get("config") or {}).get("protocol") or {}).get("search") == "first seed":
        return f", for a stack and task {several[0]} with the first seed, and the best of them with {several[1]}"
    return f", for a stack and task {several[0]} with {several[1]} each"


def _counted(count: Any, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _findings(results: Results) -> str:
    parts = []
    for heading, sentences in group_findings(results.get("findings") or [], results["tasks"]).items():
        items = "".join(f"<li>{esc(sentence)}</li>" for sentence in sentences)
        listing = f'<ul class="findings">{items}</ul>'
        if heading == "Grounds":
            summary = f"Grounds: {_counted(len(sentences), 'thing')} that these rest on"
            parts.append(f'<details class="origin"><summary>{summary}</summary>{listing}</details>')
        else:
            parts.append((f"<h3>{esc(heading)}</h3>" if heading else "") + listing)
    return "".join(parts)


def _baseline(results: Results) -> str:
    rows = (results.get("baseline") or {}).get("rows", [])
    columns = [Column("Task"), Column("Stack"), Column("Before", True), Column("Now", True), Column("Change", True)]
    bodies = [
        body(
            [
                cell(esc(row["task"])),
                f'<th scope="row">{stack_name(row["stack"], stack_styles(results))}</th>',
                cell(with_spread(row.get("before"), row.get("before_spread")), row.get("before"), numeric=True),
                cell(with_spread(row.get("after"), row.get("after_spread")), row.get("after"), numeric=True),
                number(f"{x:+.3f}".replace("-", "−") if known(x := row.get("change")) else "–", row.get("change")),
                cell(f"{verdict(row.get('verdict'), _CHANGES)} {esc(row.get('note') or '')}"),
            ]
        )
        for row in rows
    ]
    return table([*columns, Column("Verdict")], bodies, "Changes", kind="sortable") if rows else ""
