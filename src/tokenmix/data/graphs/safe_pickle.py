"""Old pickles of arrays, read without running anything that is in them."""

from __future__ import annotations

import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


class SparseRows:
    """What the pickle of a scipy.sparse.csr_matrix holds: `indptr`, `indices`, `data`, `_shape` or `shape`."""

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.__dict__.get("_shape", self.__dict__.get("shape", (0, 0)))
        return int(rows), int(columns)


def _latin1(text: str, codec: str = "latin1") -> bytes:
    """The one thing that pickles of Python 3 in protocol 2 need of `_codecs.encode`."""
    if codec not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"codec {codec!r} is not read")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    **{
        (f"numpy.{core}.multiarray", name): kind
        for core in ("core", "_core")
        for name, kind in (
            ("_reconstruct", np.zeros(0).__reduce__()[0]),
            ("scalar", np.float64(0).__reduce__()[0]),
        )
    },
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{
        (module, name): SparseRows
        for module in ("scipy.sparse.csr", "scipy.sparse._csr")
        for name in ("csr_matrix", "csr_array")
    },
    ("collections", "defaultdict"): defaultdict,
    ("__builtin__", "list"): list,
    ("builtins", "list"): list,
    ("_codecs", "encode"): _latin1,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        return _ALLOWED[module, name]


def read_pickle(path: Path) -> Any:
    """Arrays, sparse matrices (as `SparseRows`), dicts and lists of a pickle, also of Python 2.

    Args:
        path: of the file.

    Raises:
        ValueError: it is damaged, or asks for anything else to be made or called.

    Example:
        >>> import os, pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "bad")
        ...     _ = path.write_bytes(pickle.dumps(os.getcwd))
        ...     read_pickle(path)
        Traceback (most recent call last):
        ...
        ValueError: .../bad: expected a pickle of arrays, found: it asks for posix.getcwd, which is no array
    """
    with path.open("rb") as file:
        try:
            return _Unpickler(file).load()
        except Exception as error:  # a damaged pickle raises nearly anything
            raise ValueError(f"{path}: expected a pickle of arrays, found: {error}") from error
