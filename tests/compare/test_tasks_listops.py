"""ListOps against a recursive parser and against the distribution that its grammar has."""

import statistics

import numpy as np
import pytest

from tokenmix.compare.tasks import ListOps
from tokenmix.compare.tasks.listops import CLOSE, PADDING, TOKENS, grow, length_distribution, median


class Parser:
    """Reads an expression recursively: its value, and what it saw on the way."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.place = tokens, 0
        self.deepest, self.arguments, self.operators = 0, set(), []
        self.value = self.node(1)
        if self.place != len(tokens):
            raise ValueError(f"{len(tokens) - self.place} tokens left over")

    def node(self, depth: int) -> int:
        self.deepest = max(self.deepest, depth)
        token = self.tokens[self.place]
        self.place += 1
        if token.isdigit():
            return int(token)
        if token not in ("[MIN", "[MAX", "[MED", "[SM"):
            raise ValueError(f"{token} cannot open a node")
        values = []
        while self.tokens[self.place] != "]":
            values.append(self.node(depth + 1))
        self.place += 1
        self.arguments.add(len(values))
        self.operators.append(token)
        if token == "[MED":
            return int(statistics.median(values))  # rounds half numbers down, as they are positive
        return {"[MIN": min(values), "[MAX": max(values), "[SM": sum(values) % 10}[token]


def expressions(task: ListOps, rows: int, number: int = 0) -> list[tuple[list[str], int]]:
    batch = task.batch("train", seed=0, number=number, rows=rows)
    found = []
    for row, mask, answer in zip(batch.inputs, batch.layout.mask, batch.targets.tolist(), strict=True):
        real = int(mask.sum())
        assert mask[:real].all()
        assert (row[real:] == PADDING).all()
        assert (row[:real] != PADDING).all()
        found.append(([TOKENS[token] for token in row[:real].tolist()], answer))
    return found


def test_answers_are_those_of_a_recursive_parser():
    task = ListOps(lengths=[24, 64], max_depth=5, max_arguments=4)
    deepest, arguments, operators, answers = 0, set(), set(), set()
    for number, length in enumerate((24, 64)):
        for tokens, answer in expressions(task, 400, number):
            parsed = Parser(tokens)
            assert parsed.value == answer
            assert length // 2 < len(tokens) <= length
            assert tokens[0].startswith("[")
            deepest = max(deepest, parsed.deepest)
            arguments |= parsed.arguments
            operators.update(parsed.operators)
            answers.add(answer)
    assert deepest == 5
    assert arguments == {2, 3, 4}
    assert operators == {"[MIN", "[MAX", "[MED", "[SM"}
    assert answers == set(range(10))


def test_the_parser_tells_a_planted_fault():
    tokens, answer = ["[SM", "4", "[MED", "1", "8", "]", "9", "]"], 7  # 4 + 4 + 9
    assert Parser(tokens).value == answer
    assert Parser(["[SM", "4", "[MED", "1", "8", "9", "]", "9", "]"]).value != answer
    assert Parser(["[SM", "4", "[MAX", "1", "8", "]", "9", "]"]).value != answer
    with pytest.raises(IndexError):
        Parser(tokens[:-1])
    with pytest.raises(ValueError, match="left over"):
        Parser([*tokens, "]"])


@pytest.mark.parametrize(("values", "expected"), [([3, 4], 3), ([1, 5], 3), ([9, 0, 0], 0), ([7, 1, 3, 4], 3)])
def test_the_median_of_an_even_count_is_rounded_down(values, expected):
    assert median(values) == expected == int(np.median(values))


def test_lengths_follow_the_grammar():
    # the exact shares among the kept lengths against 20,000 rows
    task = ListOps(lengths=[20], max_depth=4, max_arguments=3)
    counts = task.batch("train", seed=0, number=0, rows=20_000).layout.counts().numpy()
    shares = length_distribution(20, max_depth=4, max_arguments=3)
    expected = shares[11:] / shares[11:].sum()
    found = np.bincount(counts, minlength=21)[11:] / 20_000
    assert np.abs(found - expected).max() < 4 * 0.5 / np.sqrt(20_000)


def test_the_distribution_of_lengths_is_that_of_simulated_expressions():
    generator = np.random.default_rng(0)

    def node(depth: int, root: bool = False) -> int:
        """Tokens of a node, by the grammar in the docstring."""
        if depth == 3 or not (root or generator.random() < 0.25):
            return 1
        return 2 + sum(node(depth + 1) for _ in range(generator.integers(2, 5)))

    found = np.bincount([min(node(1, root=True), 40) for _ in range(20_000)], minlength=41)[:21] / 20_000
    assert np.abs(found - length_distribution(20, max_depth=3, max_arguments=4)).max() < 4 * 0.5 / np.sqrt(20_000)
    assert length_distribution(80, max_depth=3, max_arguments=4).sum() == pytest.approx(1)


def test_growing_stops_when_it_is_too_long():
    choices = iter([(True, 0, 10, 9)] * 5 + [(False, 1, 0, 0)] * 100)
    expression, _ = grow(choices, max_depth=9, longest=12)
    assert len(expression) == 13
    assert CLOSE not in expression


def test_the_most_frequent_answer_is_measured():
    task = ListOps(lengths=[16, 32])
    references = task.references()
    assert references["guessing"] == 0.1
    best = [max(np.bincount([answer for _, answer in expressions(task, 4000, number)])) / 4000 for number in range(2)]
    assert references["most frequent answer"] == pytest.approx(np.mean(best), abs=0.025)
    assert references == ListOps(lengths=[16, 32]).references()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": [7]}, "lengths: expected integers of at least 8, found 7"),
        ({"max_depth": 1}, "max_depth: expected an integer of at least 2, found 1"),
        ({"max_arguments": 1}, "max_arguments: expected an integer of at least 2, found 1"),
        ({"lengths": [16, 64], "max_depth": 2}, "lengths: .* found 0 between 33 and 64 tokens with max_depth=2"),
        ({"lengths": [512], "max_depth": 5, "max_arguments": 5}, "between 257 and 512 tokens"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        ListOps(**options)
