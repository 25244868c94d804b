"""Similarity graphs against double loops, and what may and may not decide them."""

import math
import random

import numpy as np
import pytest
import torch

from tokenmix.ops import similarity_scores
from tokenmix.ops.code_sets import CodeSets
from tokenmix.ops.similarity_graph import SimilarityRule


def rows(count, width=6, seed=0):
    """Features with a row of zeros, and code sets, a few of them empty or equal."""
    generator, chance = torch.Generator().manual_seed(seed), random.Random(seed)
    x = torch.randn(count, width, generator=generator)
    x[1] = 0
    codes = [set(chance.sample(range(0, 60, 3), chance.choice([0, 0, 1, 3, 6]))) for _ in range(count)]
    codes[3] = set(codes[2])
    return x, codes


def cosine(a, b):
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


def by_hand(rule, x, codes):
    z = ((x.double() - rule.mean) / rule.std).tolist()
    found = np.zeros((len(z), len(z)), dtype=np.float32)
    for i in range(len(z)):
        for j in range(len(z)):
            union = codes[i] | codes[j]
            overlap = len(codes[i] & codes[j]) / len(union) if union else 0.0
            found[i, j] = rule.alpha * cosine(z[i], z[j]) + (1 - rule.alpha) * overlap
    return found


def upper(scores):
    return scores[np.triu_indices(len(scores), 1)]


def dense(graph, weights):
    found = torch.full((graph.num_nodes, graph.num_nodes), -2.0)
    sender, receiver = graph.edges()
    found[receiver, sender] = weights
    return found.numpy()


@pytest.fixture(params=[None, 70], ids=["one block", "small blocks"], autouse=True)
def blocks(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(similarity_scores, "BLOCK", request.param)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.9, 1.0])
def test_equals_a_double_loop(alpha, quantile):
    x, codes = rows(40)
    rule = SimilarityRule.fit(x, codes, alpha=alpha, quantile=quantile)
    scores = by_hand(rule, x, codes)
    np.testing.assert_allclose(rule.scores(x, codes, x, codes), scores, atol=2e-7)
    assert rule.threshold == pytest.approx(np.quantile(upper(scores).astype(np.float64), quantile), abs=2e-7)
    graph, weights = rule.graph(x, codes)
    found = dense(graph, weights)
    far = np.abs(scores - rule.threshold) > 1e-6
    np.fill_diagonal(far, False)
    assert far.sum() > 0.1 * far.size
    assert ((found > -2) == (scores > rule.threshold))[far].all()
    np.testing.assert_allclose(found[found > -2], scores[found > -2], atol=2e-7)
    assert np.array_equal(found, found.T)
    assert (np.diag(found) == -2).all()
    assert bool((weights.abs() <= 1).all())


def test_the_exact_quantile_is_exact():
    """To the last bit, on scores with many equal ones and both signs."""
    x = torch.randint(-2, 3, (50, 2), generator=torch.Generator().manual_seed(0)).float()
    for quantile in (0.0, 0.1, 0.37, 0.5, 0.9, 0.999, 1.0):
        rule = SimilarityRule.fit(x, alpha=1.0, quantile=quantile, standardise=False)
        scores = upper(rule.scores(x, None, x).numpy()).astype(np.float64)
        assert rule.threshold == pytest.approx(np.quantile(scores, quantile), abs=1e-7)


def test_a_tenth_of_the_pairs_is_joined():
    x, codes = rows(300)
    graph, _ = SimilarityRule.fit(x, codes).graph(x, codes)
    assert graph.num_edges / (300 * 299) == pytest.approx(0.1, abs=1e-3)


def test_order_of_rows_does_not_matter():
    x, codes = rows(60)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    rule = SimilarityRule.fit(x, codes)
    moved_rule = SimilarityRule.fit(x[order], [codes[i] for i in order])
    assert moved_rule.threshold == pytest.approx(rule.threshold, abs=1e-7)
    for most in (None, 3):
        found = dense(*rule.graph(x, codes, most=most))
        moved = dense(*rule.graph(x[order], [codes[i] for i in order], most=most))
        np.testing.assert_allclose(moved, found[order][:, order], atol=2e-7)


