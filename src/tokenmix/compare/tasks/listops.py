"""ListOps: nested operations on lists of digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from tokenmix.compare.task import Batch, Case, Split, Task, register_task, tokens
from tokenmix.compare.tasks.arguments import check_at_least, check_counts
from tokenmix.layout import Layout

OPERATOR_PROBABILITY = 0.25
LEAST_ACCEPTED = 1e-3  # of expressions, those long enough and not too long
REFERENCE_ROWS = 2000  # to find the most frequent answer


def median(values: list[int]) -> int:
    """The median; of an even count, half the sum of the middle two, rounded down, as in the published code.

    Example:
        >>> median([9, 1, 4, 2])
        3
    """
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) // 2


OPERATORS: dict[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": median,
    "[SM": lambda values: sum(values) % 10,
}
TOKENS = (*"0123456789", *OPERATORS, "]", "padding")
CLOSE, PADDING = TOKENS.index("]"), TOKENS.index("padding")
_EVALUATE = {TOKENS.index(name): function for name, function in OPERATORS.items()}


@register_task("listops")
class ListOps(Task):
    """ListOps: the value, a digit, of an expression of nested operations on lists.

        [MAX 2 9 [MIN 4 7 ] 0 ]  ->  9

    Operations are the minimum, the maximum, the median (of an even count half the sum of the middle two, rounded
    down) and the sum modulo 10. The grammar: at depth 1 to D - 1 a node is an operation with probability 1/4, one of
    the four and of 2 to A arguments, all equally likely, whose arguments are nodes of the next depth; otherwise, and
    at depth D, it is one of ten digits. The root is always an operation. For a case of length L, expressions of more
    than L / 2 and at most L tokens are kept, and padded to L on the right; layout.mask tells the padding. Token ids
    are places in `TOKENS`: digits, operators with their opening brackets, the closing bracket, padding.

    Args:
        lengths: L, tokens a row with padding, of each case; at least 8.
        max_depth: D; at least 2.
        max_arguments: A; at least 2.

    Raises:
        TypeError, ValueError: arguments of another type, too small, or with which less than one in 1000 expressions
            has such a length.

    Example:
        >>> batch = ListOps(lengths=[16]).batch("train", seed=5, number=0, rows=1)
        >>> " ".join(TOKENS[token] for token in batch.inputs[0].tolist() if token != PADDING)
        '[MED 6 [MAX 1 4 ] 2 5 8 7 [MED 0 5 ] 0 ]'
        >>> int(batch.targets[0])
        4

    Source:
        Nangia and Bowman 2018, arXiv 1804.06028: depth 20, 5 arguments, and brackets around each pair besides. Without
        those, with depth 10, 10 arguments and 500 to 2000 tokens: Long Range Arena, Tay et al. 2020, arXiv 2011.04006.
    """

    source = "Nangia and Bowman 2018, arXiv 1804.06028; Tay et al. 2020, arXiv 2011.04006"
    vocab_size = len(TOKENS)
    outputs = 10
    per: Literal["token", "row"] = "row"
    blind = "most frequent answer"
    needs_causal = False
    fields = ("mask",)

    def __init__(self, lengths: Sequence[int] = (32, 64, 128), max_depth: int = 10, max_arguments: int = 10) -> None:
        lengths = check_counts("lengths", lengths, at_least=8)
        check_at_least("max_depth", max_depth, at_least=2)
        check_at_least("max_arguments", max_arguments, at_least=2)
        shares = length_distribution(max(lengths), max_depth, max_arguments)
        for length in lengths:
            kept = float(shares[length // 2 + 1 : length + 1].sum())
            if kept < LEAST_ACCEPTED:
                raise ValueError(
                    f"lengths: expected lengths that at least {LEAST_ACCEPTED} of expressions have, found {kept:.1g} "
                    f"between {length // 2 + 1} and {length} tokens with max_depth={max_depth}, "
                    f"max_arguments={max_arguments}"
                )
        self.max_depth, self.max_arguments = max_depth, max_arguments
        self.cases = tuple({"length": length} for length in lengths)

    def draw(self, case: Case, rows: int, split: Split, generator: np.random.Generator) -> Batch:
        """See `Task.draw`."""
        length = case["length"]
        choices = _choices(generator, self.max_arguments)
        inputs = np.full((rows, length), PADDING)
        counts: list[int] = []
        answers: list[int] = []
        while len(answers) < rows:
            expression, value = grow(choices, self.max_depth, length)
            if length < 2 * len(expression) and len(expression) <= length:
                inputs[len(answers), : len(expression)] = expression
                counts.append(len(expression))
                answers.append(value)
        return Batch(tokens(inputs), tokens(np.array(answers)), Layout.from_lengths(counts, length))

    def references(self) -> dict[str, float]:
        """Guessing, and the most frequent answer of each case, measured on 2000 rows with a fixed seed."""
        found = 0
        for number, _ in enumerate(self.cases):
            answers = self.batch("valid", 0, number, REFERENCE_ROWS).targets
            found += int(answers.bincount(minlength=10).max())
        return {"guessing": 0.1, "most frequent answer": found / (REFERENCE_ROWS * len(self.cases))}


Choice = tuple[bool, int, int, int]  # is it an operation, digit, operator, arguments


def _choices(generator: np.random.Generator, max_arguments: int) -> Iterator[Choice]:
    """Endless random choices for the nodes of expressions."""
    size = 4096  # at a time, which is much faster than one by one
    while True:
        operation = (generator.random(size) < OPERATOR_PROBABILITY).tolist()
        digit = generator.integers(0, 10, size).tolist()
        operator = generator.integers(10, 10 + len(OPERATORS), size).tolist()
        arguments = generator.integers(2, max_arguments + 1, size).tolist()
        yield from zip(operation, digit, operator, arguments, strict=True)


def grow(choices: Iterator[Choice], max_depth: int, longest: int) -> tuple[list[int], int]:
    """An expression, grown from left to right and evaluated as its brackets close.

    Args:
        choices: for each node, from `_choices`.
        max_depth: D.
        longest: growth stops beyond this many tokens, where the value means nothing.

    Returns:
        Token ids, and the value.

    Example:
        >>> choices = iter([(True, 0, 13, 2), (False, 7, 0, 0), (False, 8, 0, 0)])
        >>> expression, value = grow(choices, max_depth=2, longest=16)
        >>> " ".join(TOKENS[token] for token in expression), value
        ('[SM 7 8 ]', 5)
    """
    expression: list[int] = []
    pending: list[tuple[int, int, list[int]]] = []  # operations whose brackets are open: operator, arguments, values
    while len(expression) <= longest:
        operation, value, operator, arguments = next(choices)
        if not pending or (operation and len(pending) + 1 < max_depth):
            expression.append(operator)
            pending.append((operator, arguments, []))
            continue
        expression.append(value)
        while pending:
            operator, arguments, values = pending[-1]
            values.append(value)
            if len(values) < arguments:
                break
            pending.pop()
            expression.append(CLOSE)
            value = _EVALUATE[operator](values)
        if not pending:
            return expression, value
    return expression, 0


def length_distribution(longest: int, max_depth: int, max_arguments: int) -> np.ndarray:
    """(longest + 1,) probabilities that an expression has 0, 1, ... tokens, exact; they sum to less than 1.

    With the polynomials P_k(z) = sum_n P(a node has n tokens) z^n of nodes that k more depths fit below,
    P_0 = z, P_k = 3/4 z + 1/4 Q_k and Q_k = z^2 mean_a P_(k-1)(z)^a over the counts a of arguments. An expression
    has Q_(D-1).

    Example:
        >>> length_distribution(4, max_depth=2, max_arguments=3)  # two digits or three, between brackets
        array([0. , 0. , 0. , 0. , 0.5])
    """
    node = np.zeros(longest + 1)
    node[1:2] = 1
    digit = node.copy()
    operation = node
    for _ in range(max_depth - 1):
        power, operation = node, np.zeros(longest + 1)
        for _ in range(2, max_arguments + 1):
            power = np.convolve(power, node)[: longest + 1]
            operation[2:] += power[:-2] / (max_arguments - 1)
        node = (1 - OPERATOR_PROBABILITY) * digit + OPERATOR_PROBABILITY * operation
    return operation
