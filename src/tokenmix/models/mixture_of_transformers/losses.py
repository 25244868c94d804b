"""What a Mixture-of-Transformers learns from: the next token of each modality, and features."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmix.layout import Layout
from tokenmix.models.labels import IGNORED, counted, predictable
from tokenmix.models.mixture_of_transformers.config import MixtureOfTransformersConfig
from tokenmix.models.mixture_of_transformers.features import add_noise, velocity
from tokenmix.routed.base import token_modality


class Features(NamedTuple):
    """Features of continuous tokens.

    Args:
        clean: (B, L, F).
        level: (B, L) of noise, or None.
        noise: (B, L, F), or None.
        noisy: (B, L, F) what is read instead, where noise was added.
    """

    clean: Tensor
    level: Tensor | None
    noise: Tensor | None
    noisy: Tensor | None = None

    @property
    def read(self) -> Tensor:
        """What the model reads."""
        return self.clean if self.noisy is None else self.noisy


def with_noise(config: MixtureOfTransformersConfig, given: Features, layout: Layout) -> Features:
    """Add noise to the features of objective "diffusion": one level a row and fresh noise, where none were given."""
    if not config.continuous("diffusion"):
        return given
    clean, level, noise, _ = given
    if level is None:
        level = torch.rand(len(clean), 1, device=clean.device).expand(clean.shape[:2])
    if noise is None:
        noise = torch.randn_like(clean)
    noisy = torch.where(_is(config, layout, "diffusion")[..., None], add_noise(clean, noise, level), clean)
    return Features(clean, level, noise, noisy)


def modality_losses(
    config: MixtureOfTransformersConfig,
    logits: Tensor,
    predictions: dict[str, Tensor],
    labels: Tensor,
    given: Features | None,
    layout: Layout,
    others: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and that of each modality.

    Args:
        config: which modalities there are.
        logits: (B, L, vocabulary).
        predictions: of features, by name.
        labels: (B, L) as they came.
        given: the features, where there are some.
        layout: with modality.
        others: keywords of the forward, of which `num_items_in_batch` and `shift_labels` are read.

    Returns:
        The loss: the mean over all labels of nats, or of weighted squared errors; (n,) mean losses without gradients;
        and (n,) numbers of labels.
    """
    aligned, before = others.get("shift_labels"), logits[:, :-1]
    if aligned is not None:  # of trainers that split sequences: labels of tokens of which the first is not here
        labels, before = F.pad(aligned, (1, 0), value=IGNORED), logits
        layout = Layout(modality=config.modality_of(labels.clamp(min=0)))
    known = predictable(labels, layout)
    discrete = known.masked_fill(_is(config, layout), IGNORED)
    sums, counts = _token_losses(before, discrete[:, 1:], token_modality(layout)[:, 1:], len(config.modalities))
    total, kept = sums.sum(), discrete
    means = sums.detach() / counts.clamp(min=1)
    for name, number in config.continuous().items():
        spec = config.specs[name]
        if given is None:
            continue
        wanted = labels if spec["objective"] == "diffusion" else known
        errors, here = _feature_errors(spec, number, predictions[name], wanted, given, layout)
        count = here.sum()
        means[number], counts[number] = errors.sum().detach() / count.clamp(min=1), count
        total = total + config.feature_loss_weight * errors.sum()
        kept = torch.where(here, labels, kept)
    items: Any = counted(others, labels, kept).get("num_items_in_batch")
    return total / (counts.sum().clamp(min=1) if items is None else items), means, counts


def _is(config: MixtureOfTransformersConfig, layout: Layout, objective: str | None = None) -> Tensor:
    """(B, L) bool: tokens of continuous modalities."""
    modality: Any = layout.modality
    found = torch.zeros_like(modality, dtype=torch.bool)
    for number in config.continuous(objective).values():
        found = found | (modality == number)
    return found


def _token_losses(logits: Tensor, after: Tensor, modality: Tensor, modalities: int) -> tuple[Tensor, Tensor]:
    """(n,) summed cross-entropy of the labels of each modality, and how many there are; labels as the logits lie."""
    after, numbers = after.flatten(), modality.flatten()
    nats = F.cross_entropy(logits.flatten(0, 1).float(), after, ignore_index=IGNORED, reduction="none")
    counts = torch.zeros(modalities, dtype=torch.int64, device=nats.device)
    return nats.new_zeros(modalities).index_add(0, numbers, nats), counts.index_add(
        0, numbers, (after != IGNORED).long()
    )


def _feature_errors(
    spec: dict[str, Any], number: int, predicted: Tensor, labels: Tensor, given: Features, layout: Layout
) -> tuple[Tensor, Tensor]:
    """(B, L) squared errors of one modality's features, 0 where there is no term, and which tokens have one."""
    own = token_modality(layout) == number
    here = own & (labels != IGNORED)
    clean = given.clean[..., : spec["input_size"]].float().masked_fill(~own[..., None], 0)
    found = predicted.float()
    if spec["objective"] == "diffusion":
        if given.noise is None or given.level is None:
            raise ValueError("noise_level: expected one where features are learned, found None")
        if layout.mask is not None:
            here = here & layout.mask
        target = velocity(clean, given.noise[..., : spec["input_size"]].float(), given.level)
    else:
        target, found = clean, F.pad(found[:, :-1], (0, 0, 1, 0))  # each token's from the one before it
    return torch.where(here, (found - target).square().mean(-1), 0.0), here
