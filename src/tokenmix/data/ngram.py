"""N-gram baselines: what counting alone reaches, to print beside what a model reaches."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenmix.data.corpus import Corpus

BASELINE_ORDERS = {"unigram": 1, "bigram": 2, "3-gram": 3, "6-gram": 6}


def ngram_probabilities(train: ArrayLike, test: ArrayLike, order: int, vocabulary: int) -> NDArray[np.float64]:
    """Probability of each test token under an interpolated Witten-Bell model of the train tokens.

    With h the last k - 1 tokens, h' the last k - 2, c(.) the counts in train, and T(h) the number of
    different tokens that follow h in train,

        p_k(w | h) = (c(h w) + T(h) p_(k-1)(w | h')) / (c(h) + T(h)),    p_0(w) = 1 / vocabulary,

    and p_k = p_(k-1) where h never occurs. The first tokens of test have the shorter context there is.

    Args:
        train: (N,) token ids, at least one.
        test: (M,) token ids.
        order: the longest gram counted; 1 is the unigram model.
        vocabulary: the number of token ids; all ids lie in [0, vocabulary).

    Returns:
        (M,) probabilities. Over all tokens w that might follow one context they sum to 1.

    Raises:
        ValueError: for ids outside the vocabulary, no train tokens, an order below 1, or an order at which
            a gram no longer fits a 64-bit key (vocabulary ** order >= 2 ** 63).

    Example:
        >>> ngram_probabilities([0, 1, 0, 1, 0], [0, 1], order=2, vocabulary=2).round(3).tolist()
        [0.571, 0.81]

    Source:
        Witten and Bell, 1991, "The zero-frequency problem", method C, in the interpolated form of
        Chen and Goodman, 1998, TR-10-98.
    """
    for probabilities in _by_order(train, test, order, vocabulary):
        last = probabilities
    return last


def ngram_nats(train: ArrayLike, test: ArrayLike, order: int, vocabulary: int) -> float:
    """Mean of -ln p over the test tokens but the first, which only gives context, as in `TokenBlocks`.

    Args:
        train: (N,) token ids.
        test: (M,) token ids, at least two.
        order: the longest gram counted.
        vocabulary: the number of token ids.

    Returns:
        Nats a token; its exponential is the perplexity.

    Raises:
        ValueError: as `ngram_probabilities`, and for fewer than two test tokens.

    Example:
        >>> round(ngram_nats([0, 1, 0, 1, 0], [0, 1], order=2, vocabulary=2), 3)
        0.211
    """
    return _nats(ngram_probabilities(train, test, order, vocabulary))


def ngram_bits_per_byte(train: bytes, test: bytes, order: int) -> float:
    """Bits a byte of an interpolated Witten-Bell model over bytes, on all test bytes but the first.

    Args:
        train: the text to count in.
        test: the text to score.
        order: the longest gram counted, 1 to 7.

    Returns:
        Bits a byte.

    Raises:
        ValueError: as `ngram_nats`.

    Example:
        >>> round(ngram_bits_per_byte(b"to be or not to be", b"to be", order=3), 2)
        0.5
    """
    return ngram_nats(_ids(train), _ids(test), order, 256) / math.log(2)


def baselines(
    corpus: Corpus, train_bytes: int | None = None, folder: str | os.PathLike[str] | None = None
) -> dict[str, float]:
    """Bits a byte of the unigram, bigram, 3-gram and 6-gram models on the test split of a corpus.

    Args:
        corpus: the text; the models count in its train split.
        train_bytes: count only in this many of the first train bytes; default all.
        folder: where results are kept, in a file named after the text's content; default: not kept.

    Returns:
        `BASELINE_ORDERS`' names and bits a byte.

    Raises:
        ValueError: for a test split of fewer than two bytes, or `train_bytes` below 1.

    Example:
        >>> corpus = Corpus("tiny", train=b"to be or not to be", valid=b"to be", test=b"to be")
        >>> {name: round(bits, 2) for name, bits in baselines(corpus).items()}
        {'unigram': 3.05, 'bigram': 1.25, '3-gram': 0.5, '6-gram': 0.4}
    """
    if train_bytes is not None and train_bytes < 1:
        raise ValueError(f"train_bytes: expected at least 1, found {train_bytes}")
    train = corpus.train[:train_bytes]
    content = hashlib.sha1(b"%d," % len(train) + train + corpus.test).hexdigest()[:16]
    kept = None if folder is None else Path(folder) / f"baselines-{content}.json"
    if kept is not None and kept.is_file():
        try:
            found: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
            return found
        except json.JSONDecodeError:
            pass  # cut off by a kill: count again
    names = {order: name for name, order in BASELINE_ORDERS.items()}
    curve = enumerate(_by_order(_ids(train), _ids(corpus.test), max(names), 256), 1)
    bits = {names[order]: _nats(probabilities) / math.log(2) for order, probabilities in curve if order in names}
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f"{kept.name}.{os.getpid()}")
        temporary.write_text(json.dumps(bits, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, kept)
    return bits


def _ids(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, dtype=np.uint8)


def _nats(probabilities: NDArray[np.float64]) -> float:
    if len(probabilities) < 2:
        raise ValueError(f"test: expected at least two tokens, found {len(probabilities)}")
    return float(-np.log(probabilities[1:]).mean())


def _by_order(train: ArrayLike, test: ArrayLike, order: int, vocabulary: int) -> Iterator[NDArray[np.float64]]:
    """The probabilities of the test tokens under the models of order 1, 2, ... `order`."""
    train_ids, test_ids = _checked("train", train, vocabulary), _checked("test", test, vocabulary)
    if order < 1 or vocabulary**order >= 2**63:
        raise ValueError(f"order: expected at least 1 and vocabulary ** order < 2 ** 63, found {vocabulary} ** {order}")
    if len(train_ids) == 0:
        raise ValueError("train: expected at least one token, found none")
    probabilities = np.full(len(test_ids), 1 / vocabulary)
    train_grams, test_grams = train_ids.astype(np.int64), test_ids.astype(np.int64)
    for k in range(1, min(order, len(test_ids), len(train_ids)) + 1):
        if k > 1:  # a gram's key is its context's key * vocabulary + its last token
            train_grams = train_grams[:-1] * vocabulary + train_ids[k - 1 :]
            test_grams = test_grams[:-1] * vocabulary + test_ids[k - 1 :]
        probabilities = probabilities.copy()
        probabilities[k - 1 :] = _interpolate(train_grams, test_grams, probabilities[k - 1 :], vocabulary)
        yield probabilities
    for _ in range(min(order, len(test_ids), len(train_ids)), order):  # no gram so long in train or test
        yield probabilities


def _interpolate(
    train_grams: NDArray[np.int64], test_grams: NDArray[np.int64], lower: NDArray[np.float64], vocabulary: int
) -> NDArray[np.float64]:
    """One step of the recursion: from p_(k-1) to p_k at every test gram of k tokens."""
    grams, gram_counts = _count(train_grams)
    contexts, first, following = np.unique(grams // vocabulary, return_index=True, return_counts=True)
    context_counts = np.add.reduceat(gram_counts, first)
    gram_count = _look_up(grams, gram_counts, test_grams)
    context_count = _look_up(contexts, context_counts, test_grams // vocabulary)
    new = _look_up(contexts, following, test_grams // vocabulary)
    total = context_count + new
    mixed = (gram_count + new * lower) / np.maximum(total, 1)
    return np.where(total > 0, mixed, lower)


def _count(grams: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different grams in rising order, and how often each occurs."""
    ordered = np.sort(grams)
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return ordered[starts], np.diff(np.r_[starts, len(ordered)])


def _look_up(keys: NDArray[np.int64], values: NDArray[Any], wanted: NDArray[np.int64]) -> NDArray[Any]:
    """The value of each wanted key, 0 where `keys` (in rising order) has no such key."""
    places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)


def _checked(name: str, tokens: ArrayLike, vocabulary: int) -> NDArray[Any]:
    ids = np.asarray(tokens)
    if ids.ndim != 1 or (len(ids) and not np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(f"{name}: expected integers of shape (N,), found {ids.dtype} of shape {ids.shape}")
    if len(ids) and (ids.min() < 0 or ids.max() >= vocabulary):
        raise ValueError(f"{name}: expected ids in [0, {vocabulary}), found {ids.min()} to {ids.max()}")
    return ids.astype(np.int64) if len(ids) == 0 else ids
