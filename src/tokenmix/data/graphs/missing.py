"""One message for files of a graph that are not there, and one for those whose content does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

DOWNLOAD = "root=FOLDER, download=True"  # what a user passes to have files fetched


def find_folder(name: str, root: str | Path | None, inner: Sequence[str], files: Sequence[str], remedy: str) -> Path:
    """The folder, `root` or one inside it, that holds all files of a data set.

    Args:
        name: of the data set.
        root: where the user says it is.
        inner: folders inside `root` that are tried after it, such as "Cora/raw".
        files: names that must be there.
        remedy: what would bring them.

    Raises:
        FileNotFoundError: some are missing; the message lists what was expected where, and what would mend it.

    Example:
        >>> find_folder("tiny", "/nowhere", ["raw"], ["a.npz"], "copy it there")
        Traceback (most recent call last):
        ...
        FileNotFoundError: root: tiny expected a.npz in /nowhere or /nowhere/raw, found no such folder; copy it there
    """
    if root is None:
        raise FileNotFoundError(f"root: {name} expected a folder with {', '.join(files)}, found none given; {remedy}")
    places = [Path(root), *(Path(root) / folder for folder in inner)]
    missing = {place: [file for file in files if not (place / file).is_file()] for place in places}
    for place, absent in missing.items():
        if not absent:
            return place
    nearest = min((place for place in places if place.is_dir()), key=lambda place: len(missing[place]), default=None)
    found = "no such folder" if nearest is None else f"no {', '.join(missing[nearest])} in {nearest}"
    expected = f"{', '.join(files)} in {' or '.join(map(str, places))}"
    raise FileNotFoundError(f"root: {name} expected {expected}, found {found}; {remedy}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What fails in here fails because of a file: the error names it.

    Args:
        path: of the file.

    Raises:
        ValueError: for every error of data, whatever its kind. Arguments are checked before.

    Example:
        >>> with reading(Path("a.npz")):
        ...     [1, 2][3]
        Traceback (most recent call last):
        ...
        ValueError: a.npz: expected the arrays of its data set, found IndexError: list index out of range
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        told = str(error)
        if (isinstance(error, ValueError) and str(path) in told) or "memory" in told:
            raise  # it is named, or no file's fault
        if not (isinstance(error, ValueError) and ": expected " in told):
            told = f"expected the arrays of its data set, found {type(error).__name__}: {told}"
        raise ValueError(f"{path}: {told}") from error
