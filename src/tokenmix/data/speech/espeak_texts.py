"""What espeak-ng is given to say: sentences of the standard library's documentation, and numbers."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
import warnings
from functools import lru_cache
from pathlib import Path

from tokenmix.data.speech.texts import spell_number

_CLEAN = re.compile(r"[a-z' ,]+")
_APART = ("site-packages", "test", "tests", "idlelib")


@lru_cache(maxsize=4)
def _sentences(max_words: int) -> tuple[str, ...]:
    found = set()
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if not set(path.relative_to(root).parts) & set(_APART):
            for docstring in _docstrings(path):
                found |= set(_clean(docstring, max_words))
    return tuple(sorted(found))


def docstring_sentences(max_words: int = 12) -> list[str]:
    """Sentences of plain words in the docstrings of Python's standard library, sorted.

    Args:
        max_words: of a sentence, at most; at least 2.

    Example:
        >>> sentences = docstring_sentences()
        >>> len(sentences) > 4000, all(set(s) <= set("abcdefghijklmnopqrstuvwxyz' ") for s in sentences)
        (True, True)
    """
    return list(_sentences(max_words))


def number_texts(count: int, seed: int = 0) -> list[str]:
    """Strings of one to six digits, and numbers up to 9,999, in words; no text twice.

    Example:
        >>> len(set(number_texts(50)))
        50
    """
    draw = random.Random(seed)
    found: set[str] = set()
    while len(found) < count:
        if draw.random() < 0.6:
            found.add(" ".join(spell_number(str(draw.randrange(10))) for _ in range(draw.randint(1, 6))))
        else:
            found.add(spell_number(str(draw.randrange(10 ** draw.randint(1, 4)))))
    return sorted(found)


def _docstrings(path: Path) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):  # broken on purpose, for the library's own tests
            return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return [docstring for docstring in found if docstring]


def _clean(docstring: str, max_words: int) -> list[str]:
    sentences = []
    for paragraph in docstring.split("\n\n"):
        for part in re.split(r"(?<=[.!?:;])\s+", " ".join(paragraph.split())):
            text = part.strip().rstrip(".!?:;,").lower()
            if _CLEAN.fullmatch(text):
                words = [word.strip("'") for word in re.split(r"[ ,]+", text)]
                words = [word for word in words if word]
                if 2 <= len(words) <= max_words:
                    sentences.append(" ".join(words))
    return sentences
