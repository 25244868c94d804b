"""Which numbers of a comparison rest on something broken: a look at the future, or a law that a mixer does not keep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Results = Mapping[str, Any]
DECODING = (4, 5)  # causality and streaming: without them a state and its step are no decoder's


class Broken(NamedTuple):
    """Laws that one mixer breaks.

    Attributes:
        mixer: such as "c (gam, slots 1)".
        laws: such as ["5 (streaming)"].
        stacks: that it is in.
    """

    mixer: str
    laws: list[str]
    stacks: list[str]


def reads_future(results: Results, stack: str) -> Literal["", "declared", "found"]:
    """Whether a portrait saw a stack read the future, and whether its mixers had said so.

    Example:
        >>> reads_future({"portraits": {"x": {"reads_future": True, "says_causal": True}}}, "x")
        'found'
    """
    portrait = (results.get("portraits") or {}).get(stack) or {}
    if not portrait.get("reads_future"):
        return ""
    return "found" if portrait.get("says_causal", True) else "declared"


def is_worthless(results: Results, task: str, stack: str) -> bool:
    """Whether a stack reads the future on a task whose answers that gives away."""
    return bool(results["tasks"][task].get("needs_causal")) and reads_future(results, stack) != ""


def broken_laws(results: Results) -> list[Broken]:
    """The mixers that break laws, each once, whatever stacks it is in."""
    found: dict[str, Broken] = {}
    for stack, portrait in (results.get("portraits") or {}).items():
        for description, verdicts in (portrait.get("laws") or {}).items():
            laws = [f"{law['number']} ({law['law']})" for law in verdicts if law["status"] == "broken"]
            if laws:
                mixer = mixer_name(results, stack, description)
                found.setdefault(mixer, Broken(mixer, laws, [])).stacks.append(stack)
    return list(found.values())


def broken_decoding(results: Results, stack: str) -> list[str]:
    """The laws without which a stack's state and decoding step mean nothing, and that one of its mixers breaks.

    Example:
        >>> verdict = {"number": 5, "law": "streaming", "status": "broken"}
        >>> broken_decoding({"portraits": {"x": {"laws": {"{}": [verdict]}}}}, "x")
        ['streaming']
    """
    laws = ((results.get("portraits") or {}).get(stack) or {}).get("laws") or {}
    broken = (law for verdicts in laws.values() for law in verdicts if law["status"] == "broken")
    return list(dict.fromkeys(law["law"] for law in broken if law["number"] in DECODING))


def mixer_name(results: Results, stack: str, description: str) -> str:
    """A mixer of a stack by its letter in the pattern, its name and its options.

    Args:
        results: with "stacks".
        stack: whose mixer.
        description: JSON, the key of the portrait's "laws".

    Example:
        >>> spec = {"mixer": "gam", "slots": 1}
        >>> mixer_name({"stacks": {"x": {"mixers": {"c": spec}}}}, "x", json.dumps(spec))
        'c (gam, slots 1)'
    """
    try:
        spec = json.loads(description)
    except ValueError:
        return description
    if not isinstance(spec, dict) or "mixer" not in spec:
        return description
    options = [f"{key} {value}" for key, value in spec.items() if key != "mixer"]
    named = ", ".join([str(spec["mixer"]), *options])
    mixers = ((results.get("stacks") or {}).get(stack) or {}).get("mixers") or {}
    letters = [letter for letter, mixer in mixers.items() if json.dumps(dict(mixer), default=str) == description]
    return f"{letters[0]} ({named})" if letters else named
