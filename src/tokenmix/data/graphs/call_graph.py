"""The call graph of Python source by `ast` alone: functions, the names they call, and the words of their bodies."""

from __future__ import annotations

import ast
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from tokenmix.processes import in_processes

_FILES_A_JOB = 200
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# A function: its name, the names it calls, the identifiers in it. In the order of the source, an outer one first.
Function = tuple[str, list[str], list[str]]


@lru_cache(maxsize=1 << 18)
def words_of(identifier: str) -> tuple[str, ...]:
    """Words of an identifier in lower case, each at least two letters.

    Example:
        >>> words_of("readHTTPHeader_from_2")
        ('read', 'http', 'header', 'from')
    """
    return tuple(word.lower() for word in _WORD.findall(identifier) if len(word) > 1)


def functions_of(source: str | bytes) -> list[Function]:
    r"""Functions and methods of a module, nested ones too; what a nested one holds counts for the outer ones as well.

    Args:
        source: of the module.

    Returns:
        For each function its name, and in alphabetical order the names that it calls (`f` of both `f()` and `x.f()`)
        and the identifiers in it: names, attributes, parameters. Its text is not among
        them, nor its own name, unless it calls itself.

    Raises:
        SyntaxError, ValueError: it is no Python.

    Example:
        >>> functions_of("def add(left, right):\n    return left.plus(right)")
        [('add', ['plus'], ['left', 'plus', 'right'])]
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escapes in other people's strings
        tree = ast.parse(source)
    names: list[str] = []
    calls: list[set[str]] = []
    identifiers: list[set[str]] = []
    stack: list[tuple[ast.AST, tuple[int, ...]]] = [(tree, ())]
    while stack:
        node, inside = stack.pop()
        found = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = (*inside, len(names))
            names.append(node.name)
            calls.append(set())
            identifiers.append(set())
        elif isinstance(node, ast.Name):
            found = node.id
        elif isinstance(node, ast.Attribute):
            found = node.attr
        elif isinstance(node, ast.arg):
            found = node.arg
        elif isinstance(node, ast.Call):
            called = node.func
            name = (
                called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
            )
            for function in inside:
                calls[function].add(name)
        if found is not None:
            for function in inside:
                identifiers[function].add(found)
        stack += [(child, inside) for child in reversed(list(ast.iter_child_nodes(node)))]
    return [(name, sorted(calls[i] - {""}), sorted(identifiers[i])) for i, name in enumerate(names)]


def read_functions(paths: Sequence[str], dropped: frozenset[str]) -> list[list[tuple[str, list[str], list[str]]]]:
    """Functions of files, with words in place of identifiers; none for a file that is no Python.

    Args:
        paths: of the files.
        dropped: identifiers in lower case that give no words.
    """
    found = []
    for path in paths:
        try:
            functions = functions_of(Path(path).read_bytes())
        except (SyntaxError, ValueError, RecursionError, OSError):
            functions = []
        rows = []
        for name, calls, identifiers in functions:
            words = {word for each in identifiers if each.lower().strip("_") not in dropped for word in words_of(each)}
            rows.append((name, calls, sorted(words)))
        found.append(rows)
    return found


def build_call_graph(
    files: Sequence[tuple[str, str]],
    *,
    dropped: Collection[str] = (),
    smallest_class: int = 60,
    candidates: int = 3,
    vocabulary: int = 4096,
    workers: int = 1,
) -> dict[str, np.ndarray]:
    r"""Arrays of the call graph of files.

    An edge joins a function and each other one that has the name it calls, if at most `candidates` have that name.
    Features say which of the most frequent words occur in a body.

    Args:
        files: (path, class) of each.
        dropped: identifiers, in lower case and without `_` around them, that give no words: names of classes would
            give the label away.
        smallest_class: functions that a class has at least; functions of smaller ones are left out.
        candidates: functions of one name, at most, that a call may mean.
        vocabulary: words that are features, at most.
        workers: processes that read files; the result does not depend on them.

    Returns:
        y (N,), edge (E, 2) with the smaller id first, each once, feat_indptr (N + 1,), feat_index, classes, vocab.

    Raises:
        ValueError: no class is large enough.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "a.py")
        ...     _ = path.write_text("def f(): g(1)\ndef g(number): f()\ndef h(number): pass")
        ...     arrays = build_call_graph([(str(path), "a")], smallest_class=1)
        >>> arrays["y"].tolist(), arrays["edge"].tolist(), arrays["vocab"].tolist()
        ([0, 0, 0], [[0, 1]], ['number'])
    """
    jobs = [
        ([path for path, _ in files[start : start + _FILES_A_JOB]], frozenset(dropped))
        for start in range(0, len(files), _FILES_A_JOB)
    ]
    of_files = [rows for part in in_processes(read_functions, jobs, workers) for rows in part]
    functions = [row for rows in of_files for row in rows]
    labels = [label for rows, (_, label) in zip(of_files, files, strict=True) for _ in rows]
    sizes = Counter(labels)
    classes = sorted(label for label, size in sizes.items() if size >= smallest_class)
    if not classes:
        largest = max(sizes.values(), default=0)
        raise ValueError(f"smallest_class: expected a class of {smallest_class} functions, found at most {largest}")
    number = {label: i for i, label in enumerate(classes)}
    kept = [i for i, label in enumerate(labels) if label in number]
    words = [functions[i][2] for i in kept]
    frequency = Counter(word for row in words for word in row)
    vocab = sorted(frequency, key=lambda word: (-frequency[word], word))[:vocabulary]
    column = {word: i for i, word in enumerate(vocab)}
    rows = [sorted(column[word] for word in row if word in column) for row in words]
    return {
        "y": np.array([number[labels[i]] for i in kept], np.int16),
        "edge": _edges(functions, kept, candidates),
        "feat_indptr": np.cumsum([0, *map(len, rows)], dtype=np.int64),
        "feat_index": np.array([place for row in rows for place in row], np.uint16 if vocabulary < 65536 else np.int32),
        "classes": np.array(classes),
        "vocab": np.array(vocab, dtype=str),
    }


def _edges(functions: Sequence[Function], kept: Sequence[int], candidates: int) -> np.ndarray:
    by_name: dict[str, list[int]] = defaultdict(list)
    for i, (name, _, _) in enumerate(functions):
        by_name[name].append(i)
    new = {old: i for i, old in enumerate(kept)}
    pairs: set[tuple[int, int]] = set()
    for old, caller in new.items():
        for name in functions[old][1]:
            called = by_name.get(name, ())
            if len(called) <= candidates:
                pairs.update((min(caller, new[i]), max(caller, new[i])) for i in called if i in new and i != old)
    return np.array(sorted(pairs), np.int32).reshape(-1, 2)
