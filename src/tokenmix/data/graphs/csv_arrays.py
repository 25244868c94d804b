"""Tables of numbers in .csv.gz files and arrays in .npz files, read piece by piece; large ones kept as .npy files."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_BLOCK = 1 << 24  # bytes of text that are parsed together
_LOCAL_HEADER = 30  # bytes before the name of a zip member


def read_csv(path: Path, dtype: type = np.int64) -> np.ndarray:
    r"""A table of numbers without a header.

    Args:
        path: of a .csv.gz file.
        dtype: of its numbers.

    Returns:
        (rows, columns); an empty file has no rows and one column.

    Raises:
        FileNotFoundError: no such file. ValueError: it is damaged, or a line has more or fewer numbers than the first.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.csv.gz")
        ...     _ = path.write_bytes(gzip.compress(b"1,2\n3,4\n"))
        ...     read_csv(path).tolist()
        [[1, 2], [3, 4]]
    """
    parts = list(csv_blocks(path, dtype))
    return np.concatenate(parts) if parts else np.empty((0, 1), dtype)


def csv_blocks(path: Path, dtype: type = np.int64) -> Iterator[np.ndarray]:
    """The rows of `read_csv`, some at a time."""
    columns, line, rest = 0, 1, b""
    try:
        with gzip.open(path, "rb") as file:
            while block := file.read(_BLOCK):
                text, _, rest = (rest + block).rpartition(b"\n")
                if text:
                    found = _parse(path, text, columns, line, dtype)
                    columns, line = found.shape[1], line + len(found)
                    yield found
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected a whole gzip file, found: {error}") from error
    if rest.strip():
        yield _parse(path, rest, columns, line, dtype)


def _parse(path: Path, text: bytes, columns: int, line: int, dtype: type) -> np.ndarray:
    text = text.replace(b"\r", b"").strip(b"\n")
    columns = columns or text.partition(b"\n")[0].count(b",") + 1
    rows = text.count(b"\n") + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # of text that is no number
        try:
            numbers: np.ndarray = np.fromstring(text.replace(b"\n", b",").decode("ascii"), dtype, sep=",")
        except (DeprecationWarning, ValueError):  # UnicodeDecodeError is one
            numbers = np.empty(0, dtype)
    if len(numbers) != rows * columns or (columns > 1 and _uneven(text, columns)):
        raise ValueError(
            f"{path}: expected {columns} numbers a line, found other text in lines {line} to {line + rows - 1}"
        )
    return numbers.reshape(rows, columns)


def _uneven(text: bytes, columns: int) -> bool:
    """Whether the commas of some line are more or fewer than its columns less one."""
    raw = np.frombuffer(text, np.uint8)
    commas, ends = np.flatnonzero(raw == ord(",")), np.flatnonzero(raw == ord("\n"))
    before = np.searchsorted(commas, np.append(ends, len(raw)))
    return bool((np.diff(before, prepend=0) != columns - 1).any())


def kept_table(path: Path, rows: int, cache: Path) -> np.ndarray:
    """A table of float32 numbers as a memory-mapped file, which is written once.

    Args:
        path: of the .csv.gz file.
        rows: that it has.
        cache: the .npy file to keep it in; where that cannot be written, the table is read into memory.

    Raises:
        FileNotFoundError, ValueError: see `read_csv`, or another number of rows.
    """
    if is_fresh(cache, path) and (kept := _kept_array(cache)) is not None and len(kept) == rows:
        return kept
    part = cache.with_name(f"{cache.name}.{os.getpid()}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError:
        table = read_csv(path, np.float32)
        _check_rows(path, len(table), rows)
        return table
    try:
        done, mapped = 0, None
        for block in csv_blocks(path, np.float32):
            if mapped is None:
                mapped = np.lib.format.open_memmap(part, "w+", np.float32, (rows, block.shape[1]))
            if done + len(block) <= rows:
                mapped[done : done + len(block)] = block
            done += len(block)
        _check_rows(path, done, rows)
        if mapped is None:
            return np.empty((0, 0), np.float32)
        mapped.flush()
        with made_from(cache, path):
            os.replace(part, cache)
    finally:
        part.unlink(missing_ok=True)
    return np.load(cache, mmap_mode="c")


def _kept_array(cache: Path) -> np.ndarray | None:
    """A memory-mapped array that was kept before; None where its file is damaged, so that it is written anew."""
    try:
        found: np.ndarray = np.load(cache, mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None
    return found


def kept_member(path: Path, name: str, cache: Path) -> np.ndarray:
    """An array of a .npz file, memory-mapped: in place if it is stored as it is, else unpacked once.

    Args:
        path: of the .npz file.
        name: of the array.
        cache: the .npy file to unpack it into.

    Raises:
        ValueError: no such array, or a damaged file. OSError: it is packed, and `cache` cannot be written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{name}.npy")
            if member.compress_type == zipfile.ZIP_STORED:
                return _map_stored(path, member.header_offset)
            if not is_fresh(cache, path) or _kept_array(cache) is None:
                cache.parent.mkdir(parents=True, exist_ok=True)
                part = cache.with_name(f"{cache.name}.{os.getpid()}.part")
                try:
                    with archive.open(member) as source, part.open("wb") as target:
                        shutil.copyfileobj(source, target, 1 << 24)
                    with made_from(cache, path):
                        os.replace(part, cache)
                finally:
                    part.unlink(missing_ok=True)
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected a .npz file with the array {name}, found: {error}") from error
    return np.load(cache, mmap_mode="c")


def _map_stored(path: Path, header: int) -> np.ndarray:
    """An array that lies unpacked in a zip file, after the member's own header."""
    with path.open("rb") as file:
        file.seek(header)
        local = file.read(_LOCAL_HEADER)
        name, extra = int.from_bytes(local[26:28], "little"), int.from_bytes(local[28:30], "little")
        file.seek(header + _LOCAL_HEADER + name + extra)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject:
            raise ValueError(f"{path}: expected numbers, found objects of Python")
        return np.memmap(path, dtype, "c", file.tell(), shape, "F" if fortran else "C")


def is_fresh(cache: Path, source: Path) -> bool:
    """Whether a file was made from its source as that is now; `made_from` wrote what that was.

    Args:
        cache: the file that was made.
        source: what it was made from. Its size and time are compared, and an older file in its place counts as another.
    """
    try:
        return cache.is_file() and _note(cache).read_text(encoding="utf-8") == _stamp(source)
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def made_from(cache: Path, source: Path) -> Iterator[None]:
    """A file is made in here: what it was made from before is forgotten first, and noted beside it when it is there.

    Where the note cannot be written, the file is made again the next time.
    """
    _note(cache).unlink(missing_ok=True)
    yield
    with contextlib.suppress(OSError):
        _note(cache).write_text(_stamp(source), encoding="utf-8")


def _note(cache: Path) -> Path:
    return cache.with_name(f"{cache.name}.source")


def _stamp(source: Path) -> str:
    found = source.stat()
    return f"{source.name} {found.st_size} {found.st_mtime_ns}"


def _check_rows(path: Path, found: int, rows: int) -> None:
    if found != rows:
        raise ValueError(f"{path}: expected {rows} lines, one for each node, found {found}")
