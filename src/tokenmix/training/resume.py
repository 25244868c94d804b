"""Exact resume: which checkpoint is whole, and whether a folder belongs to this run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any


def last_complete_checkpoint(folder: str | os.PathLike[str]) -> Path | None:
    """The newest checkpoint that was written to its end; unfinished ones are removed.

    The Trainer writes `trainer_state.json` last, so a checkpoint without it was cut off by a kill.

    Args:
        folder: the Trainer's output folder.

    Returns:
        Path of `checkpoint-N`, or None.
    """
    complete = {}
    for path in Path(folder).glob("checkpoint-*"):
        step = path.name.removeprefix("checkpoint-")
        if not step.isdigit():
            continue
        if _is_whole(path):
            complete[int(step)] = path
        else:
            shutil.rmtree(path)
    return complete[max(complete)] if complete else None


def claim_folder(folder: str | os.PathLike[str], config: str, name: str = "config.yaml") -> None:
    """Write the resolved configuration into a run's folder, or check that it is the one already there.

    Args:
        folder: the run's output folder; made if it is not there.
        config: the resolved configuration as text.
        name: file to keep it in.

    Raises:
        ValueError: if the folder holds a run of another configuration; the message shows the first difference.
    """
    check_folder(folder, config, name)
    path = Path(folder) / name
    if not path.exists():
        write_text(path, config)


def check_folder(folder: str | os.PathLike[str], config: str, name: str = "config.yaml") -> None:
    """As `claim_folder`, but nothing is written: for before data are loaded, which may show that a setting is wrong.

    Raises:
        ValueError: as `claim_folder`.
    """
    path = Path(folder) / name
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        if other := setting_differences(text, config):
            raise ValueError(f"output: {folder} holds a run with {other[0]}; {_ADVICE}")
        return
    before, now = text.splitlines(), config.splitlines()
    for old, new in zip(before, now, strict=False):
        if old != new:
            raise ValueError(f"output: {folder} holds a run with {old.strip()!r}, found {new.strip()!r}; {_ADVICE}")
    if len(before) != len(now):
        raise ValueError(f"output: {folder} holds a run with other settings; {_ADVICE}")


def setting_differences(there: str, here: str) -> list[str]:
    """Where two configurations in JSON differ, in the order of the second.

    Example:
        >>> setting_differences('{"a": {"b": 1}}', '{"a": {"b": 2}, "c": 3}')
        ['a.b=1, found a.b=2', 'c=nothing, found c=3']
    """
    old, new = flat_settings(json.loads(there)), flat_settings(json.loads(here))
    values = {key: [repr(x[key]) if key in x else "nothing" for x in (old, new)] for key in {**new, **old}}
    return [f"{key}={before}, found {key}={now}" for key, (before, now) in values.items() if before != now]


def flat_settings(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested settings, under their whole names.

    Example:
        >>> flat_settings({"a": {"b": 1}, "c": 2})
        {'a.b': 1, 'c': 2}
    """
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    return {name: leaf for key, value in tree.items() for name, leaf in flat_settings(value, f"{prefix}{key}.").items()}


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, so that a kill leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


_ADVICE = "choose another --output, or delete that folder to start anew"


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True
