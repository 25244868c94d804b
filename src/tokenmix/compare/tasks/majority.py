"""Majority: whether a string of bits has more ones than zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from tokenmix.compare.task import Batch, Case, Split, Task, register_task, tokens
from tokenmix.compare.tasks.arguments import check_counts


@register_task("majority")
class Majority(Task):
    """Majority: 1 where a row of bits has more ones than zeros, else 0.

        answer = [b_1 + ... + b_L > L / 2],   bits uniform and independent, L odd

    Uniform attention solves it in one layer, since a mean over the row is all it takes. Most rows are close: of L bits
    the ones are ahead or behind by about sqrt(L) only.

    Args:
        lengths: L, bits a row, of each case; odd, so that there is no tie.

    Raises:
        TypeError, ValueError: lengths that are no positive odd integers.

    Example:
        >>> batch = Majority(lengths=[9]).batch("train", seed=0, number=0, rows=1)
        >>> row = batch.inputs[0].tolist()
        >>> int(batch.targets[0]) == int(row.count(1) > row.count(0))
        True

    Source:
        Merrill et al. 2022, arXiv 2106.16213, whose uniform attention decides it.
    """

    source = "Merrill et al. 2022, arXiv 2106.16213"
    vocab_size = 2
    outputs = 2
    per: Literal["token", "row"] = "row"
    needs_causal = False

    def __init__(self, lengths: Sequence[int] = (31, 63, 127, 255)) -> None:
        lengths = check_counts("lengths", lengths)
        even = [length for length in lengths if length % 2 == 0]
        if even:
            raise ValueError(f"lengths: expected odd numbers, so that there is no tie, found {even}")
        self.cases = tuple({"length": length} for length in lengths)

    def draw(self, case: Case, rows: int, split: Split, generator: np.random.Generator) -> Batch:
        """See `Task.draw`."""
        bits = generator.integers(0, 2, size=(rows, case["length"]))
        return Batch(tokens(bits), tokens(2 * bits.sum(axis=1) > case["length"]))

    def references(self) -> dict[str, float]:
        """Guessing, and answering with one bit of the row.

        One bit decides where the other L - 1 are even, and is right in half of the other rows:
        P = 1/2 + C(L - 1, (L - 1) / 2) / 2^L, here the mean over the cases.
        """
        lengths = [case["length"] for case in self.cases]
        right = [0.5 + math.comb(length - 1, length // 2) / 2**length for length in lengths]
        return {"guessing": 0.5, "one bit": sum(right) / len(right)}
