"""Selective copying: repeat the content, leave out the noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokenmix.compare.task import IGNORED, Batch, Case, Split, Task, register_task, tokens
from tokenmix.compare.tasks.arguments import check_at_least, check_counts
from tokenmix.mixer import check_positive


@register_task("selective_copying")
class SelectiveCopying(Task):
    """Selective copying: content tokens are scattered in noise, and must be repeated in their order at the end.

    Of V tokens, 0 is noise, V - 1 marks a slot, and 1 to V - 2 are content. A row of L tokens ends with n slots. Its
    first L - n places hold n content tokens, drawn uniformly with replacement, at places drawn uniformly without
    replacement; the others are noise. The answer in slot i is the i-th content token.

        inputs   0 c 0 0 a 0 b  >  >  >
        targets  - - - - - - -  c  a  b

    As the distances vary, no fixed convolution solves it; with the content at fixed places it is the copying task of
    Arjovsky et al. All slots look alike, and the answers are never fed back.

    Args:
        lengths: L, tokens a row, of each case; at least twice `content`.
        content: n, content tokens a row.
        vocabulary: V, noise and slot among them; at least 4.

    Raises:
        TypeError, ValueError: arguments of another type, or too small.

    Example:
        >>> task = SelectiveCopying(lengths=[16], content=3, vocabulary=8)
        >>> batch = task.batch("train", seed=0, number=0, rows=1)
        >>> content = [token for token in batch.inputs[0].tolist() if token not in (0, 7)]
        >>> batch.targets[0, -3:].tolist() == content
        True

    Source:
        Gu and Dao 2023 (Mamba), arXiv 2312.00752, section 4.1.1: length 4096, 16 content tokens, vocabulary 16. The
        slots' token is one of the vocabulary here. After Jing et al. 2019, arXiv 1706.02761 (denoising), and Arjovsky
        et al. 2016, arXiv 1511.06464 (copying).
    """

    source = "Gu and Dao 2023, arXiv 2312.00752, section 4.1.1; Jing et al. 2019, arXiv 1706.02761"

    def __init__(self, lengths: Sequence[int] = (64, 128, 256), content: int = 16, vocabulary: int = 16) -> None:
        check_positive("content", content)
        lengths = check_counts("lengths", lengths, at_least=2 * content)
        check_at_least("vocabulary", vocabulary, at_least=4)
        self.vocab_size = self.outputs = vocabulary
        self.content, self.slot = content, vocabulary - 1
        self.cases = tuple({"length": length} for length in lengths)

    def draw(self, case: Case, rows: int, split: Split, generator: np.random.Generator) -> Batch:
        """See `Task.draw`."""
        shape = (rows, case["length"])
        content = generator.integers(1, self.slot, size=(rows, self.content))
        order = generator.random((rows, shape[1] - self.content)).argsort(axis=1)  # the first n are a draw
        inputs = np.zeros(shape, dtype=np.int64)
        np.put_along_axis(inputs, np.sort(order[:, : self.content], axis=1), content, axis=1)
        inputs[:, -self.content :] = self.slot
        targets = np.full(shape, IGNORED)
        targets[:, -self.content :] = content
        return Batch(tokens(inputs), tokens(targets))

    def references(self) -> dict[str, float]:
        """Guessing a content token."""
        return {"guessing": 1 / (self.slot - 1)}

    def span(self, case: Case) -> int:
        """The distance from slot i to place i, where its token stands if all content comes first."""
        return int(case["length"]) - self.content
