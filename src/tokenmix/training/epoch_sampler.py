"""An order of rows that is a function of seed and epoch alone, so that a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler
from transformers import TrainingArguments

from tokenmix.training.trainer import MixerTrainer


class EpochSampler(Sampler[int]):
    """Every row once an epoch, shuffled by seed and epoch.

    Args:
        rows: how many.
        seed: of the order.
        on_epoch: called with the number of each epoch, before its first row.

    Example:
        >>> sampler = EpochSampler(5, seed=0)
        >>> sorted(sampler), list(sampler) == list(sampler)
        ([0, 1, 2, 3, 4], True)
    """

    def __init__(self, rows: int, seed: int, *, on_epoch: Callable[[int], None] | None = None) -> None:
        self.rows, self.seed, self.on_epoch = rows, seed, on_epoch
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration is."""
        self.epoch = epoch
        if self.on_epoch is not None:
            self.on_epoch(epoch)

    def generator(self) -> torch.Generator:
        """Random numbers of this epoch."""
        return torch.Generator().manual_seed((self.seed << 20) + self.epoch)

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        yield from torch.randperm(self.rows, generator=self.generator()).tolist()


class EpochTrainer(MixerTrainer):
    """A `MixerTrainer` whose training set is told the epoch by `set_epoch`, because what it gives depends on it."""

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int] | None:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        if not getattr(dataset, "tells_workers", False):
            refuse_persistent_workers(self.args)
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return EpochSampler(len(dataset), seed, on_epoch=dataset.set_epoch)


def refuse_persistent_workers(args: TrainingArguments) -> None:
    """Workers that stay hear of no new epoch.

    Raises:
        ValueError: they are asked for.
    """
    if args.dataloader_persistent_workers:
        raise ValueError(
            "dataloader_persistent_workers: expected False, found True: workers that stay hear of no new epoch"
        )
