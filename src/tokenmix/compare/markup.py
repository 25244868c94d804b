"""HTML of the page of a comparison: text made safe, tables whose rows can be sorted and filtered, small parts."""

from __future__ import annotations

import html
import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tokenmix.compare.formats import known
from tokenmix.compare.plot_parts import Style

_SHAPES = {  # the markers of the plots, in a square of 12
    "o": '<circle cx="6" cy="6" r="4.5"/>',
    "s": '<path d="M2 2h8v8H2z"/>',
    "^": '<path d="M6 1l5 9.5H1z"/>',
    "D": '<path d="M6 .8L11.2 6 6 11.2.8 6z"/>',
    "v": '<path d="M6 11L1 1.5h10z"/>',
    "P": '<path d="M4.2 1h3.6v3.2H11v3.6H7.8V11H4.2V7.8H1V4.2h3.2z"/>',
    "X": '<path d="M3.3 1L6 3.7 8.7 1 11 3.3 8.3 6 11 8.7 8.7 11 6 8.3 3.3 11 1 8.7 3.7 6 1 3.3z"/>',
}


class Column(NamedTuple):
    """A column of a table: its heading, whether it holds numbers, and what the heading means where it is short."""

    heading: str
    numeric: bool = False
    meaning: str = ""


def esc(value: Any) -> str:
    """Text as HTML that shows it, in an element or an attribute.

    Example:
        >>> esc('<b a="1">')
        '&lt;b a=&quot;1&quot;&gt;'
    """
    return html.escape(str(value), quote=True)


def cell(text: str, value: Any = None, *, numeric: bool = False, kind: str = "") -> str:
    """A cell of a table.

    Args:
        text: HTML.
        value: what a numeric cell is sorted by; unknown ones come last.
        numeric: whether it stands in a column of numbers.
        kind: a class.

    Example:
        >>> cell("1,024", 1024, numeric=True)
        '<td class="number" data-value="1024">1,024</td>'
    """
    classes = " ".join(filter(None, ("number" if numeric else "", kind)))
    sort = f' data-value="{value if known(value) else ""}"' if numeric else ""
    return f"<td{_attributes({'class': classes})}{sort}>{text}</td>"


def number(text: str, value: Any) -> str:
    """A cell of a number."""
    return cell(esc(text), value, numeric=True)


def table(columns: Sequence[Column], bodies: Iterable[str], caption: str, *, kind: str = "") -> str:
    """A table in a frame that scrolls sideways where the screen is narrow.

    Args:
        columns: headings.
        bodies: a <tbody> a record, of which the first row is sorted by; from `body`.
        caption: text for readers of screens.
        kind: class, "sortable" for headings that sort.
    """
    heads = ""
    for column in columns:
        kinds = {"class": "number" * column.numeric, "title": column.meaning, "aria-label": column.meaning}
        heads += f'<th scope="col"{_attributes(kinds)}>{esc(column.heading)}</th>'
    wide = {"role": "region", "tabindex": "0", "aria-label": caption} if kind in ("sortable", "runs") else {}
    frame = _attributes({"class": "frame", **wide})
    return (
        f"<div{frame}><table{_attributes({'class': kind})}>"
        f'<caption class="unseen">{esc(caption)}</caption><thead><tr>{heads}</tr></thead>'
        f"{''.join(bodies)}</table></div>"
    )


def body(cells: Iterable[str], detail: str = "", *, columns: int = 0, kind: str = "", **data: str) -> str:
    """A record of a table: its row, and below it what opens.

    Args:
        cells: of the row.
        detail: HTML of a row across all columns; none for no such row.
        columns: how many there are.
        kind: class of the record.
        data: what it is filtered by, as data- attributes.
    """
    marks = _attributes({"class": kind, **{f"data-{key}": value for key, value in data.items()}})
    below = f'<tr class="detail"><td colspan="{columns}">{detail}</td></tr>' if detail else ""
    return f"<tbody{marks}><tr>{''.join(cells)}</tr>{below}</tbody>"


