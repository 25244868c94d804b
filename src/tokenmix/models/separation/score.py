"""Scores of a separator over a data set of mixtures."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenmix.models.separation.loss import best_order, si_sdr
from tokenmix.models.separation.oracle import ideal_ratio_mask


class SeparationScores(NamedTuple):
    """Decibels of every speaker of every row, speakers in the best order.

    Attributes:
        ratios: (rows, speakers) si_sdr of the estimates.
        improvements: (rows, speakers) how far that is above the mixture itself.
        seconds: spent in the model.
        samples: real ones, over all rows.
    """

    ratios: Tensor
    improvements: Tensor
    seconds: float
    samples: int

    @property
    def metrics(self) -> dict[str, float]:
        """Means over all speakers, and the improvement that nine of ten exceed."""
        return {
            "si_sdr": float(self.ratios.mean()),
            "si_sdr_improvement": float(self.improvements.mean()),
            "worst_tenth": float(self.improvements.flatten().quantile(0.1)),
        }


@torch.no_grad()
def score_separator(model: nn.Module | None, batches: Iterable[Mapping[str, Tensor]]) -> SeparationScores:
    """Separate mixtures and compare with the speakers.

    Args:
        model: a separator; None scores the mixture itself, in the place of every speaker.
        batches: as `tokenmix.data.mixtures.collate_mixtures` gives them.

    Example:
        >>> labels = torch.randn(1, 2, 800)
        >>> batch = {"input_values": labels.sum(1), "attention_mask": torch.ones(1, 800), "labels": labels}
        >>> score_separator(None, [batch]).metrics["si_sdr_improvement"]
        0.0
    """
    if model is None:
        return _score(lambda batch: batch["input_values"][:, None].expand_as(batch["labels"]), batches)
    training, device = model.training, next(model.parameters()).device
    model.eval()
    separator: Any = model
    names = ("input_values", "attention_mask")
    found = _score(lambda batch: separator(**{name: batch[name].to(device) for name in names}).sources.cpu(), batches)
    model.train(training)
    return found


@torch.no_grad()
def score_ideal_masks(batches: Iterable[Mapping[str, Tensor]], window: int = 512) -> SeparationScores:
    """What `ideal_ratio_mask` reaches on the same mixtures: a bound for masks of such a spectrogram, with its phases.

    Args:
        batches: as in `score_separator`.
        window: as in `ideal_ratio_mask`.
    """
    return _score(lambda batch: ideal_ratio_mask(batch["input_values"], batch["labels"], window), batches)


def _score(separate: Any, batches: Iterable[Mapping[str, Tensor]]) -> SeparationScores:
    ratios, improvements, seconds, samples = [], [], 0.0, 0
    for batch in batches:
        real, labels = batch["attention_mask"].bool(), batch["labels"]
        began = time.perf_counter()
        estimates = separate(batch)
        seconds += time.perf_counter() - began
        best, _ = best_order(estimates.float(), labels, real)
        ratios.append(best)
        improvements.append(best - si_sdr(batch["input_values"][:, None], labels, real[:, None]))
        samples += int(real.sum())
    if not ratios:
        raise ValueError("batches: expected at least one, found none")
    return SeparationScores(torch.cat(ratios), torch.cat(improvements), seconds, samples)
