"""Handwritten digits as rows of pixels."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import zlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tokenmix.compare.task import Batch, Case, Split, Task, register_task, tokens
from tokenmix.layout import Layout

VALID = TEST = 256  # images, which batches of a power of two cover exactly; the other 1285 are trained on
SIDE = 8


@register_task("digits")
class Digits(Task):
    """Which of ten digits an image of 8 x 8 pixels shows, its pixels read as a row of tokens.

    A row is an image: 64 tokens, the pixels from left to right and top to bottom, each token the ink of its pixel, 0
    to 16. layout.grid = (8, 8) tells where they live, for mixers that read images. The 1797 images of scikit-learn
    are split once and for all, by a permutation with a fixed seed: 1285 to train, 256 to validate, 256 to test.

    Training batches go through the train images in an order drawn anew for each epoch, without replacement. Batches to
    validate and test on go through their images in a fixed order, whatever the seed, and begin again at the end.

    Raises:
        ModuleNotFoundError: without scikit-learn, which brings the images.

    Example:
        >>> batch = Digits().batch("test", seed=0, number=0, rows=2)
        >>> batch.inputs.shape, batch.targets.shape, batch.layout.grid
        (torch.Size([2, 64]), torch.Size([2]), (8, 8))

    Source:
        Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
        doi 10.24432/C50P49; see data_cards/digits.md. Images as rows of pixels: Le et al. 2015, arXiv 1504.00941.
    """

    source = "Alpaydin and Kaynak 1998, doi 10.24432/C50P49; pixel by pixel as in Le et al. 2015, arXiv 1504.00941"
    vocab_size = 17
    outputs = 10
    per: Literal["token", "row"] = "row"
    needs_causal = False
    fields = ("grid",)
    cases = ({"length": SIDE * SIDE},)
    solved = 0.98  # the nearest neighbour among the train images reaches 0.988 on valid and on test

    def __init__(self) -> None:
        _require_scikit_learn()

    def batch(self, split: Split, seed: int, number: int, rows: int) -> Batch:
        """See `Task.batch`; the seed orders training images only."""
        images, answers = _split(split)
        place = number * rows + np.arange(rows)
        if split == "train":
            epochs = {int(epoch): self._order(seed, int(epoch)) for epoch in np.unique(place // len(images))}
            chosen = np.array([epochs[int(at) // len(images)][int(at) % len(images)] for at in place])
        else:
            chosen = place % len(images)
        return _rows(images[chosen], answers[chosen])

    def draw(self, case: Case, rows: int, split: Split, generator: np.random.Generator) -> Batch:
        """Images drawn with replacement; `batch` goes through a split instead."""
        images, answers = _split(split)
        chosen = generator.integers(0, len(images), size=rows)
        return _rows(images[chosen], answers[chosen])

    def references(self) -> dict[str, float]:
        """Guessing, and logistic regression on the pixels, fitted on the train images and scored on the test images."""
        return {"guessing": 0.1, "logistic regression": _logistic_regression()}

    def _order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        generator = np.random.default_rng([seed, zlib.crc32(self.name.encode()), epoch])
        return generator.permutation(len(_split("train")[0]))


Images = tuple[NDArray[np.int64], NDArray[np.int64]]


def _rows(images: NDArray[np.int64], answers: NDArray[np.int64]) -> Batch:
    return Batch(tokens(images), tokens(answers), Layout(grid=(SIDE, SIDE)))


def _require_scikit_learn() -> None:
    if importlib.util.find_spec("sklearn") is None:
        raise ModuleNotFoundError(
            "task='digits': expected the package scikit-learn, found none; `pip install 'tokenmix[compare]'` brings it"
        )


@functools.lru_cache
def _split(split: Split) -> Images:
    """(N, 64) pixels and (N,) digits of one split."""
    _require_scikit_learn()
    images, answers = importlib.import_module("sklearn.datasets").load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    parts = dict(zip(("test", "valid", "train"), np.split(order, [TEST, TEST + VALID]), strict=True))
    return images[parts[split]].astype(np.int64), answers[parts[split]].astype(np.int64)


@functools.lru_cache
def _logistic_regression() -> float:
    """Accuracy on the test images."""
    (x, y), (test_x, test_y) = _split("train"), _split("test")
    model = importlib.import_module("sklearn.linear_model").LogisticRegression(max_iter=1000)
    return float(model.fit(x / 16, y).score(test_x / 16, test_y))