def filters(target: str, choices: Mapping[str, Iterable[Any]], placeholder: str) -> str:
    """A text box, a list for each key that records are filtered by, and how many are shown.

    Args:
        target: id of the section whose table is filtered.
        choices: values by key of the records' data.
        placeholder: an example for the text box.
    """
    boxes = "".join(
        f'<label>{esc(key.capitalize())} <select data-key="{esc(key)}"><option value="">all</option>'
        f"{''.join(f'<option>{esc(value)}</option>' for value in dict.fromkeys(values))}</select></label>"
        for key, values in choices.items()
    )
    text = f'<label>Find <input type="search" placeholder="{esc(placeholder)}" autocomplete="off"></label>'
    return f'<form class="filters" data-target="{target}">{text}{boxes}<output aria-live="polite"></output></form>'


def stack_name(name: str, styles: Mapping[str, Style]) -> str:
    """A stack's name behind its marker in the plots."""
    style = styles.get(name)
    if style is None:
        return esc(name)
    shape = _SHAPES.get(style.marker, _SHAPES["o"])
    mark = f'<svg class="mark" viewBox="0 0 12 12" fill="{style.colour}" aria-hidden="true">{shape}</svg>'
    return f'<span class="stack">{mark}{esc(name)}</span>'


def pairs(items: Mapping[str, str], kind: str = "facts") -> str:
    """A list of names and what they are; the values are HTML."""
    inside = "".join(f"<div><dt>{esc(key)}</dt><dd>{value}</dd></div>" for key, value in items.items())
    return f'<dl class="{kind}">{inside}</dl>'


def command(text: Any) -> str:
    """A command, which the page's script gives a button that copies it."""
    return f'<code class="command">{esc(text)}</code>'


def prose(text: str) -> str:
    r"""Paragraphs of a docstring; indented ones keep their lines.

    Example:
        >>> prose("One\nsentence.\n\n    x = 1")
        '<p>One sentence.</p><pre>x = 1</pre>'
    """
    parts = []
    for part in re.split(r"\n\s*\n", text.strip("\n")):
        lines = part.split("\n")
        indented = all(line.startswith("    ") or not line for line in lines)
        parts.append(
            f"<pre>{esc(textwrap.dedent(part))}</pre>" if indented else f"<p>{esc(' '.join(part.split()))}</p>"
        )
    return "".join(parts)


def config(tree: Any, summary: str) -> str:
    """A part of the config, folded."""
    return f"<details><summary>{esc(summary)}</summary>{config_text(tree)}</details>"


def origin(results: Mapping[str, Any], part: str) -> str:
    """The command and the config that the figures of a section came from, folded."""
    whole = results.get("config") or {}
    tree = {part: whole.get(part), "model": whole.get("model"), "stacks": results.get("stacks")}
    inside = f"<p>{command(results.get('command', ''))}</p>{config_text(tree)}"
    return f'<details class="origin"><summary>Command and config of these figures</summary>{inside}</details>'


def config_text(tree: Any) -> str:
    """A part of the config as JSON, short lists on one line."""
    return f'<pre class="config">{esc(_lines(tree, ""))}</pre>'


def _attributes(values: Mapping[str, str]) -> str:
    return "".join(f' {key}="{esc(value)}"' for key, value in values.items() if value)


def _lines(tree: Any, indent: str) -> str:
    flat = json.dumps(tree, ensure_ascii=False, default=str)
    if not isinstance(tree, (dict, list)) or not tree or len(indent) + len(flat) <= 72:
        return flat
    deeper = indent + "  "
    if isinstance(tree, dict):
        inside = [f"{deeper}{json.dumps(str(key))}: {_lines(value, deeper)}" for key, value in tree.items()]
        return "{\n" + ",\n".join(inside) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + _lines(value, deeper) for value in tree) + f"\n{indent}]"
