"""Induction heads: what followed the special token when it was last seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokenmix.compare.task import IGNORED, Batch, Case, Split, Task, register_task, tokens
from tokenmix.compare.tasks.arguments import check_at_least, check_counts


@register_task("induction")
class Induction(Task):
    """Induction heads: a special token is seen for the second time; the answer is what followed it the first time.

    Of V tokens, V - 1 is the special one and the others are ordinary. A row of L tokens ends with the special token,
    and has it once more at a place p drawn uniformly from {0, ..., L - 3}. All other tokens are drawn uniformly from
    the ordinary ones. The one answer, at the last place, is the token at p + 1.

        inputs   a b * c d a  ...  *
        targets  - - - - - -  ...  c

    Args:
        lengths: L, tokens a row, of each case; at least 3.
        vocabulary: V, the special token among them; at least 3.

    Raises:
        TypeError, ValueError: arguments of another type, or too small.

    Example:
        >>> batch = Induction(lengths=[12], vocabulary=8).batch("train", seed=0, number=0, rows=1)
        >>> row = batch.inputs[0].tolist()
        >>> int(batch.targets[0, -1]) == row[row.index(7) + 1]
        True

    Source:
        Gu and Dao 2023 (Mamba), arXiv 2312.00752, section 3.1 and 4.1.2: length 256, vocabulary 16. The head of
        attention that does it: Olsson et al. 2022, arXiv 2209.11895.
    """

    source = "Gu and Dao 2023, arXiv 2312.00752, section 4.1.2; Olsson et al. 2022, arXiv 2209.11895"

    def __init__(self, lengths: Sequence[int] = (64, 128, 256), vocabulary: int = 16) -> None:
        lengths = check_counts("lengths", lengths, at_least=3)
        check_at_least("vocabulary", vocabulary, at_least=3)
        self.vocab_size = self.outputs = vocabulary
        self.special = vocabulary - 1
        self.cases = tuple({"length": length} for length in lengths)

    def draw(self, case: Case, rows: int, split: Split, generator: np.random.Generator) -> Batch:
        """See `Task.draw`."""
        shape = (rows, case["length"])
        inputs = generator.integers(0, self.special, size=shape)
        place = generator.integers(0, shape[1] - 2, size=(rows, 1))
        np.put_along_axis(inputs, place, self.special, axis=1)
        inputs[:, -1] = self.special
        targets = np.full(shape, IGNORED)
        targets[:, -1:] = np.take_along_axis(inputs, place + 1, axis=1)
        return Batch(tokens(inputs), tokens(targets))

    def references(self) -> dict[str, float]:
        """Guessing an ordinary token."""
        return {"guessing": 1 / self.special}

    def span(self, case: Case) -> int:
        """From the question to the second place of a row, where the answer may stand."""
        return int(case["length"]) - 2
