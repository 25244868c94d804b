"""Python files below a folder."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

# of the standard library: tests, caches, and other people's packages
NOT_ITS_OWN = frozenset(("site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"))


def python_files(root: Path, skipped: Collection[str] = NOT_ITS_OWN) -> list[tuple[str, Path]]:
    """(Name relative to the root, path) of every Python file, in the order of a sorted walk.

    Args:
        root: where the walk begins; a link to a folder is not followed.
        skipped: names of folders that it does not enter.

    Example:
        >>> [name for name, _ in python_files(Path(__file__).parent) if name.startswith("source")]
        ['source_files.py']
    """
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if name not in skipped)
        paths = [Path(folder, name) for name in sorted(names) if name.endswith(".py")]
        found += [(path.relative_to(root).as_posix(), path) for path in paths if path.is_file()]
    return found