def test_limits_of_alpha():
    x, codes = rows(30)
    features, sets = SimilarityRule.fit(x, codes, alpha=1.0), SimilarityRule.fit(x, codes, alpha=0.0)
    assert torch.equal(features.scores(x, None, x), features.scores(x, codes[::-1], x, codes))
    assert torch.equal(sets.scores(x, codes, x, codes), sets.scores(-x, codes, x.exp(), codes))
    empty = [i for i, row in enumerate(codes) if not row]
    assert len(empty) > 1
    assert (sets.scores(x, codes, x, codes)[empty] == 0).all()
    assert float(sets.scores(x, codes, x, codes)[2, 3]) == (1.0 if codes[2] else 0.0)
    raw = SimilarityRule.fit(x, alpha=1.0, standardise=False)
    assert (raw.scores(x, None, x)[1] == 0).all()  # a row of zeros


def test_inserting_rows_equals_making_it_anew():
    x, codes = rows(45)
    rule = SimilarityRule.fit(x[:30], codes[:30])
    graph, weights = rule.graph(x[:40], codes[:40])
    for start, end in ((40, 41), (41, 45)):
        graph, weights = rule.insert(graph, weights, x[:start], codes[:start], x[start:end], codes[start:end])
        whole, expected = rule.graph(x[:end], codes[:end])
        assert torch.equal(graph.edges(), whole.edges())
        torch.testing.assert_close(weights, expected, rtol=0, atol=2e-7)


def test_test_rows_decide_nothing():
    """Neither the rule nor an edge between training rows changes with the test rows."""
    x, codes = rows(40)
    rule = SimilarityRule.fit(x[:30], codes[:30])
    found = dense(*rule.graph(x, codes))[:30, :30]
    other, other_codes = rows(40, seed=7)
    other, other_codes = torch.cat([x[:30], 50 * other[30:]]), codes[:30] + other_codes[30:]
    np.testing.assert_allclose(dense(*rule.graph(other, other_codes))[:30, :30], found, atol=2e-7)
    leaking = SimilarityRule.fit(other, other_codes)  # what the test is there for
    assert abs(leaking.threshold - rule.threshold) > 1e-3
    assert not torch.allclose(leaking.mean, rule.mean)


@pytest.mark.parametrize("most", [1, 4, 100])
def test_the_most_alike(most):
    x, codes = rows(35)
    rule = SimilarityRule.fit(x, codes)
    graph, weights = rule.graph(x, codes, most=most)
    scores = rule.scores(x, codes, x, codes).double()
    wanted = set()
    for i, row in enumerate(scores.tolist()):
        ranked = sorted((-s, j) for j, s in enumerate(row) if j != i)
        wanted |= {(i, j) for _, j in ranked[:most]} | {(j, i) for _, j in ranked[:most]}
    assert set(map(tuple, graph.edges().T.tolist())) == wanted
    sender, receiver = graph.edges()
    torch.testing.assert_close(weights.double(), scores[receiver, sender], rtol=0, atol=2e-7)


def test_a_drawn_quantile_is_near(monkeypatch):
    monkeypatch.setattr(similarity_scores, "PAIRS", 200_000)
    x, codes = rows(80, width=3)
    exact, drawn, again, other = (
        SimilarityRule.fit(x, codes, exact=exact, seed=seed).threshold
        for exact, seed in ((True, 0), (False, 0), (False, 0), (False, 1))
    )
    assert drawn == again != other
    assert drawn == pytest.approx(exact, abs=0.02)


def test_memory_grows_with_the_block_only(monkeypatch):
    """No tensor of all pairs: the largest score block that is asked for."""
    sizes = []
    right = similarity_scores.ScoredRows.block
    monkeypatch.setattr(similarity_scores, "BLOCK", 5000)
    monkeypatch.setattr(
        similarity_scores.ScoredRows, "block", lambda *a: sizes.append((a[3] - a[2]) * (len(a[1]) - a[4])) or right(*a)
    )
    x, codes = rows(400)
    rule = SimilarityRule.fit(x, codes)
    rule.graph(x, codes, most=3)
    assert max(sizes) <= 5000
    assert len(sizes) > 60


