"""Multi-query associative recall, by the definition of Zoology."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokenmix.compare.task import IGNORED, Batch, Case, Split, Task, register_task, tokens
from tokenmix.compare.tasks.arguments import check_list
from tokenmix.mixer import check_positive


@register_task("recall")
class Recall(Task):
    """Multi-query associative recall (MQAR): say which value followed a key.

    A row begins with n different keys, each followed by its value; the values of a row differ too. In the rest each
    key is asked for once: at the place of the query, the answer is its value. With V tokens, keys are drawn from 1 to
    V/2 - 1 and values from V/2 to V - 1. Queries stand at even distances g from the end of the pairs; g / 2 of the n
    queries are drawn without replacement from {0, ..., S - 1}, S = (length - 2 n) / 2, with probability proportional
    to (g/2 + 1)^(power - 1), so that most are near. Everything else is a random token.

        inputs   k1 v1 k2 v2  ...  k2 ..  k1 ..
        targets  -  -  -  -        v2     v1

    The first key gets the first draw, so it tends to be asked for soonest, as in the published code. Two departures
    from that code. Random tokens are never a key of the row: there, a key that stands by chance before another token
    makes its answer ambiguous, which is rare with 8192 tokens and not with 64. And the
    first of V/2 key tokens, 0, is not used as a filler either, since nothing else uses it.

    Args:
        lengths: tokens a row, each combined with `pairs` of the same index; or one for all.
        pairs: n, key-value pairs.
        vocabulary: V.
        power: of the distances; 1 makes them uniform.

    Raises:
        ValueError: 4 n above the length, an odd length, or more than V/2 - 1 keys.

    Example:
        >>> batch = Recall(lengths=[16], pairs=[2], vocabulary=16).batch("train", seed=0, number=0, rows=1)
        >>> keys, values = batch.inputs[0, [0, 2]].tolist(), batch.inputs[0, [1, 3]].tolist()
        >>> asked = [i for i, answer in enumerate(batch.targets[0].tolist()) if answer != -100]
        >>> {int(batch.inputs[0, i]): int(batch.targets[0, i]) for i in asked} == dict(zip(keys, values))
        True

    Source:
        Arora et al. 2023 (Zoology), arXiv 2312.04927, appendix; vocabulary 8192, lengths 64 to 512, 4 to 64 pairs,
        power 0.01 in the authors' code.
    """

    source = "Arora et al. 2023, arXiv 2312.04927"
    vary = "pairs"

    def __init__(
        self,
        lengths: Sequence[int] = (64, 128, 256, 512),
        pairs: Sequence[int] = (4, 8, 16, 64),
        vocabulary: int = 8192,
        power: float = 0.01,
    ) -> None:
        lengths, pairs = check_list("lengths", lengths), check_list("pairs", pairs)
        lengths = lengths * len(pairs) if len(lengths) == 1 else lengths
        if len(lengths) != len(pairs):
            raise ValueError(f"lengths: expected one, or one for each of pairs {list(pairs)}, found {lengths}")
        check_positive("vocabulary", vocabulary)
        for length, count in zip(lengths, pairs, strict=True):
            check_positive("pairs", count)
            check_positive("lengths", length)
            if length % 2 or length < 4 * count:
                raise ValueError(f"lengths: expected an even number of at least 4 * pairs={4 * count}, found {length}")
            if count > vocabulary // 2 - 1:
                raise ValueError(
                    f"vocabulary: expected more than {2 * count + 1} for {count} pairs, found {vocabulary}"
                )
        if isinstance(power, bool) or not isinstance(power, (int, float)):
            raise TypeError(f"power: expected a positive number, found {power!r}")
        if not power > 0:
            raise ValueError(f"power: expected a positive number, found {power}")
        self.vocab_size = self.outputs = self.vocabulary = vocabulary
        self.cases = tuple({"length": n, "pairs": k} for n, k in zip(lengths, pairs, strict=True))
        self.power = power

    def draw(self, case: Case, rows: int, split: Split, generator: np.random.Generator) -> Batch:
        """See `Task.draw`."""
        length, pairs, half = case["length"], case["pairs"], self.vocabulary // 2
        keys = 1 + _choose(generator, rows, half - 1, pairs)
        values = half + _choose(generator, rows, self.vocabulary - half, pairs)
        places = (length - 2 * pairs) // 2
        weights = np.arange(1, places + 1) ** (self.power - 1)
        asked = 2 * pairs + 2 * _choose(generator, rows, places, pairs, weights)
        inputs = _fillers(generator, (rows, length), keys, self.vocabulary)
        inputs[:, 0 : 2 * pairs : 2], inputs[:, 1 : 2 * pairs : 2] = keys, values
        np.put_along_axis(inputs, asked, keys, axis=1)
        targets = np.full((rows, length), IGNORED)
        np.put_along_axis(targets, asked, values, axis=1)
        return Batch(tokens(inputs), tokens(targets))

    def references(self) -> dict[str, float]:
        """Guessing one of the values that stand in the row, and any value."""
        row = sum(1 / case["pairs"] for case in self.cases) / len(self.cases)
        return {"guessing a value of the row": row, "guessing any value": 1 / (self.vocabulary - self.vocabulary // 2)}

    def span(self, case: Case) -> int:
        """From the first pair's value to the first place where it can be asked for: 2 n - 1."""
        return 2 * case["pairs"] - 1


def _choose(
    generator: np.random.Generator, rows: int, count: int, picks: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """(rows, picks) different numbers below `count` in each row, drawn one after the other by their weights."""
    # the largest of log w + Gumbel noise are a draw without replacement
    keys = generator.gumbel(size=(rows, count)) + (0.0 if weights is None else np.log(weights))
    if picks == count:
        return np.argsort(-keys, axis=1)
    top = np.argpartition(-keys, picks - 1, axis=1)[:, :picks]
    order = np.argsort(-np.take_along_axis(keys, top, axis=1), axis=1)
    return np.take_along_axis(top, order, axis=1)


def _fillers(generator: np.random.Generator, shape: tuple[int, int], keys: np.ndarray, vocabulary: int) -> np.ndarray:
    """Random tokens that are neither 0 nor a key of their row."""
    free = np.ones((shape[0], vocabulary), dtype=bool)
    free[:, 0] = False
    np.put_along_axis(free, keys, False, axis=1)
    listed = np.argsort(~free, axis=1, kind="stable")  # the free tokens first
    picked = generator.integers(0, vocabulary - 1 - keys.shape[1], size=shape)
    return np.take_along_axis(listed, picked, axis=1)
