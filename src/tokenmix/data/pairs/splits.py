"""Ids of three splits, from names or by a hash."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypedDict

import torch
from torch import Tensor


class SplitIds(TypedDict):
    """The fields of `PairData` that tell its splits."""

    train: Tensor
    val: Tensor
    test: Tensor


def hashed(keys: Iterable[str]) -> list[str]:
    """The split of each key by its SHA-1, modulo ten: 0 is "test", 1 is "val", the rest "train"; as for speech.

    Example:
        >>> hashed(["one", "two", "three"])
        ['train', 'val', 'train']
    """
    from tokenmix.data.speech.splits import split_of

    return ["val" if (found := split_of(key)) == "valid" else found for key in keys]


def split_ids(splits: Sequence[str]) -> SplitIds:
    """Ids of the pairs in each split, ascending; a pair of any other name is in none.

    Example:
        >>> {name: ids.tolist() for name, ids in split_ids(["train", "test", "train", "no"]).items()}
        {'train': [0, 2], 'val': [], 'test': [1]}
    """
    where: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for i, split in enumerate(splits):
        if split in where:
            where[split].append(i)
    train, val, test = (torch.tensor(ids, dtype=torch.int64) for ids in where.values())
    return {"train": train, "val": val, "test": test}