def test_codes_in_compressed_rows():
    sets = [{5, 2}, set(), {9}, {2}]
    indptr, indices = torch.tensor([0, 3, 3, 4, 5]), torch.tensor([5, 2, 5, 9, 2], dtype=torch.int32)
    a, b = CodeSets.of(sets), CodeSets.of((indptr, indices))
    assert a.indptr.tolist() == b.indptr.tolist() == [0, 2, 2, 3, 4]
    assert a.indices.tolist() == b.indices.tolist() == [2, 5, 9, 2]


def test_few_rows():
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    rule = SimilarityRule.fit(x, alpha=1.0, quantile=0.5)
    for count in (0, 1):
        for most in (None, 2):
            graph, weights = rule.graph(x[:count], most=most)
            assert (graph.num_nodes, graph.num_edges, len(weights)) == (count, 0, 0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"alpha": 1.5}, ValueError, "alpha: expected a number from 0 to 1, found 1.5"),
        ({"quantile": -1}, ValueError, "quantile: expected"),
        ({"features": torch.ones(1, 2)}, ValueError, "features: expected at least two rows, found 1"),
        ({"features": torch.ones(3)}, ValueError, r"features: expected shape \(N, F\), found \(3,\)"),
        ({"features": torch.ones(3, 2).long()}, TypeError, "features: expected a floating point tensor"),
        (
            {"features": torch.tensor([[1.0, 2.0], [torch.nan, 0.0], [1.0, 1.0]])},
            ValueError,
            "nan as feature 0 of row 1",
        ),
        ({"codes": None}, ValueError, "codes: expected sets of codes, as alpha is 0.7, found None"),
        ({"codes": [{1}]}, ValueError, "codes: expected 3 sets, one a row, found 1"),
        ({"codes": [{1}, {"a"}, {2}]}, TypeError, "codes: expected sets of integers, found 'a'"),
        ({"codes": [{1}, {-4}, {2}]}, ValueError, "codes: expected codes of 0 or more, found -4"),
        (
            {"codes": (torch.tensor([0, 2, 1, 3]), torch.tensor([1, 2, 3]))},
            ValueError,
            "codes: expected indptr to rise",
        ),
    ],
)
def test_what_is_refused(change, error, message):
    arguments = {"features": torch.ones(3, 2), "codes": [{1}, {2}, set()]} | change
    with pytest.raises(error, match=message):
        SimilarityRule.fit(arguments.pop("features"), arguments.pop("codes"), **arguments)


def test_what_is_refused_later():
    x, codes = rows(5)
    rule = SimilarityRule.fit(x, codes)
    with pytest.raises(ValueError, match=r"features: expected shape \(N, 6\) as the training rows"):
        rule.graph(x[:, :2], codes)
    with pytest.raises(ValueError, match="most: expected a positive integer or None, found 0"):
        rule.graph(x, codes, most=0)
    graph, weights = rule.graph(x, codes)
    with pytest.raises(ValueError, match="graph, weights: expected 4 nodes"):
        rule.insert(graph, weights, x[:4], codes[:4], x, codes)


def test_codes_as_large_as_hashes_are_compared_right():
    generator = torch.Generator().manual_seed(0)
    pool = torch.randint(2**62, (40,), generator=generator).tolist()
    sets = [{pool[int(i)] for i in torch.randint(40, (5,), generator=generator)} for _ in range(30)]
    small = [{pool.index(code) for code in row} for row in sets]
    i, j = (x.flatten() for x in torch.meshgrid(torch.arange(30), torch.arange(30), indexing="ij"))
    assert torch.equal(CodeSets.of(sets).jaccard(i, j), CodeSets.of(small).jaccard(i, j))
