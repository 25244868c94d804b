"""Language modelling of bytes, on text that is there without a download."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmix.compare.task import Batch, Case, Split, Task, register_task, tokens
from tokenmix.compare.tasks.arguments import check_counts
from tokenmix.data import Corpus, baselines, load_corpus
from tokenmix.data.text import EMBEDDED
from tokenmix.data.text_files import Files
from tokenmix.mixer import check_positive

GOLDEN = (math.sqrt(5) - 1) / 2


@register_task("text")
class Text(Task):
    """Language modelling: at each byte of a text, say which byte comes next.

        inputs   b_s  b_(s+1)  ...  b_(s+L-1)
        targets  b_(s+1)       ...  b_(s+L),      score = mean of -log2 p(target) in bits a byte

    Training windows begin at random places s of the train split. Windows to validate and to test on are the same in
    every comparison, whatever the seed: those of one batch stand at even distances over the whole split, and the next
    batch of a case moves them on by the golden ratio of that distance, so that any number of batches covers the split
    evenly. The model knows nothing before a window: with longer windows, more bytes are predicted with much context.

    Args:
        corpus: "python_stdlib" (the default) or "world_english_bible"; not read where `files` is given.
        files: files to train on, or a mapping of "train", "valid" and "test" to files, as in
            `tokenmix.data.load_corpus`. They are read at the first batch, once a process.
        lengths: L, bytes a row, of each case.
        baseline_bytes: the references count in this many of the first train bytes; default all (5 s).

    Raises:
        TypeError, ValueError: arguments of another type, an unknown corpus, or, at the first batch, windows longer than
            a split.
        FileNotFoundError, ModuleNotFoundError: at the first batch, if the text is not there.

    Example:
        >>> batch = Text(lengths=[32]).batch("train", seed=0, number=0, rows=2)
        >>> bool((batch.inputs[:, 1:] == batch.targets[:, :-1]).all())
        True

    Source:
        Al-Rfou et al. 2018, arXiv 1808.04444, for bytes and bits a byte; the text: data_cards/python_stdlib.md.
    """

    source = "language modelling of bytes, as in Al-Rfou et al. 2018, arXiv 1808.04444"
    vocab_size = 256
    outputs = 256
    metric = "bits/byte"
    higher_is_better = False
    solved = enough = None

    def __init__(
        self,
        corpus: str = "python_stdlib",
        files: Files | None = None,
        lengths: Sequence[int] = (128, 256, 512),
        baseline_bytes: int | None = None,
    ) -> None:
        if files is None and (not isinstance(corpus, str) or corpus not in EMBEDDED):
            raise ValueError(f"corpus: expected one of {', '.join(EMBEDDED)}, or files, found {corpus!r}")
        if baseline_bytes is not None:
            check_positive("baseline_bytes", baseline_bytes)
        self.baseline_bytes = baseline_bytes
        self.cases = tuple({"length": length} for length in check_counts("lengths", lengths))
        try:
            self._text = (corpus, json.dumps(files, default=os.fspath, sort_keys=True))
        except TypeError:
            raise TypeError(f"files: expected paths, a list or a mapping of them, found {files!r}") from None

    @property
    def corpus(self) -> Corpus:
        """The text, read once a process."""
        return _load(*self._text)

    def batch(self, split: Split, seed: int, number: int, rows: int) -> Batch:
        """See `Task.batch`; the seed is that of training batches only."""
        if split == "train":
            return super().batch(split, seed, number, rows)
        turn, which = divmod(number, len(self.cases))
        length = self.cases[which]["length"]
        places = (np.arange(rows) + turn * GOLDEN % 1) / rows
        return self._windows(split, length, (places * self._places(split, length)).astype(np.int64))

    def draw(self, case: Case, rows: int, split: Split, generator: np.random.Generator) -> Batch:
        """Windows at random places; see `Task.draw`."""
        length = case["length"]
        return self._windows(split, length, generator.integers(0, self._places(split, length), size=rows))

    def score(self, predictions: Tensor, targets: Tensor) -> tuple[float, int]:
        """Sum of -log2 p over the bytes of a batch, and how many there are."""
        nats = F.cross_entropy(predictions.reshape(-1, self.outputs).float(), targets.reshape(-1), reduction="none")
        return float(nats.sum(dtype=torch.float64)) / math.log(2), targets.numel()

    def references(self) -> dict[str, float]:
        """Bits a byte of n-gram models on the whole test split; see `tokenmix.data.baselines`."""
        return dict(_baselines(*self._text, self.baseline_bytes))

    def _places(self, split: Split, length: int) -> int:
        """How many places a window of `length` bytes and the one after may begin at."""
        size = len(self.corpus.split(split))
        if size <= length:
            raise ValueError(
                f"lengths: expected at most {size - 1} for the {split} split of {size} bytes, found {length}"
            )
        return size - length

    def _windows(self, split: Split, length: int, starts: np.ndarray) -> Batch:
        data = np.frombuffer(self.corpus.split(split), dtype=np.uint8)
        windows = tokens(data[starts[:, None] + np.arange(length + 1)])
        return Batch(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())


@functools.lru_cache(maxsize=2)
def _load(corpus: str, files: str) -> Corpus:
    return load_corpus(corpus, files=json.loads(files))


@functools.lru_cache(maxsize=8)
def _baselines(corpus: str, files: str, train_bytes: int | None) -> dict[str, float]:
    return baselines(_load(corpus, files), train_bytes)
