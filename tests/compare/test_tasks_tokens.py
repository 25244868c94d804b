"""Induction, selective copying, sorting, parity and majority against solvers written from their definitions."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from tokenmix.compare.task import IGNORED, Batch
from tokenmix.compare.tasks import Induction, Majority, Parity, SelectiveCopying, Sorting
from tokenmix.compare.tasks.sorting import likeliest_order_statistics


def rows_of(batch: Batch) -> list[tuple[list[int], list[int]]]:
    return list(zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True))


def solve_induction(prefix: list[int], special: int) -> int:
    """What followed the special token before, from a row up to the question; -100 if its last token asks nothing."""
    before = prefix[:-1]
    return before[before.index(special) + 1] if prefix[-1] == special and special in before else IGNORED


def test_induction_is_solved_from_the_past_alone():
    batch = Induction(lengths=[12], vocabulary=6).batch("train", seed=0, number=0, rows=200)
    for row, target in rows_of(batch):
        assert row.count(5) == 2
        assert row[-1] == 5
        assert [solve_induction(row[: place + 1], 5) for place in range(12)] == target


def test_induction_places_and_answers_are_uniform():
    batch = Induction(lengths=[7], vocabulary=5).batch("train", seed=1, number=0, rows=10_000)
    places = Counter(row.index(4) for row, _ in rows_of(batch))
    answers = Counter(target[-1] for _, target in rows_of(batch))
    assert sorted(places) == [0, 1, 2, 3, 4]  # L - 3 is the last that has a follower before the question
    assert sorted(answers) == [0, 1, 2, 3]
    assert max(abs(count / 2000 - 1) for count in places.values()) < 0.1  # 4.5 standard errors
    assert max(abs(count / 2500 - 1) for count in answers.values()) < 0.1


def test_the_shortest_induction():
    batch = Induction(lengths=[3], vocabulary=3).batch("valid", seed=0, number=0, rows=50)
    assert {tuple(row) for row, _ in rows_of(batch)} == {(2, 0, 2), (2, 1, 2)}
    assert all(target == [IGNORED, IGNORED, row[1]] for row, target in rows_of(batch))


def test_selective_copying_is_solved_from_the_past_alone():
    task = SelectiveCopying(lengths=[20], content=5, vocabulary=9)
    for row, target in rows_of(task.batch("train", seed=0, number=0, rows=200)):
        assert row[15:] == [8] * 5
        content = [token for token in row[:15] if token != 0]
        assert len(content) == 5
        assert set(content) <= set(range(1, 8))
        assert target == [IGNORED] * 15 + content


def test_selective_copying_at_uniform_places():
    batch = SelectiveCopying(lengths=[8], content=2, vocabulary=4).batch("train", seed=0, number=0, rows=15_000)
    counts = Counter(tuple(place for place in range(6) if row[place]) for row, _ in rows_of(batch))
    assert set(counts) == set(itertools.combinations(range(6), 2))
    assert max(abs(count / 1000 - 1) for count in counts.values()) < 0.15  # 4.9 standard errors
    content = Counter(tuple(target[6:]) for _, target in rows_of(batch))
    assert set(content) == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert max(abs(count / 3750 - 1) for count in content.values()) < 0.08


def test_selective_copying_with_no_noise_is_copying():
    batch = SelectiveCopying(lengths=[6], content=3).batch("test", seed=0, number=0, rows=20)
    assert all(target[3:] == row[:3] for row, target in rows_of(batch))


@pytest.mark.parametrize("task", [Induction(lengths=[9]), SelectiveCopying(lengths=[9], content=3)])
def test_no_answer_is_farther_back_than_the_span_and_some_are_there(task):
    special = task.special if isinstance(task, Induction) else None
    farthest = 0
    for row, target in rows_of(task.batch("train", seed=0, number=0, rows=500)):
        if special is not None:
            farthest = max(farthest, 8 - row.index(special) - 1)
        else:
            content = [place for place in range(6) if row[place]]
            farthest = max(farthest, *(slot - place for slot, place in zip(range(6, 9), content, strict=True)))
        assert len([answer for answer in target if answer != IGNORED]) == (1 if special is not None else 3)
    assert farthest == task.span(task.cases[0])


def solve_sorting(row: list[int], slot: int) -> list[int]:
    """By counting, not by sorting."""
    numbers = row[: row.index(slot)]
    counted = [value for value in range(slot) for _ in range(sum(number == value for number in numbers))]
    return [IGNORED] * len(numbers) + counted


def test_sorting_is_counting():
    batch = Sorting(lengths=[14], vocabulary=5).batch("train", seed=0, number=0, rows=200)
    for row, target in rows_of(batch):
        assert row[7:] == [5] * 7
        assert solve_sorting(row, 5) == target
    assert any(row[:7] != target[7:] for row, target in rows_of(batch))


def test_likeliest_order_statistics_by_listing_all_rows():
    for count, vocabulary in ((1, 3), (2, 4), (4, 3), (5, 2)):
        rows = np.sort(list(itertools.product(range(vocabulary), repeat=count)), axis=1)
        expected = [np.bincount(rows[:, place]).max() / len(rows) for place in range(count)]
        np.testing.assert_allclose(likeliest_order_statistics(count, vocabulary), expected, rtol=1e-12)


def test_the_reference_of_sorting_is_the_score_of_the_best_constant():
    task = Sorting(lengths=[4, 12], vocabulary=4)
    share = []
    for number in range(2):
        answers = task.batch("train", 0, number, 20_000).targets[:, task.cases[number]["length"] // 2 :]
        right = sum(int(answers[:, place].bincount().max()) for place in range(answers.shape[1]))
        share.append(right / answers.numel())
    assert abs(share[0] - share[1]) > 0.02  # so that the mean over cases is not that over answers
    assert task.references()["likeliest of the slot"] == pytest.approx(sum(share) / 2, abs=0.005)


def test_parity_flips_with_every_bit():
    batch = Parity(lengths=[11]).batch("train", seed=0, number=0, rows=300)
    answers = set()
    for row, answer in rows_of(batch):
        state = 0
        for bit in row:
            state ^= bit
        assert state == answer
        answers.add(answer)
    assert answers == {0, 1}


@pytest.mark.parametrize("length", [5, 6])
def test_the_span_of_parity_lets_one_token_read_all_and_without_it_a_quarter_is_wrong(length):
    task = Parity(lengths=[length])
    span = task.span(task.cases[0])
    windows = {
        reach: [set(range(max(0, i - reach), min(length, i + reach + 1))) for i in range(length)]
        for reach in (span, span - 1)
    }
    assert any(len(window) == length for window in windows[span])
    assert all(not {0, length - 1} <= window for window in windows[span - 1])
    # f(x) + g(y) against x xor y, for every order of the four sums that numbers from a grid give
    grid = np.linspace(-1, 1, 9)
    best = max(
        sum((f[x] + g[y] > 0) == (x ^ y) for x in (0, 1) for y in (0, 1))
        for f in itertools.product(grid, repeat=2)
        for g in itertools.product(grid, repeat=2)
    )
    assert best == 3


def test_majority_counts_and_is_balanced():
    batch = Majority(lengths=[9]).batch("train", seed=0, number=0, rows=4000)
    for row, answer in rows_of(batch):
        balance = 0
        for bit in row:
            balance += 1 if bit else -1
        assert balance != 0
        assert answer == int(balance > 0)
    assert abs(batch.targets.float().mean() - 0.5) < 4 * 0.5 / math.sqrt(4000)


def test_one_bit_of_the_majority_by_listing_all_rows():
    lengths = [1, 3, 7]
    share = [
        np.mean([row[0] == (2 * sum(row) > length) for row in itertools.product((0, 1), repeat=length)])
        for length in lengths
    ]
    assert Majority(lengths=lengths).references()["one bit"] == pytest.approx(float(np.mean(share)), rel=1e-12)


def test_guessing():
    assert Induction(vocabulary=16).references() == {"guessing": 1 / 15}
    assert SelectiveCopying(vocabulary=16).references() == {"guessing": 1 / 14}
    assert Sorting(vocabulary=10).references()["guessing"] == 1 / 10
    assert Parity().references() == {"guessing": 0.5}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Induction(lengths=[2]), "lengths: expected integers of at least 3, found 2"),
        (lambda: Induction(vocabulary=2), "vocabulary: expected an integer of at least 3, found 2"),
        (lambda: SelectiveCopying(lengths=[31], content=16), "lengths: expected integers of at least 32, found 31"),
        (lambda: SelectiveCopying(vocabulary=3), "vocabulary: expected an integer of at least 4, found 3"),
        (lambda: SelectiveCopying(content=0), "content: expected a positive integer, found 0"),
        (lambda: Sorting(lengths=[8, 9]), r"lengths: expected even numbers, .*, found \[9\]"),
        (lambda: Sorting(vocabulary=1), "vocabulary: expected an integer of at least 2, found 1"),
        (lambda: Parity(lengths=[0]), "lengths: expected a positive integer, found 0"),
        (lambda: Majority(lengths=[5, 8]), r"lengths: expected odd numbers, .*, found \[8\]"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
