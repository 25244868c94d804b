"""Recall: against every order of the ties, and rules that would flatter a model."""

import itertools
import math

import pytest
import torch

from tokenmix.retrieval import recall, retrieval


def over_all_orders(scores, k, relevant):
    """The mean over all orders of the candidates, sorted by score with ties as they stand."""
    hits = []
    for row, right in zip(scores.tolist(), relevant.tolist(), strict=True):
        orders = list(itertools.permutations(range(len(row))))
        found = [any(right[i] for i in sorted(order, key=lambda i: -row[i])[:k]) for order in orders]
        hits.append(sum(found) / len(orders))
    return sum(hits) / len(hits)


def ties(seed):
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 3, (7, 6), generator=g).float()  # six candidates with three scores: many ties
    relevant = torch.rand(7, 6, generator=g) < 0.3
    relevant[range(7), torch.randint(0, 6, (7,), generator=g)] = True
    return scores, relevant


@pytest.mark.parametrize("seed", range(5))
def test_recall_is_the_mean_over_all_orders_of_ties(seed):
    scores, relevant = ties(seed)
    found = recall(scores, k=range(1, 8), relevant=relevant)
    assert list(found) == [f"R@{k}" for k in range(1, 8)]
    for k in range(1, 7):
        assert found[f"R@{k}"] == pytest.approx(over_all_orders(scores, k, relevant), abs=1e-12)
    assert found["R@6"] == found["R@7"] == 1.0  # all candidates are looked at


def optimistic(scores, k, relevant):
    """A tie is won."""
    best = scores.masked_fill(~relevant, -math.inf).amax(1, keepdim=True)
    return ((scores > best).sum(1) < k).double().mean().item()


def first_found(scores, k, relevant):
    """Ties in the order of the columns, where the right answers of a diagonal may happen to come first."""
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return relevant.gather(1, order).any(1).double().mean().item()


def share_of_relevant(scores, k, relevant):
    """Another measure of the same name: how many of the relevant ones are found."""
    found = relevant.gather(1, scores.sort(1, descending=True).indices[:, :k]).sum(1)
    return (found / relevant.sum(1)).double().mean().item()


@pytest.mark.parametrize("fault", [optimistic, first_found, share_of_relevant])
def test_faults_are_found(fault):
    scores, relevant = ties(0)
    assert abs(fault(scores, 2, relevant) - over_all_orders(scores, 2, relevant)) > 0.01


@pytest.mark.parametrize("n", [2, 7, 100])
@pytest.mark.parametrize("value", [0.0, -1.5, math.inf, -math.inf])
def test_constant_scores_are_guesses(n, value):
    found = recall(torch.full((n, n), value), k=(1, 2))
    assert found == {"R@1": pytest.approx(1 / n), "R@2": pytest.approx(2 / n)}
    assert optimistic(torch.full((n, n), value), 1, torch.eye(n).bool()) == 1.0


def test_a_perfect_and_a_bad_order():
    n = 20
    assert recall(torch.eye(n)) == {"R@1": 1.0, "R@5": 1.0, "R@10": 1.0}
    assert recall(-torch.eye(n), k=[19]) == {"R@19": 0.0}
    shifted = torch.eye(n).roll(1, 1) * 2 + torch.eye(n)  # the right one is second
    assert recall(shifted, k=(1, 2)) == {"R@1": 0.0, "R@2": 1.0}


def test_one_of_several_relevant_is_enough():
    scores = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
    relevant = torch.tensor([[True, True, False], [True, True, False]])
    assert recall(scores, k=(1, 2), relevant=relevant) == {"R@1": 0.5, "R@2": 1.0}


def test_twins_count_as_right():
    scores = torch.tensor([[0.5, 0.9, 0.0], [0.9, 0.5, 0.0], [0.0, 0.0, 1.0]])
    twins = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    assert recall(scores, k=[1])["R@1"] == pytest.approx(1 / 3)
    assert recall(scores, k=[1], relevant=twins)["R@1"] == 1.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_floats(dtype):
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(30, 30, generator=g).to(dtype)
    assert recall(scores) == recall(scores.double())


def test_both_directions():
    g = torch.Generator().manual_seed(0)
    t2i, i2t = torch.randn(4, 6, generator=g), torch.randn(6, 4, generator=g)
    relevant = torch.zeros(4, 6, dtype=torch.bool)
    relevant[[0, 1, 2, 3, 0, 1], range(6)] = True
    found = retrieval(t2i, i2t, k=(1, 3), relevant=relevant)
    assert list(found) == ["t2i_R@1", "t2i_R@3", "i2t_R@1", "i2t_R@3"]
    assert found["t2i_R@1"] == recall(t2i, [1], relevant)["R@1"]
    assert found["i2t_R@3"] == recall(i2t, [3], relevant.T)["R@3"]
    assert retrieval(t2i[:, :4], i2t[:4])["i2t_R@1"] == recall(i2t[:4])["R@1"]


def test_one_query():
    assert recall(torch.zeros(1, 1), k=[1]) == {"R@1": 1.0}
    assert recall(torch.zeros(1, 4), k=[1], relevant=torch.tensor([[True, False, False, False]])) == {"R@1": 0.25}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scores": torch.zeros(3)}, ValueError, r"scores: expected shape \(queries, candidates\)"),
        ({"scores": torch.zeros(0, 3)}, ValueError, r"scores: expected .* without empty axes, found \(0, 3\)"),
        ({"scores": torch.zeros(3, 3).long()}, TypeError, "scores: expected floating point, found torch.int64"),
        (
            {"scores": torch.tensor([[math.nan, 0], [0, 1.0]])},
            ValueError,
            "scores: expected numbers, found NaN in 1 place",
        ),
        ({"scores": torch.zeros(3, 4)}, ValueError, "relevant: expected a matrix where .* 3 queries and 4 candidates"),
        ({"relevant": torch.ones(3, 2).bool()}, ValueError, r"relevant: expected shape .* = \(3, 3\), found \(3, 2\)"),
        ({"relevant": torch.ones(3, 3)}, TypeError, "relevant: expected bool, found torch.float32"),
        ({"relevant": torch.ones(3, 3).triu(1).bool()}, ValueError, "relevant: .* found none for query 2"),
        ({"k": ()}, ValueError, r"k: expected integers of at least 1, found \(\)"),
        ({"k": (1, 0)}, ValueError, r"k: expected integers of at least 1, found \(1, 0\)"),
        ({"k": (1.0,)}, TypeError, "k: expected integers, found 1.0"),
        ({"k": (True,)}, TypeError, "k: expected integers, found True"),
    ],
)
def test_mistakes_are_named(change, error, message):
    with pytest.raises(error, match=message):
        recall(**{"scores": torch.zeros(3, 3), **change})


def test_directions_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"t2i: expected shape \(texts, images\) = \(4, 3\), found \(3, 4\)"):
        retrieval(torch.zeros(3, 4), torch.zeros(3, 4))
