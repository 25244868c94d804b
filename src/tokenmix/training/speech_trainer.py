"""Training on clips of very different lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from tokenmix.training.epoch_sampler import EpochSampler, refuse_persistent_workers
from tokenmix.training.trainer import MixerTrainer


class LengthBuckets(EpochSampler):
    """Every row once an epoch, in an order where a batch holds rows of like lengths.

    Rows are shuffled, cut into buckets of `spread` batches, sorted by length inside a bucket and cut into batches,
    whose order is shuffled again. The order is a function of seed and epoch alone, so that a resumed run sees the same.

    Args:
        lengths: of the rows.
        batch_size: rows an update.
        seed: of the order.
        spread: batches a bucket: more of them pad less, and mix less.
        on_epoch: called with the number of each epoch, before its first row.

    Example:
        >>> sampler = LengthBuckets([5, 1, 4, 2, 6, 3], batch_size=2, seed=0)
        >>> rows = list(sampler)
        >>> sorted(rows), [abs(rows[i] - rows[i + 1]) > 0 for i in (0, 2, 4)]
        ([0, 1, 2, 3, 4, 5], [True, True, True])
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
        *,
        spread: int = 16,
        on_epoch: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(len(lengths), seed, on_epoch=on_epoch)
        self.lengths = [int(length) for length in lengths]
        self.batch_size, self.spread = batch_size, spread

    def __iter__(self) -> Iterator[int]:
        generator = self.generator()
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        whole: list[list[int]] = []
        rest: list[list[int]] = []
        for start in range(0, len(order), self.batch_size * self.spread):
            bucket = sorted(order[start : start + self.batch_size * self.spread], key=lambda row: self.lengths[row])
            for first in range(0, len(bucket), self.batch_size):
                batch = bucket[first : first + self.batch_size]
                (whole if len(batch) == self.batch_size else rest).append(batch)
        for index in torch.randperm(len(whole), generator=generator).tolist():
            yield from whole[index]
        for batch in rest:
            yield from batch


class SpeechTrainer(MixerTrainer):
    """A `MixerTrainer` whose batches hold clips of like lengths, so that little of a batch is padding.

    The training set says how long its rows are in `lengths`, and where it has `set_epoch`, is told the epoch, on which
    its augmentation depends: then a run that was stopped goes on bit for bit.
    """

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int] | None:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        lengths = getattr(dataset, "lengths", None)
        if lengths is None:
            return super()._get_train_sampler(train_dataset)
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        if hasattr(dataset, "set_epoch"):
            refuse_persistent_workers(self.args)
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthBuckets(lengths, rows, seed, on_epoch=getattr(dataset, "set_epoch", None))
