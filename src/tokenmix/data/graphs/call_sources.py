"""Call graphs of the standard library and of installed packages, kept in a cache folder once they are built."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tokenmix.data.graphs.call_graph import build_call_graph
from tokenmix.data.graphs.node_data import NodeData
from tokenmix.data.graphs.word_graphs import data_of_arrays, read_arrays
from tokenmix.data.source_files import python_files
from tokenmix.kernels.build import cache_folders

PACKAGES = ("torch", "transformers", "torch_geometric", "numpy", "sympy", "networkx", "datasets", "torchaudio")
_ARRAYS = ("y", "edge", "feat_indptr", "feat_index", "classes", "vocab")
_FORMAT = 1  # goes up when the arrays of the same files change


def stdlib_calls(
    root: Path | None = None, *, split_seed: int = 0, module_names: bool = False, workers: int = 1
) -> NodeData:
    """The call graph of the running Python's standard library: a node is a function, the class its top module.

    An edge joins a function and those (at most three) whose name it calls. Features are the 4,096 most frequent words
    of identifiers. Modules of fewer than 60 functions are left out.

    Args:
        root: where the graph is kept; the user's cache folder by default.
        split_seed: of the random 50/25/25 split.
        module_names: let identifiers that are the name of a top module give features. They give labels away.
        workers: processes that read the files; more than one needs a script that starts under
            `if __name__ == "__main__"`.

    Returns:
        13,604 nodes and 20,293 undirected edges in 59 classes for Python 3.11.7.

    Raises:
        FileNotFoundError: this Python was installed without the source of its library.

    Source: data_cards/call_graphs.md.

    Example:
        >>> stdlib_calls().graph.num_nodes > 10_000  # doctest: +SKIP
        True
    """
    files = [(str(path), name.split("/")[0].removesuffix(".py")) for name, path in _library()]
    source = f"standard library of Python {platform.python_version()}"
    return _load("stdlib_calls", files, 60, root, split_seed, module_names, workers, source)


def package_calls(
    root: Path | None = None,
    *,
    packages: Sequence[str] | None = None,
    split_seed: int = 0,
    module_names: bool = False,
    smallest_class: int = 300,
    workers: int = 1,
) -> NodeData:
    """The call graph of installed packages with the standard library: classes are `torch.nn`, …, and `stdlib`.

    Args:
        root: where the graph is kept; the user's cache folder by default.
        packages: import names; by default those of `PACKAGES` that are installed. None of them is imported.
        split_seed: of the random 50/25/25 split.
        module_names: let identifiers that are a name in a class give features.
        smallest_class: functions of a class at least.
        workers: processes, see `stdlib_calls`.

    Returns:
        About 125,000 nodes with all of `PACKAGES`. It depends on their versions, which `source` tells.

    Raises:
        FileNotFoundError: a package is not installed.

    Source: data_cards/call_graphs.md.
    """
    places = {name: _package_folder(name) for name in (PACKAGES if packages is None else packages)}
    absent = [name for name, place in places.items() if place is None]
    if absent and packages is not None:
        raise FileNotFoundError(
            f"packages: expected installed packages, found no {', '.join(absent)}; pip install them"
        )
    files = []
    for package, place in places.items():
        if place is not None:
            inside = python_files(place)
            files += [(str(path), f"{package}.{name.split('/')[0].removesuffix('.py')}") for name, path in inside]
    files += [(str(path), "stdlib") for _, path in _library()]
    versions = ", ".join(f"{name} {_version(name)}" for name, place in places.items() if place is not None)
    source = f"{versions or 'no packages'}, standard library of Python {platform.python_version()}"
    return _load("package_calls", files, smallest_class, root, split_seed, module_names, workers, source)


def _load(
    name: str,
    files: list[tuple[str, str]],
    smallest: int,
    root: Path | None,
    split_seed: int,
    module_names: bool,
    workers: int,
    source: str,
) -> NodeData:
    dropped = set() if module_names else {part.lower().strip("_") for _, label in files for part in label.split(".")}
    dropped -= {"", "init"}
    state = [str(_FORMAT), source, str(smallest), str(sorted(dropped))]
    state += [f"{path} {label} {os.path.getsize(path)}" for path, label in files]
    key = hashlib.sha256("\0".join(state).encode()).hexdigest()[:16]
    folder = _cache_folder(root)
    path = None if folder is None else folder / f"{name}-{key}.npz"
    arrays = None
    if path is not None and path.is_file():
        try:
            arrays = read_arrays(path, _ARRAYS)
        except ValueError:  # damaged: it is built again
            arrays = None
    if arrays is None:
        arrays = build_call_graph(files, dropped=dropped, smallest_class=smallest, workers=workers)
        if path is not None:
            _write(path, arrays)
    names = "with" if module_names else "without"
    return data_of_arrays(name, arrays, split_seed, f"{source}, {names} names of modules as features")


def _cache_folder(root: Path | None) -> Path | None:
    """A folder that can be written, if there is one."""
    for folder in [root] if root is not None else cache_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """All of it, or nothing."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # of numpy's own types
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def _library() -> list[tuple[str, Path]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = python_files(root)
    if not files:
        raise FileNotFoundError(f"root: expected the source of Python's standard library in {root}, found none")
    return files


def _package_folder(name: str) -> Path | None:
    """Where a package lies; a top-level one is found without being imported."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(found.origin).parent if found and found.origin and found.submodule_search_locations else None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"
