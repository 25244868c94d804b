"""Sorting: numbers, then as many slots in which they stand in order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tokenmix.compare.task import IGNORED, Batch, Case, Split, Task, register_task, tokens
from tokenmix.compare.tasks.arguments import check_at_least, check_counts


@register_task("sorting")
class Sorting(Task):
    """Sorting: n numbers, then n slots; the answer in slot i is the i-th smallest number.

    Numbers are tokens 0 to V - 1, drawn uniformly with replacement; token V marks a slot. The slots are answered all
    at once, and answers are never fed back. All slots look alike: a mixer that knows no order needs positions.

        inputs   3 1 2 1  >  >  >  >
        targets  - - - -  1  1  2  3

    Args:
        lengths: 2 n, tokens a row, of each case; even.
        vocabulary: V, different numbers; at least 2.

    Raises:
        TypeError, ValueError: arguments of another type, too small, or an odd length.

    Example:
        >>> batch = Sorting(lengths=[8], vocabulary=10).batch("train", seed=0, number=0, rows=1)
        >>> batch.targets[0, 4:].tolist() == sorted(batch.inputs[0, :4].tolist())
        True

    Source:
        A task of Neural Turing Machines (Graves et al. 2014, arXiv 1410.5401, section 4.5), there with priorities,
        and of "Order Matters" (Vinyals et al. 2015, arXiv 1511.06391), there with real numbers; here they are classes.
    """

    source = "after Graves et al. 2014, arXiv 1410.5401, and Vinyals et al. 2015, arXiv 1511.06391"
    blind = "likeliest of the slot"
    needs_causal = False

    def __init__(self, lengths: Sequence[int] = (16, 32, 64), vocabulary: int = 16) -> None:
        lengths = check_counts("lengths", lengths, at_least=2)
        odd = [length for length in lengths if length % 2]
        if odd:
            raise ValueError(f"lengths: expected even numbers, as many slots as numbers, found {odd}")
        check_at_least("vocabulary", vocabulary, at_least=2)
        self.vocab_size, self.outputs = vocabulary + 1, vocabulary
        self.cases = tuple({"length": length} for length in lengths)

    def draw(self, case: Case, rows: int, split: Split, generator: np.random.Generator) -> Batch:
        """See `Task.draw`."""
        count = case["length"] // 2
        numbers = generator.integers(0, self.outputs, size=(rows, count))
        slots = np.full((rows, count), self.outputs)
        targets = np.concatenate([np.full((rows, count), IGNORED), np.sort(numbers, axis=1)], axis=1)
        return Batch(tokens(np.concatenate([numbers, slots], axis=1)), tokens(targets))

    def references(self) -> dict[str, float]:
        """Guessing a number, and naming the likeliest of each slot by its place alone (exact, the mean over cases)."""
        right = [likeliest_order_statistics(case["length"] // 2, self.outputs).mean() for case in self.cases]
        return {"guessing": 1 / self.outputs, "likeliest of the slot": float(np.mean(right))}


def likeliest_order_statistics(count: int, vocabulary: int) -> np.ndarray:
    """(count,) max over v of P(the i-th smallest of `count` uniform draws from {0, ..., vocabulary - 1} is v).

        P(X_(i) <= v) = P(Binomial(count, (v + 1) / vocabulary) >= i)

    Example:
        >>> likeliest_order_statistics(2, 2)  # the smaller of two bits is 0 in three of four cases
        array([0.75, 0.75])
    """
    below = np.arange(vocabulary + 1) / vocabulary
    chosen = [math.comb(count, j) * below**j * (1 - below) ** (count - j) for j in range(count + 1)]
    at_least = np.cumsum(chosen[::-1], axis=0)[::-1]  # (count + 1, V + 1), row i is P(Binomial >= i)
    return np.diff(at_least[1:], axis=1).max(axis=1)
