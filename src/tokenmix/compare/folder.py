"""The folder of a comparison: whose it is, which runs in it have other settings, and what results it holds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tokenmix.compare.config import CompareConfig
from tokenmix.compare.trial import Trial

FORMAT = 1


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make a folder, and refuse one that cannot be written to, or that another process is writing to.

    Raises:
        ValueError: with the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w", encoding="utf-8")  # noqa: SIM115  # closed below
    except (FileExistsError, NotADirectoryError) as error:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        raise ValueError(f"output: expected a folder, found the file {there}") from error
    except OSError as error:
        raise ValueError(f"output: expected a folder to write to, found {folder} ({error.strerror})") from error
    with file:
        _lock(file, folder)
        yield


def _lock(file: TextIO, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on this system
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ValueError(f"output: another process is running a comparison in {folder}") from error


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """results.json of a comparison, from the file or its folder.

    Raises:
        ValueError: no file, or one of another kind.
    """
    file = Path(path) / "results.json" if Path(path).is_dir() else Path(path)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["format"] != FORMAT or not isinstance(found["summary"], list):
            raise KeyError("format")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"baseline: expected results.json of a comparison, found {file} ({error})") from error
    return found


def check_settings(config: CompareConfig, trials: Sequence[Trial]) -> None:
    """Refuse a folder that holds some of these runs with other settings.

    Raises:
        ValueError: what differs, in how many runs, and the fewest folders that hold all of them and nothing else.
    """
    other = {trial: found for trial in trials if (found := trial.other_settings(config))}
    if not other:
        return
    kinds = list(dict.fromkeys(text for found in other.values() for text in found))
    more = f" and {len(kinds) - 2} more" if len(kinds) > 2 else ""
    first, count = next(iter(other)).name, len(other)
    runs = f"{first} holds a run" if count == 1 else f"{count} folders, such as {first}, hold runs"
    places = [str(path) for path in _covering(config, list(other))]
    raise ValueError(
        f"output: in {Path(config.output) / 'runs'}, {runs} with {'; '.join(kinds[:2])}{more}; choose another "
        f"--output, or delete {' and '.join(places)} to run anew what is in {'it' if len(places) == 1 else 'them'}"
    )


def _covering(config: CompareConfig, trials: Sequence[Trial]) -> list[Path]:
    """The fewest folders that hold these runs and no others; they lie three deep: task, stack, rate and seed."""
    root = Path(config.output) / "runs"
    wanted = {trial.folder(config) for trial in trials}

    def cover(folder: Path, depth: int) -> list[Path]:
        if depth == 0:
            return [folder] if folder in wanted else []
        inside = {path.parent for path in folder.glob("*/" * depth + "config.json")}
        if inside and inside <= wanted:
            return [folder]
        return [found for part in sorted(folder.iterdir()) if part.is_dir() for found in cover(part, depth - 1)]

    return cover(root, 3)
