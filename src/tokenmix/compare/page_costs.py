"""The table of costs on a comparison's page, with ratios to the reference, and how they grow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenmix.compare.findings_costs import can_tell_growth
from tokenmix.compare.formats import bytes_text, count_text, known, large_text, listed, ratio_text, seconds_text
from tokenmix.compare.markup import Column, body, cell, esc, filters, number, origin, stack_name, table
from tokenmix.compare.page_tables import verdict
from tokenmix.compare.plot_parts import stack_styles
from tokenmix.compare.trust import broken_decoding

Results = Mapping[str, Any]
_COSTS = {  # the field, its ratio, the heading, how it is written
    "forward_seconds": ("forward_ratio", "Forward", seconds_text),
    "train_seconds": ("train_ratio", "Training step", seconds_text),
    "step_seconds": ("step_ratio", "Decoding step", seconds_text),
    "forward_bytes": ("forward_bytes_ratio", "Forward memory", bytes_text),
    "train_bytes": ("train_bytes_ratio", "Training memory", bytes_text),
}
_GROWTH = {"flops": "FLOPs", **{key: names[1] for key, names in _COSTS.items()}, "state_bytes": "State"}


def costs_section(results: Results) -> str:
    """The table of costs with ratios to the reference, and the growth exponents; nothing where none were measured."""
    costs = results.get("costs") or {}
    rows, styles = costs.get("rows", []), stack_styles(results)
    if not rows:
        return ""
    reference = costs.get("reference", "the reference")
    columns = [Column("Stack"), Column("Tokens", True), Column("FLOPs", True), Column("State", True)]
    for _, heading, _ in _COSTS.values():
        columns += [Column(heading, True), Column("× ref.", True, f"{heading}, divided by that of {reference}")]
    columns.append(Column("First call", True, "First call: time of the first forward, warm-up included"))
    bodies = []
    for row in rows:
        cells = [
            f'<th scope="row">{stack_name(row["stack"], styles)}</th>',
            number(count_text(row["length"]), row["length"]),
        ]
        if row.get("error"):
            cells.append(
                f'<td colspan="{len(columns) - 2}">{verdict("failed", {"failed": "bad"})} {esc(row["error"])}</td>'
            )
        else:
            cells += [number(large_text(row.get("flops")), row.get("flops"))]
            broken = broken_decoding(results, row["stack"])
            cells += [_state(row, broken)]
            for key, (ratio, _, text) in _COSTS.items():
                decoded = key == "step_seconds"
                value = None if decoded and broken else row.get(key)
                beside = None if decoded and (broken or broken_decoding(results, reference)) else row.get(ratio)
                cells += [number(text(value), value), cell(ratio_text(beside), beside, numeric=True, kind="ratio")]
            cells += [number(seconds_text(row.get("warmup_seconds")), row.get("warmup_seconds"))]
        bodies.append(body(cells, stack=row["stack"], tokens=str(row["length"])))
    choices = {"stack": [row["stack"] for row in rows], "tokens": sorted({row["length"] for row in rows})}
    found = filters("costs", choices, "such as mamba") + table(columns, bodies, "Costs by length", kind="sortable")
    growth = {name: slopes for name, slopes in (costs.get("growth") or {}).items() if can_tell_growth(results, name)}
    return found + _growth(growth, styles) + origin(results, "costs")


def _state(row: Mapping[str, Any], broken: list[str]) -> str:
    """What decoding keeps, or the law without which that means nothing."""
    if broken:
        return cell(verdict(f"breaks {listed(broken)}", {f"breaks {listed(broken)}": "bad"}), numeric=True)
    return number(bytes_text(row.get("state_bytes")), row.get("state_bytes"))


def _growth(growth: Mapping[str, Any], styles: Mapping[str, Any]) -> str:
    keys = [key for key in _GROWTH if any(known(slopes.get(key)) for slopes in growth.values())]
    if not keys:
        return ""
    bodies = [
        body(
            [
                f'<th scope="row">{stack_name(stack, styles)}</th>',
                *(number(f"{x:.2f}" if known(x := slopes.get(key)) else "–", slopes.get(key)) for key in keys),
            ]
        )
        for stack, slopes in growth.items()
    ]
    columns = [Column("Stack"), *(Column(_GROWTH[key], True) for key in keys)]
    note = "Cost grows as length to this power, over the upper half of the lengths: 0 is flat, 1 linear, 2 quadratic."
    grown = table(columns, bodies, "Growth exponents", kind="sortable small")
    return f'<h3>Growth exponents</h3><p class="note">{note}</p>{grown}'
