"""N-gram baselines against a naive implementation with dictionaries."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from tokenmix.data.corpus import Corpus
from tokenmix.data.ngram import BASELINE_ORDERS, baselines, ngram_bits_per_byte, ngram_nats, ngram_probabilities

WIKITEXT = Path(__file__).resolve().parents[3] / "shared/data/wikitext2"


def naive_probabilities(train, test, order, vocabulary):
    """The equation, one token at a time."""
    counts, followers = defaultdict(Counter), defaultdict(set)
    for k in range(order):
        for place in range(k, len(train)):
            context = tuple(train[place - k : place])
            counts[context][train[place]] += 1
            followers[context].add(train[place])

    def probability(token, context):
        lower = probability(token, context[1:]) if context else 1 / vocabulary
        seen, new = sum(counts[context].values()), len(followers[context])
        return (counts[context][token] + new * lower) / (seen + new) if seen else lower

    return [probability(test[i], tuple(test[max(0, i - order + 1) : i])) for i in range(len(test))]


@pytest.mark.parametrize("vocabulary", [2, 5, 300])
@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_equals_the_naive_form(order, vocabulary):
    random = np.random.default_rng(order * 1000 + vocabulary)
    train = random.integers(0, vocabulary, 400) ** 2 // vocabulary  # skewed, so that contexts repeat and some are new
    test = random.integers(0, vocabulary, 60) ** 2 // vocabulary
    expected = naive_probabilities(train.tolist(), test.tolist(), order, vocabulary)
    np.testing.assert_allclose(ngram_probabilities(train, test, order, vocabulary), expected, rtol=1e-12)
    nats = -np.log(expected[1:]).mean()
    assert ngram_nats(train, test, order, vocabulary) == pytest.approx(nats, rel=1e-12)


@pytest.mark.parametrize("context", [b"the ", b"zq~ ", b"t", b""])
def test_probabilities_sum_to_one_over_the_vocabulary(context):
    train = np.frombuffer(b"the cat and the hat and the bat at the mat", dtype=np.uint8)
    texts = [np.frombuffer(context + bytes([byte]), dtype=np.uint8) for byte in range(256)]
    total = sum(ngram_probabilities(train, text, order=5, vocabulary=256)[-1] for text in texts)
    assert total == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("train", "test"), [([1], [1, 0, 1]), ([0, 1, 1], [1]), ([1, 1], [0, 0, 0, 0])])
def test_orders_longer_than_the_text_are_the_longest_there_is(train, test):
    expected = naive_probabilities(train, test, 6, 3)
    np.testing.assert_allclose(ngram_probabilities(train, test, 6, 3), expected, rtol=1e-12)


def test_longer_contexts_help_on_text_with_structure():
    text = b"".join(b"%d plus %d is %d\n" % (i % 7, i % 5, i % 7 + i % 5) for i in range(500))
    bits = [ngram_bits_per_byte(text[:4000], text[4000:], order) for order in (1, 2, 3, 6)]
    assert bits == sorted(bits, reverse=True)
    assert bits[0] > 3
    assert bits[-1] < 1


def test_large_vocabularies_are_counted_exactly():
    vocabulary = 50_000
    ids = np.random.default_rng(0).integers(0, vocabulary, 300)
    expected = naive_probabilities(ids.tolist(), ids[:40].tolist(), 2, vocabulary)
    np.testing.assert_allclose(ngram_probabilities(ids, ids[:40], 2, vocabulary), expected, rtol=1e-12)


def test_baselines_are_the_orders_one_by_one_and_are_kept(tmp_path):
    corpus = Corpus("mine", train=b"to be or not to be " * 20, valid=b"-", test=b"not to be or to be")
    bits = baselines(corpus, folder=tmp_path / "run")
    for name, order in BASELINE_ORDERS.items():
        assert bits[name] == pytest.approx(ngram_bits_per_byte(corpus.train, corpus.test, order), rel=1e-12)
    (kept,) = (tmp_path / "run").iterdir()
    assert json.loads(kept.read_text()) == bits
    kept.write_text('{"unigram": 1.0}')
    assert baselines(corpus, folder=tmp_path / "run") == {"unigram": 1.0}  # read, not computed again
    other = Corpus("mine", train=corpus.train, valid=b"-", test=b"or not")
    assert baselines(other, folder=tmp_path / "run") != {"unigram": 1.0}  # another text, another file
    assert baselines(corpus, train_bytes=10, folder=tmp_path / "run")["6-gram"] > bits["6-gram"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 5], [0, 1], 2, 5), r"train: expected ids in \[0, 5\), found 0 to 5"),
        (([0, 1], [-1, 1], 2, 5), r"test: expected ids in \[0, 5\), found -1 to 1"),
        (([0.5], [0, 1], 2, 5), r"train: expected integers of shape \(N,\), found float64"),
        (([[0, 1]], [0, 1], 2, 5), r"train: expected integers of shape \(N,\), found int64 of shape \(1, 2\)"),
        (([], [0, 1], 2, 5), "train: expected at least one token, found none"),
        (([0], [1], 2, 5), "test: expected at least two tokens, found 1"),
        (([0], [0, 1], 0, 5), r"order: expected at least 1 .* found 5 \*\* 0"),
        (([0], [0, 1], 8, 256), r"order: expected .* found 256 \*\* 8"),
    ],
)
def test_mistakes_meet_an_error_that_says_so(arguments, message):
    with pytest.raises(ValueError, match=message):
        ngram_nats(*arguments)


def test_train_bytes_below_one():
    with pytest.raises(ValueError, match="train_bytes: expected at least 1, found 0"):
        baselines(Corpus("mine", b"a", b"b", b"cd"), train_bytes=0)


@pytest.mark.skipif(
    not WIKITEXT.is_dir(), reason="WikiText-2's valid.txt and test.txt are not in ../shared/data/wikitext2"
)
def test_wikitext_equals_an_independent_measurement():
    train, test = ((WIKITEXT / name).read_bytes() for name in ("valid.txt", "test.txt"))
    measured = {1: 4.609, 3: 2.742, 6: 1.964}  # by another author's code: order 1 on all, the others on 200 kB of test
    for order, expected in measured.items():
        bits = ngram_bits_per_byte(train, test if order == 1 else test[:200_000], order)
        assert bits == pytest.approx(expected, abs=6e-4)
