"""What got better and what got worse since an earlier comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenmix.compare.summary import beyond_spread
from tokenmix.training.resume import flat_settings


def against_baseline(results: Mapping[str, Any], earlier: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Each row of the table beside that of an earlier comparison.

    Args:
        results: of now, with "tasks" and "summary".
        earlier: results.json of then.
        path: of its file, for the report.

    Returns:
        {"path", "rows": [{"task", "stack", "before", "before_spread", "after", "after_spread", "change", "verdict",
        "note"}]}; the verdict is "better" or "worse" (beyond the spread, see `beyond_spread`), "within the spread",
        "one seed", "other task" where the task is not the same as it was, "new" or "gone". The note names settings that
        differ; where none does, equal code gives equal scores, and a change of any size comes from the code.
    """
    before = {(row["task"], row["stack"]): row for row in earlier["summary"]}
    after = {(row["task"], row["stack"]): row for row in results["summary"]}
    rows = [
        _compare(key, before.get(key), after.get(key), results, earlier) for key in dict.fromkeys([*after, *before])
    ]
    return {"path": path, "rows": rows}


def _compare(
    key: tuple[str, str], old: Any, new: Any, results: Mapping[str, Any], earlier: Mapping[str, Any]
) -> dict[str, Any]:
    task, stack = key
    row: dict[str, Any] = {"task": task, "stack": stack, "change": None, "note": ""}
    for when, found in (("before", old), ("after", new)):
        row |= {when: found and found["score"], f"{when}_spread": found and found["spread"]}
    if old is None or new is None:
        return row | {"verdict": "new" if old is None else "gone"}
    told = [found["tasks"][task].get("spec") for found in (earlier, results)]
    if told[0] != told[1]:
        return row | {"verdict": "other task", "note": f"it was {told[0]}, and is {told[1]}"}
    if not old["scores"] or not new["scores"]:
        return row | {"verdict": "failed", "note": "no learning rate with a score of every seed"}
    row["change"] = new["score"] - old["score"]
    row["note"] = _other_settings(task, stack, earlier, results)
    if old["scores"] == new["scores"]:
        return row | {"verdict": "within the spread", "note": row["note"] or "the same score of every seed"}
    apart = beyond_spread(old["scores"], new["scores"])
    if apart is None:
        return row | {"verdict": "one seed"}
    gained = (row["change"] > 0) == results["tasks"][task]["higher_is_better"]
    return row | {"verdict": ("better" if gained else "worse") if apart else "within the spread"}


def _other_settings(task: str, stack: str, earlier: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Which settings of a stack on a task differ, in words; empty where none does."""
    then, now = (flat_settings(_settings_of(task, stack, found.get("config") or {})) for found in (earlier, results))
    told = [
        f"{key} {then.get(key)} then, {now.get(key)} now" for key in {**then, **now} if then.get(key) != now.get(key)
    ]
    return f"settings: {', '.join(told)}" if told else ""


def _settings_of(task: str, stack: str, config: Mapping[str, Any]) -> dict[str, Any]:
    protocol = {**(config.get("protocol") or {}), **((config.get("tasks") or {}).get(task) or {}).get("training", {})}
    pattern = (config.get("stacks") or {}).get(stack, "")
    mixers = {letter: spec for letter, spec in (config.get("mixers") or {}).items() if letter in pattern}
    apart = ("workers", "save_seconds", "keep_weights", "reference")
    kept = {key: value for key, value in protocol.items() if key not in apart}
    return {"protocol": kept, "model": config.get("model") or {}, "mixers": mixers, "pattern": pattern}
