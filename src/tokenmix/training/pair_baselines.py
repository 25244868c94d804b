"""What a model for pairs of image and caption is to be compared with: a linear map from pixels to words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmix.ops.common import check_positive
from tokenmix.retrieval import COUNTS, retrieval


class PairBaseline(NamedTuple):
    """What the baseline reaches on the test pairs.

    Attributes:
        scores: {"t2i_R@1": ..., "i2t_R@1": ..., ...}: captions that look for their image, images for their caption.
        chance: the same by guessing.
        words: of the training captions.
        components: principal components in use.
    """

    scores: dict[str, float]
    chance: dict[str, float]
    words: int
    components: int


def retrieve_by_pixels(
    train_images: Tensor,
    train_captions: Sequence[str],
    test_images: Tensor,
    test_captions: Sequence[str],
    components: int = 64,
    ridge: float = 1.0,
    *,
    k: Sequence[int] = COUNTS,
    relevant: Tensor | None = None,
) -> PairBaseline:
    """Retrieve captions of images, and images of captions, by ridge regression from principal components to words.

    A caption is a bag of words, each worth log((1 + n) / (1 + n_word)) of the n training captions, scaled to length 1;
    words that no training caption has count in that length alone. From the first principal components Z of the
    training pixels follow the bags Y less their mean, by W = (Z^T Z + ridge I)^-1 Z^T Y. A test image and a test
    caption fit as the cosine of Z W and the caption's bag less the mean. Captions with equal bags are equally good, and
    then `recall` takes the mean over their orders.

    Args:
        train_images: (N, C, H, W), uint8 from 0 to 255 or floats (of which 1 is taken as white).
        train_captions: N texts.
        test_images: (n, C, H, W).
        test_captions: n texts, among which is searched.
        components: principal components, or as many as there are.
        ridge: strength of the penalty, above 0.
        k: how many of the best are looked at.
        relevant: (images, captions) bool of the test pairs; None where equal captions are right. For pictures that are
            there twice see `tokenmix.data.pairs.matches`.

    Returns:
        Recall in both directions, and by chance.

    Raises:
        TypeError, ValueError: numbers of images and captions, shapes or settings that cannot be.

    Example:
        >>> dark, light = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
        >>> images, captions = torch.cat([dark, light]), ["a dark one", "a light one"]
        >>> found = retrieve_by_pixels(images, captions, images, captions, components=1, k=[1])
        >>> found.scores["i2t_R@1"], found.chance["i2t_R@1"]
        (1.0, 0.5)
    """
    check_positive("components", components)
    if not ridge > 0:
        raise ValueError(f"ridge: expected a number above 0, found {ridge}")
    train, test = _pixels("train", train_images, train_captions), _pixels("test", test_images, test_captions)
    if train_images.shape[1:] != test_images.shape[1:]:
        found = tuple(test_images.shape[1:])
        raise ValueError(f"test_images: expected images as in training, {tuple(train_images.shape[1:])}, found {found}")
    mean = train.mean(0)
    axes = _principal_axes(train - mean, components)
    z, z_test = (train - mean) @ axes, (test - mean) @ axes
    columns, worth = _vocabulary(train_captions, test_captions)
    bags, bags_test = (_bags(captions, columns, worth).to(z.device) for captions in (train_captions, test_captions))
    mean_bag = torch.sparse.sum(bags, 0).to_dense() / len(train)
    gram = z.T @ z + ridge * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    weights = torch.linalg.solve(gram, (bags.t() @ z).T)  # the mean of Z is 0, so that of the bags is away
    guesses, truths = F.normalize(z_test @ weights, dim=1), F.normalize(bags_test.to_dense() - mean_bag, dim=1)
    i2t = (guesses @ truths.T).round(decimals=9)  # so that equal bags are equal
    if relevant is None:
        numbers = {text: i for i, text in enumerate(test_captions)}
        ids = torch.tensor([numbers[text] for text in test_captions], device=i2t.device)
        relevant = ids[:, None] == ids
    nothing = torch.zeros_like(i2t)
    return PairBaseline(
        retrieval(i2t.T, i2t, k, relevant.T),
        retrieval(nothing.T, nothing, k, relevant.T),
        words=len({word for text in train_captions for word in words_of(text)}),
        components=axes.shape[1],
    )


def words_of(caption: str) -> set[str]:
    """The words of a caption, in lower case.

    Example:
        >>> sorted(words_of("A cat, a mat."))
        ['a', 'cat', 'mat']
    """
    return set(re.findall(r"\w+", caption.lower()))


def _pixels(name: str, images: Tensor, captions: Sequence[str]) -> Tensor:
    """(N, C H W) float64."""
    if not isinstance(images, Tensor) or not (images.dtype == torch.uint8 or images.is_floating_point()):
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"{name}_images: expected a tensor of torch.uint8 or floats, found {found}")
    if images.dim() != 4 or 0 in images.shape:
        raise ValueError(f"{name}_images: expected shape (N, C, H, W) without empty axes, found {tuple(images.shape)}")
    if len(captions) != len(images):
        raise ValueError(f"{name}_captions: expected one for each of {len(images)} images, found {len(captions)}")
    pixels = images.flatten(1).double()
    return pixels / 255 if images.dtype == torch.uint8 else pixels


def _principal_axes(centred: Tensor, components: int) -> Tensor:
    """(pixels, components) directions of the largest variance; fewer where the images span fewer."""
    most = min(centred.shape)
    with torch.random.fork_rng(devices=[centred.device] if centred.is_cuda else []):
        torch.manual_seed(0)
        _, sizes, axes = torch.svd_lowrank(centred, q=min(most, components + 32), niter=6)
    real = int((sizes > sizes[0] * 1e-9).sum())
    return axes[:, : min(components, real)]


def _vocabulary(train: Sequence[str], test: Sequence[str]) -> tuple[dict[str, int], Tensor]:
    """The column of each word, and what it is worth: log((1 + n) / (1 + n_word)) of n training captions."""
    counts = Counter(word for text in train for word in sorted(words_of(text)))
    for text in test:
        counts.update(dict.fromkeys(sorted(words_of(text)), 0))
    worth = torch.log((1 + len(train)) / (1 + torch.tensor(list(counts.values()), dtype=torch.float64)))
    return {word: column for column, word in enumerate(counts)}, worth


def _bags(captions: Sequence[str], columns: dict[str, int], worth: Tensor) -> Tensor:
    """(captions, words) sparse, rows of length 1, or 0 where no word is worth anything."""
    places = torch.tensor(
        [(row, columns[word]) for row, text in enumerate(captions) for word in words_of(text)], dtype=torch.int64
    ).view(-1, 2)
    values = worth[places[:, 1]]
    lengths = torch.zeros(len(captions), dtype=worth.dtype).index_add_(0, places[:, 0], values**2).sqrt()
    values = values / lengths[places[:, 0]].clamp(min=1e-12)
    return torch.sparse_coo_tensor(places.T, values, (len(captions), len(worth)), check_invariants=True).coalesce()
