"""One message for data that is not there."""

from __future__ import annotations

from pathlib import Path


def require_folder(name: str, folder: str | Path | None, remedy: str, default: Path | None = None) -> Path:
    """The folder of a data set.

    Args:
        name: of the data set.
        folder: where the user says it is.
        remedy: what would bring it.
        default: where it is if the user says nothing.

    Raises:
        FileNotFoundError: it is not there; the message says what would mend it.
    """
    root = Path(folder) if folder is not None else default
    if root is None or not root.is_dir():
        found = "none" if root is None else f"nothing at {root}"
        raise FileNotFoundError(
            f"folder: {name} expected a folder, found {found}; {remedy}, or give its place as folder"
        )
    return root
