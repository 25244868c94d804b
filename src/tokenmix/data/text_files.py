"""Corpora from files in any place and from the standard layouts of WikiText and TinyStories."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenmix.data.corpus import SEPARATOR, SPLITS, Corpus, cut

PathLike = str | os.PathLike[str]
SomeFiles = PathLike | Sequence[PathLike]
Files = SomeFiles | Mapping[str, SomeFiles]

STORY_SEPARATOR = b"\n<|endoftext|>\n"

# The names under which the standard sets lie in a folder: (train, valid, test); no test: see `text_files`.
LAYOUTS: dict[str, tuple[str, str, str | None]] = {
    "WikiText": ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
    "WikiText raw": ("wiki.train.raw", "wiki.valid.raw", "wiki.test.raw"),
    "plain": ("train.txt", "valid.txt", "test.txt"),
    "TinyStories": ("TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt", None),
    "Hugging Face": ("train-*.parquet", "validation-*.parquet", "test-*.parquet"),
    "Hugging Face, two splits": ("train-*.parquet", "validation-*.parquet", None),
}

# Name here -> repository and configuration on the Hugging Face hub.
HUB: dict[str, tuple[str, str | None]] = {
    "wikitext-2": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "wikitext-103": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "tinystories": ("roneneldan/TinyStories", None),
}


def text_files(train: SomeFiles, valid: SomeFiles | None = None, test: SomeFiles | None = None) -> Corpus:
    r"""A corpus from files: text or any bytes as they are, `.parquet` and `.jsonl` by their column `text`.

    A split that is not given is cut from another one, at the end of a line:

    - only `train`: its first 90 % are train, the next 5 % valid, the last 5 % test;
    - no `valid`: the last 5 % of train; no `test`: the second half of valid (TinyStories has no test).

    Args:
        train: a file, a glob, or a list of these, to train on; or a folder in one of `LAYOUTS`, which
            then gives every split. Several files are joined by `SEPARATOR`: a document is a file.
        valid: files to choose a model by.
        test: files to report a score on.

    Returns:
        The corpus.

    Raises:
        FileNotFoundError: if a path or glob names no file, or a folder has none of the layouts.
        ValueError: if a file, or a split after cutting, holds no bytes.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "numbers.txt")
        ...     _ = path.write_text("".join(f"line {i:02}\n" for i in range(100)))
        ...     corpus = text_files(train=path)
        >>> len(corpus.train), len(corpus.valid), len(corpus.test)
        (720, 40, 40)
    """
    given = {split: _expand(split, files) for split, files in zip(SPLITS, (train, valid, test), strict=True)}
    folder = given["train"][0]
    if folder.is_dir():
        if len(given["train"]) > 1 or valid is not None or test is not None:
            raise ValueError(f"train: expected files or one folder for every split, found the folder {folder} and more")
        given = _standard_layout(folder)
    return _corpus(
        {split: _read(split, paths) for split, paths in given.items()},
        name="/".join(given["train"][0].absolute().parts[-2:]),
        origin="files " + ", ".join(path.name for paths in given.values() for path in paths[:3]),
    )


def files_by_split(files: Files) -> dict[str, SomeFiles]:
    """The arguments of `text_files` for what a config gives: files to train on, or files for each split.

    Args:
        files: a file, glob, folder or list of files, or a mapping from "train", "valid" and "test" to these.

    Returns:
        The mapping, of which "train" is always there.

    Raises:
        ValueError: if the mapping has other keys or no "train".

    Example:
        >>> files_by_split("book.txt")
        {'train': 'book.txt'}
    """
    if not isinstance(files, Mapping):
        return {"train": files}
    if "train" not in files or set(files) - set(SPLITS):
        raise ValueError(f"files: expected train and, if wanted, valid and test, found {sorted(files)}")
    return dict(files)


def hub_text(name: str) -> Corpus:
    """A corpus from the Hugging Face hub, through `datasets.load_dataset` and its cache.

    WikiText comes in its raw form. Stories are joined by `STORY_SEPARATOR`; TinyStories has no test
    split, so the second half of its valid split serves as one.

    Args:
        name: "wikitext-2", "wikitext-103" or "tinystories".

    Returns:
        The corpus.

    Raises:
        ValueError: for an unknown name.
        ConnectionError: if it cannot be read; it says why, and what would mend it.

    Example:
        >>> hub_text("enwik8")
        Traceback (most recent call last):
        ...
        ValueError: hub: expected one of wikitext-2, wikitext-103, tinystories, found 'enwik8'
    """
    if name not in HUB:
        raise ValueError(f"hub: expected one of {', '.join(HUB)}, found {name!r}")
    repository, configuration = HUB[name]
    try:
        import datasets

        splits = datasets.load_dataset(repository, configuration)
        texts = {split: join_rows(splits[split]["text"]) for split in splits}
    except Exception as error:  # offline, unknown host, proxy, disk: each library raises its own
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        inside = configuration or "data"
        raise ConnectionError(
            f"hub={name!r}: {repository} could not be read from the Hugging Face hub ({reason}). With a network, "
            f"`hf download {repository} --repo-type dataset --include '{inside}/*' --local-dir FOLDER` fetches it "
            f"(`pip install 'tokenmix[recipes]'` brings command and reader); then, or with files of your own, use "
            f"--data.files FOLDER/{inside}, a folder that holds {_layouts()}"
        ) from error
    renamed = {"train": texts["train"], "valid": texts["validation"], "test": texts.get("test", b"")}
    return _corpus(renamed, name=name, origin=f"{repository} of the Hugging Face hub")


def join_rows(rows: Iterable[str]) -> bytes:
    r"""The text of a data set's rows, as in the text file that it was made from.

    Rows that end in a newline are lines (WikiText, where an empty row stands for the line " \n");
    other rows are documents (TinyStories), joined by `STORY_SEPARATOR`.

    Args:
        rows: the column `text`.

    Returns:
        The bytes.

    Example:
        >>> join_rows(["", " = Title = \n", "", " Words . \n"])
        b' \n = Title = \n \n Words . \n'
        >>> join_rows(["One day.", "Once upon a time."])
        b'One day.\n<|endoftext|>\nOnce upon a time.'
    """
    texts = list(rows)
    if any(text.endswith("\n") for text in texts):
        return "".join(text or " \n" for text in texts).encode()
    return STORY_SEPARATOR.join(text.strip("\n").encode() for text in texts)


def _corpus(splits: dict[str, bytes], name: str, origin: str) -> Corpus:
    train, valid, test = (splits[split] for split in SPLITS)
    if not valid and not test:
        train, valid, test = cut(train, [0.9, 0.95])
        origin += ", cut 90/5/5 by position"
    elif not valid:
        train, valid = cut(train, [0.95])
        origin += ", valid: the last 5 % of train"
    elif not test:
        valid, test = cut(valid, [0.5])
        origin += ", test: the second half of valid"
    separator = next((mark for mark in (SEPARATOR, STORY_SEPARATOR) if mark in train), b"")
    return Corpus(name, train, valid, test, separator, origin)


def _expand(split: str, files: SomeFiles | None) -> list[Path]:
    """Paths and globs to existing paths, in order."""
    if files is None:
        return []
    found: list[Path] = []
    for entry in [files] if isinstance(files, str | os.PathLike) else files:
        path = Path(entry).expanduser()
        matches = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        matches = [match for match in matches if match == path or match.is_file()]
        if not matches:
            raise FileNotFoundError(
                f"{split}: expected a file, a folder or a glob that matches one, found none at {entry}"
            )
        found += matches
    if not found:
        raise ValueError(f"{split}: expected at least one file, found an empty list")
    return found


def _standard_layout(folder: Path) -> dict[str, list[Path]]:
    for names in LAYOUTS.values():
        found = [sorted(folder.glob(name)) if name else [] for name in names]
        if all(paths for paths, name in zip(found, names, strict=True) if name):
            return dict(zip(SPLITS, found, strict=True))
    inside = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise FileNotFoundError(
        f"train: expected in the folder {folder} {_layouts()}; found {inside}. Files with other names, or a set "
        f"without its train file, can be given one by one: train={folder / 'valid.txt'} test={folder / 'test.txt'}"
    )


def _layouts() -> str:
    return " or ".join(" + ".join(name for name in names if name) for names in LAYOUTS.values())


def _read(split: str, paths: list[Path]) -> bytes:
    """The text of a split's files; the rows of several parquet files are one table."""
    parts = [_read_file(split, path) for path in paths]
    tables = [part for part in parts if isinstance(part, list)]
    if len(tables) == len(parts):
        return join_rows(row for table in tables for row in table)
    return SEPARATOR.join(part if isinstance(part, bytes) else join_rows(part) for part in parts)


def _read_file(split: str, path: Path) -> bytes | list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{split}: expected a file, found a folder at {path}")
    data: bytes | list[str]
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet  # type: ignore[import-untyped]  # pyarrow ships no types

            data = parquet.read_table(path, columns=["text"])["text"].to_pylist()
        elif path.suffix == ".jsonl":
            lines = path.read_bytes().split(b"\n")
            data = SEPARATOR.join(json.loads(line)["text"].encode() for line in lines if line.strip())
        else:
            data = path.read_bytes()
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{split}: expected {path.suffix[1:]} with a column text in {path}, found {error!r}"
        ) from error
    if not data:
        raise ValueError(f"{split}: expected a file with text, found the empty file {path}")
    return data
