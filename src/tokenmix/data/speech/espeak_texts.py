"""What espeak-ng is given to say: sentences and words of the standard library's documentation, and numbers."""

from __future__ import annotations

import random
import re
import sysconfig
from collections import Counter
from functools import lru_cache
from pathlib import Path

from tokenmix.data.speech.texts import spell_number

_APART = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}
_COMMENTS = r"(?:[ \t]*(?:#[^\n]*)?\n)*"
# a string at the start of a file, or behind a line that ends with a colon: reading it with ast takes five times as long
_DOCSTRING = re.compile(
    rf'(?:\A{_COMMENTS}|:[ \t]*(?:#[^\n]*)?\n{_COMMENTS})[ \t]*[rRuU]?("""|\'\'\'|"|\')(.*?)\1', re.DOTALL
)
_CLEAN = re.compile(r"[a-z' ,]+")


def docstring_sentences(max_words: int = 12) -> list[str]:
    """Sentences of two words or more in the docstrings of Python's standard library, sorted.

    Only those of letters, apostrophes and commas: the rest is code, or nobody knows how it is read.

    Args:
        max_words: of a sentence, at most; at least 2.

    Raises:
        ValueError: fewer words.

    Example:
        >>> sentences = docstring_sentences()
        >>> len(sentences) > 4000, all(set(s) <= set("abcdefghijklmnopqrstuvwxyz' ") for s in sentences)
        (True, True)
    """
    if max_words < 2:
        raise ValueError(f"max_words: expected at least 2, found {max_words}")
    return [sentence for sentence in _sentences() if sentence.count(" ") < max_words]


def word_texts(count: int, seed: int = 0, least: int = 3) -> list[str]:
    """Lists of one to four words in no order that a language model could learn; no list twice.

    Args:
        count: lists.
        seed: of the choice.
        least: a word has to occur as often in the sentences of docstrings.

    Example:
        >>> len(set(word_texts(50)))
        50
    """
    occurring = Counter(word for sentence in _sentences() for word in sentence.split())
    known = sorted(word for word, times in occurring.items() if times >= least and len(word) > 1)
    draw, found = random.Random(seed), set[str]()
    while len(found) < count:
        found.add(" ".join(draw.choices(known, k=draw.randint(1, 4))))
    return sorted(found)


def number_texts(count: int, seed: int = 0) -> list[str]:
    """Strings of one to six digits, and numbers up to 9,999, in words; no text twice.

    Example:
        >>> len(set(number_texts(50)))
        50
    """
    draw, found = random.Random(seed), set[str]()
    while len(found) < count:
        if draw.random() < 0.6:
            found.add(" ".join(spell_number(str(draw.randrange(10))) for _ in range(draw.randint(1, 6))))
        else:
            found.add(spell_number(str(draw.randrange(10 ** draw.randint(1, 4)))))
    return sorted(found)


@lru_cache(maxsize=1)
def _sentences() -> tuple[str, ...]:
    found = set[str]()
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if not _APART & set(path.relative_to(root).parts):
            source = path.read_text(encoding="utf-8", errors="ignore")
            found.update(sentence for match in _DOCSTRING.finditer(source) for sentence in _split(match[2]))
    return tuple(sorted(found))


def _split(docstring: str) -> list[str]:
    sentences = []
    for paragraph in docstring.split("\n\n"):
        for part in re.split(r"(?<=[.!?:;])\s+", " ".join(paragraph.split())):
            text = part.strip().rstrip(".!?:;,").lower()
            if _CLEAN.fullmatch(text):
                words = [stripped for word in re.split(r"[ ,]+", text) if (stripped := word.strip("'"))]
                if len(words) > 1:
                    sentences.append(" ".join(words))
    return sentences
