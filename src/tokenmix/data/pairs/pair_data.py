"""Pictures with captions and, where there is any, what is said."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Samples = NDArray[np.float32]


class Waveforms(Protocol):
    """What is said with each pair, in their order; a list will do, and so will what reads a file when it is asked."""

    def __len__(self) -> int:
        """How many pairs there are."""

    def __getitem__(self, i: int, /) -> Samples | None:
        """(samples,) float32 in [-1, 1] of pair i; None where nothing is said."""


@dataclass(frozen=True, eq=False)
class PairData:
    """Pairs of a picture and a caption, in three splits.

    A row is one pair: a picture with five captions is five rows with equal pixels, which `image_ids` tells.

    Args:
        name: of the data set.
        images: (N, C, S, S) uint8, C = 1 (0 is black) or 3 (red, green, blue).
        captions: N texts, none of them empty.
        train: (n,) int64 ids of pairs to train on.
        val: (n,) to choose a model by.
        test: (n,) to report a score on.
        speech: None, or for each pair its (samples,) float32 waveform or None. Those of a list are checked here; others
            may be read when they are asked for.
        sampling_rate: of the speech, samples a second.
        languages: of each caption, such as "en"; None: all are English.
        source: where it came from, with versions and choices, for the file of results.

    Raises:
        TypeError: another type. ValueError: another shape, a length, id or split that cannot be.

    Example:
        >>> images, ids = torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.arange(3)
        >>> data = PairData("dark", images, ["a", "b", "c"], ids[:1], ids[1:2], ids[2:])
        >>> data
        PairData('dark': 3 pairs, 1 picture of 1 x 8 x 8, 3 captions, no speech, 1/1/1)
    """

    name: str
    images: Tensor
    captions: list[str]
    train: Tensor
    val: Tensor
    test: Tensor
    speech: Waveforms | None = None
    sampling_rate: int = 16_000
    languages: list[str] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        _check_images(self.images)
        pairs = len(self.images)
        for name in ("captions", "speech", "languages"):
            value = getattr(self, name)
            if value is not None and len(value) != pairs:
                raise ValueError(f"{name}: expected one for each of {pairs} images, found {len(value)}")
        for i, caption in enumerate(self.captions):
            if not isinstance(caption, str):
                raise TypeError(f"captions: expected texts, found {type(caption).__name__} at {i}")
            if not caption.strip():
                raise ValueError(f"captions: expected a text for each image, found {caption!r} at {i}")
        if isinstance(self.sampling_rate, bool) or not isinstance(self.sampling_rate, int) or self.sampling_rate < 1:
            raise ValueError(f"sampling_rate: expected samples a second, at least 1, found {self.sampling_rate!r}")
        if isinstance(self.speech, list | tuple):
            for i, said in enumerate(self.speech):
                _check_waveform(said, i)
        _check_splits(self)

    def __repr__(self) -> str:
        pictures = int(self.image_ids.max()) + 1 if len(self.captions) else 0
        shape = " x ".join(map(str, self.images.shape[1:]))
        sizes = "/".join(f"{len(ids):,}" for ids in (self.train, self.val, self.test))
        return (
            f"PairData({self.name!r}: {len(self.captions):,} pairs, {pictures:,} picture{'s' * (pictures != 1)} of "
            f"{shape}, {len(set(self.captions)):,} captions, {'no ' * (self.speech is None)}speech, {sizes})"
        )

    @cached_property
    def image_ids(self) -> Tensor:
        """(N,) int64, equal where all pixels are, numbered in the order in which pictures first come."""
        numbers: dict[bytes, int] = {}
        ids = [
            numbers.setdefault(hashlib.blake2b(image.tobytes(), digest_size=16).digest(), len(numbers))
            for image in self.images.cpu().numpy()
        ]
        return torch.tensor(ids, dtype=torch.int64)

    @cached_property
    def caption_ids(self) -> Tensor:
        """(N,) int64, equal where the captions are, numbered in the order in which captions first come."""
        numbers: dict[str, int] = {}
        return torch.tensor([numbers.setdefault(text, len(numbers)) for text in self.captions], dtype=torch.int64)


def pixels(images: Tensor) -> Tensor:
    """Pictures as numbers: bytes divided by 255.

    Args:
        images: (n, C, S, S) uint8.

    Returns:
        (n, C, S, S) float32 in 0..1.

    Raises:
        TypeError: another dtype, such as pixels that are divided already.

    Example:
        >>> pixels(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)).flatten()
        tensor([0.0000, 0.2000, 1.0000])
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images: expected torch.uint8, found {images.dtype}")
    return images.to(torch.float32) / 255


def matches(data: PairData, ids: Tensor) -> Tensor:
    """Which picture goes with which caption, so that a retrieval does not count a twin as wrong.

    Picture i and caption j go together if the data, in any split, has a pair of an equal picture and an equal caption.
    So all five captions of a photograph are right, and so are "latin capital letter a" and "greek capital letter alpha"
    for a glyph that looks the same.

    Args:
        data: the pairs.
        ids: (n,) of those among which is searched, such as `data.test`.

    Returns:
        (n, n) bool: rows are pictures, columns captions; the diagonal is True.

    Example:
        >>> images = torch.tensor([0, 0, 9], dtype=torch.uint8).view(3, 1, 1, 1)
        >>> ids = torch.arange(3)
        >>> data = PairData("three", images, ["a dog", "a pet", "a pet"], ids, ids[:0], ids[:0])
        >>> matches(data, ids).int()
        tensor([[1, 1, 1],
                [1, 1, 1],
                [0, 1, 1]], dtype=torch.int32)
    """
    images, captions = data.image_ids, data.caption_ids
    known = torch.unique(images * len(captions) + captions)
    return torch.isin(images[ids][:, None] * len(captions) + captions[ids], known)


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images: expected a tensor of torch.uint8, found {found}")
    if images.dim() != 4 or images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3]:
        raise ValueError(f"images: expected shape (N, 1 or 3, S, S), found {tuple(images.shape)}")


def _check_waveform(said: object, i: int) -> None:
    if said is None:
        return
    if not isinstance(said, np.ndarray) or said.dtype != np.float32 or said.ndim != 1:
        found = f"{said.dtype} of shape {said.shape}" if isinstance(said, np.ndarray) else type(said).__name__
        raise TypeError(f"speech: expected a numpy array of float32 with one axis, or None, found {found} at {i}")
    if not np.isfinite(said).all():
        raise ValueError(f"speech: expected finite samples, found NaN or infinity at {i}")


def _check_splits(data: PairData) -> None:
    pairs, taken = len(data.images), torch.zeros(len(data.images), dtype=torch.int64)
    for name in ("train", "val", "test"):
        ids = getattr(data, name)
        if not isinstance(ids, Tensor) or ids.dtype != torch.int64:
            found = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
            raise TypeError(f"{name}: expected a tensor of torch.int64, found {found}")
        if ids.dim() != 1:
            raise ValueError(f"{name}: expected one axis, found shape {tuple(ids.shape)}")
        wrong = ids[(ids < 0) | (ids >= pairs)]
        if len(wrong):
            raise ValueError(f"{name}: expected ids from 0 to {pairs - 1}, found {int(wrong[0])}")
        taken.index_add_(0, ids, torch.ones_like(ids))
        if len(twice := (taken > 1).nonzero()):
            raise ValueError(f"{name}: expected every pair in one split, once; found pair {int(twice[0])} again")
