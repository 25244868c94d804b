"""What a report says of costs: how they grow, what they are beside the reference, and what a state takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenmix.compare.formats import listed
from tokenmix.compare.trust import broken_decoding

Results = Mapping[str, Any]
FLAT, LINEAR = 0.1, 1.25  # growth exponents up to which a cost counts as flat, as linear
ENOUGH, FAR = 4, 2048  # lengths, and the longest of them, from which growth can be told


def about_costs(results: Results) -> list[str]:
    """Sentences about growth and ratios of FLOPs, time and memory."""
    return [*_growth(results), *_ratios(results)]


def can_tell_growth(results: Results, stack: str) -> bool:
    """Whether a stack was measured at enough lengths, and long enough ones, to say how its cost grows.

    Example:
        >>> rows = [{"stack": "x", "length": length} for length in (64, 128)]
        >>> can_tell_growth({"costs": {"rows": rows}}, "x")
        False
    """
    rows = (results.get("costs") or {}).get("rows") or []
    lengths = [row["length"] for row in rows if row["stack"] == stack and "error" not in row]
    return len(lengths) >= ENOUGH and max(lengths) >= FAR


def unmeasured_growth(results: Results) -> Iterable[str]:
    """Why nothing is said of how costs grow, where nothing is."""
    rows = (results.get("costs") or {}).get("rows") or []
    stacks = list(dict.fromkeys(row["stack"] for row in rows))
    short = [stack for stack in stacks if not can_tell_growth(results, stack)]
    if short:
        lengths = sorted({row["length"] for row in rows if row["stack"] in short and "error" not in row})
        where = f"at {listed(lengths)} tokens" if lengths else "at no length"
        whose = "" if short == stacks else f" of {listed(short)}"
        yield (
            f"how costs{whose} grow is not said: they were measured {where}, and it takes {ENOUGH} lengths and "
            f"{FAR} tokens to tell what is linear from what is not."
        )


def _growth(results: Results) -> Iterable[str]:
    costs = results.get("costs") or {}
    growth = {stack: found for stack, found in (costs.get("growth") or {}).items() if can_tell_growth(results, stack)}
    for key, what in (("flops", "the FLOPs of a forward grow"), ("forward_seconds", "the time of a forward grows")):
        slopes = {stack: found[key] for stack, found in growth.items() if found.get(key) is not None}
        if not slopes:
            continue
        linear = [f"{stack} (L^{slope:.2f})" for stack, slope in slopes.items() if slope <= LINEAR]
        steep = [f"{stack} (L^{slope:.2f})" for stack, slope in slopes.items() if slope > LINEAR]
        longest = max(row["length"] for row in costs["rows"] if row["stack"] in slopes)
        told = [f"linearly or less for {listed(linear)}"] if linear else []
        told += [f"faster for {listed(steep)}"] if steep else []
        yield f"up to {longest} tokens, over the upper half of the lengths, {what} {', '.join(told)}."


def _ratios(results: Results) -> Iterable[str]:
    costs = results.get("costs") or {}
    rows = [row for row in costs.get("rows") or [] if row.get("forward_ratio") is not None]
    if not rows:
        return
    longest, reference = max(row["length"] for row in rows), costs["reference"]
    rows = [row for row in rows if row["length"] == longest and row["stack"] != reference]
    told = [_ratio(row, "forward_ratio", "forward_bytes_ratio") for row in rows]
    if told:
        yield f"a forward's time (and peak memory) at {longest} tokens, with {reference}'s as 1: {listed(told)}."
    steps = [row for row in rows if row.get("step_ratio") is not None and not broken_decoding(results, row["stack"])]
    if steps and not broken_decoding(results, reference):
        told = [_ratio(row, "step_ratio") for row in steps]
        yield f"a decoding step's time after {longest} tokens, with {reference}'s as 1: {listed(told)}."


def _ratio(row: Mapping[str, Any], key: str, beside: str = "") -> str:
    more = "" if row.get(beside) is None else f" ({row[beside]:.2g})"
    return f"{row['stack']} {row[key]:.2g}{more}"


def about_state(results: Results) -> list[str]:
    """Sentences about what decoding keeps, and about whom it would be wrong to say such a thing."""
    costs = results.get("costs") or {}
    flat: list[str] = []
    growing: list[str] = []
    lengths: set[int] = set()
    left_out: dict[tuple[str, ...], list[str]] = {}
    for stack, found in (costs.get("growth") or {}).items():
        rows = [r for r in costs["rows"] if r["stack"] == stack and r.get("state_bytes") is not None]
        if not rows or found.get("state_bytes") is None:
            continue
        if laws := broken_decoding(results, stack):
            left_out.setdefault(tuple(laws), []).append(stack)
            continue
        last = max(rows, key=lambda row: row["length"])
        lengths |= {row["length"] for row in rows}
        (flat if found["state_bytes"] <= FLAT else growing).append(f"{stack} ({last['state_bytes']:,} bytes)")
    between = f"from {min(lengths)} to {max(lengths)} tokens" if lengths else ""
    said = []
    if flat:
        said.append(f"{between}, what is kept to decode does not grow with the length for {listed(flat)}.")
    if growing:
        said.append(f"{between}, it grows for {listed(growing)}, at the longest.")
    return said + [_left_out(laws, stacks) for laws, stacks in left_out.items()]


def _left_out(laws: Sequence[str], stacks: Sequence[str]) -> str:
    verb = "breaks" if len(stacks) == 1 else "break"
    kind = "the law" if len(laws) == 1 else "the laws"
    return (
        f"nothing is said of {listed(stacks)}, in state or decoding step: what {verb} {kind} of {listed(laws)} "
        "does not decode what it was trained to."
    )
