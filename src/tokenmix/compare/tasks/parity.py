"""Parity: whether a string of bits has an odd number of ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from tokenmix.compare.task import Batch, Case, Split, Task, register_task, tokens
from tokenmix.compare.tasks.arguments import check_counts


@register_task("parity")
class Parity(Task):
    """Parity: 1 where a row of bits has an odd number of ones, else 0.

        answer = (b_1 + ... + b_L) mod 2,   bits uniform and independent

    Every bit counts: with one of them unknown, both answers are equally likely. A recurrence with one bit of memory
    solves it at any length, if its transition can change sign. Attention of fixed depth and bounded weights cannot, as
    one bit then moves its output by O(1 / L) only (Hahn 2020).

    Args:
        lengths: L, bits a row, of each case.

    Raises:
        TypeError, ValueError: lengths that are no positive integers.

    Example:
        >>> batch = Parity(lengths=[9]).batch("train", seed=0, number=0, rows=1)
        >>> int(batch.targets[0]) == batch.inputs[0].tolist().count(1) % 2
        True

    Source:
        Hahn 2020, arXiv 1906.06755.
    """

    source = "Hahn 2020, arXiv 1906.06755"
    vocab_size = 2
    outputs = 2
    per: Literal["token", "row"] = "row"
    needs_causal = False

    def __init__(self, lengths: Sequence[int] = (16, 32, 64, 128)) -> None:
        self.cases = tuple({"length": length} for length in check_counts("lengths", lengths))

    def draw(self, case: Case, rows: int, split: Split, generator: np.random.Generator) -> Batch:
        """See `Task.draw`."""
        bits = generator.integers(0, 2, size=(rows, case["length"]))
        return Batch(tokens(bits), tokens(bits.sum(axis=1) % 2))

    def references(self) -> dict[str, float]:
        """Guessing, which is all that is left where one bit is unknown."""
        return {"guessing": 0.5}

    def span(self, case: Case) -> int:
        """From the middle of a row to its ends, as some token must read all bits; to the past alone it is L - 1.

        Windows shorter than L miss the first bit x or the last bit y. So what a linear head reads off the mean over
        tokens is f + g, of which f does not depend on y and g not on x. With the bits between them fixed, f(x) + g(y)
        has the sign of x xor y for at most three of the four (x, y): no more than 3/4 of the rows are right.
        """
        return int(case["length"]) // 2
