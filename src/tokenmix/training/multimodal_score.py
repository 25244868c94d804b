"""Losses of each modality, and what generated pictures and captions are worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import EvalPrediction

from tokenmix.data.modality_rows import (
    IMAGE,
    START,
    TEXT,
    TEXT_END,
    TEXT_TOKENS,
    ModalityRows,
    PairTokens,
    collate_modalities,
)
from tokenmix.models import MixtureOfTransformersForCausalLM
from tokenmix.models.mixture_of_transformers.sampling import sample_features
from tokenmix.training.epoch_sampler import EpochTrainer
from tokenmix.training.pair_baselines import words_of


class ModalityTrainer(EpochTrainer):
    """An `EpochTrainer` whose evaluation gives the loss of each modality, `eval_<name>_loss`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, compute_metrics=self._by_modality, **kwargs)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, and the sums and counts of each modality instead of logits."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            found = model(**with_fixed_noise(inputs))
        counts = found.modality_counts[None]
        return found.loss.detach(), found.modality_losses[None] * counts, counts

    def _by_modality(self, prediction: EvalPrediction) -> dict[str, float]:
        config: Any = self.accelerator.unwrap_model(self.model, keep_torch_compile=False).config
        sums, counts = torch.as_tensor(prediction.predictions).sum(0), torch.as_tensor(prediction.label_ids).sum(0)
        means = (sums / counts.clamp(min=1)).tolist()
        return {f"{name}_loss": mean for name, mean in zip(config.names, means, strict=True)}


def with_fixed_noise(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Where there are features: noise that is the same every time (levels are those of the rows)."""
    features = inputs.get("features")
    if features is None:
        return dict(inputs)
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(features)
    return {**inputs, "noise": noise}


def losses_by_modality(model: Any, rows: ModalityRows, batch_size: int = 64) -> dict[str, float]:
    """Mean loss of each modality over rows, nats a token (squared error for patches)."""
    model.eval()
    sums: Any = 0
    counts: Any = 0
    with torch.no_grad():
        for low in range(0, len(rows), batch_size):
            batch = collate_modalities([rows[i] for i in range(low, min(low + batch_size, len(rows)))])
            moved = {name: value.to(model.device) for name, value in batch.items()}
            found = model(**with_fixed_noise(moved))
            sums, counts = sums + found.modality_losses * found.modality_counts, counts + found.modality_counts
    return dict(zip(model.config.names, (sums / counts.clamp(min=1)).tolist(), strict=True))


def unigram_losses(tokens: PairTokens, train: Tensor, test: Tensor) -> dict[str, float]:
    """Nats a token of each modality's own frequencies in training, one added to each count; patches have none."""
    found = {}
    for name, spec in tokens.modalities.items():
        if "vocab_size" not in spec:
            continue
        counts = torch.ones(TEXT_TOKENS + tokens.image_codes + tokens.speech_codes, dtype=torch.float64)
        for pair in train.tolist():
            span = tokens.span(name, pair)
            counts += torch.bincount(_own(span), minlength=len(counts))
        own = counts > 1 if name == "text" else torch.arange(len(counts)) >= TEXT_TOKENS
        logs = (counts / counts[own].sum()).log()
        losses = torch.cat([logs[_own(tokens.span(name, pair))] for pair in test.tolist()])
        found[name] = -float(losses.mean())
    return found


def _own(span: Tensor) -> Tensor:
    """The tokens of a span that are of its own modality; marks are text."""
    return span if int(span.max() if len(span) else 0) < TEXT_TOKENS else span[span >= TEXT_TOKENS]


def flops_per_token(model: Any, batch: Mapping[str, Tensor]) -> float:
    """Floating point operations of the matrix products of forward and backward, a real token of a batch.

    Attention counts in its plain form, all L x L scores.
    """
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        model(**with_fixed_noise(batch)).loss.backward()
    model.zero_grad()
    return counter.get_total_flops() / float(batch["attention_mask"].sum())


def share_to_reach(costs: Sequence[float], losses: Sequence[float], target: float, whole: float) -> float:
    """At which share of a whole cost a curve first is at a target, linear between its points; NaN where it never is.

    Args:
        costs: rising, one a point. losses: there. target: of the loss. whole: the cost that is 1.

    Example:
        >>> share_to_reach([1.0, 2.0, 4.0], [3.0, 2.0, 1.0], 1.5, whole=6.0)
        0.5
    """
    before: tuple[float, float] | None = None
    for cost, loss in zip(costs, losses, strict=True):
        if loss <= target:
            if before is None or before[1] == loss:
                return cost / whole
            part = (before[1] - target) / (before[1] - loss)
            return (before[0] + part * (cost - before[0])) / whole
        before = (cost, loss)
    return math.nan


def draw_pictures(
    model: MixtureOfTransformersForCausalLM, tokens: PairTokens, pairs: Sequence[int], *, seed: int = 0, steps: int = 32
) -> Tensor:
    """Spans of pictures for the captions of some pairs: (n, tokens) codes, sampled, or (n, tokens, F) patches.

    Args:
        model: trained.
        tokens: with the captions.
        pairs: ids.
        seed: of what is drawn.
        steps: of denoising.
    """
    model.eval()
    prompts = [torch.cat([torch.tensor([START]), tokens.span("text", i), torch.tensor([IMAGE])]) for i in pairs]
    ids = torch.nn.utils.rnn.pad_sequence([row.flip(0) for row in prompts], batch_first=True).flip(1)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in prompts], batch_first=True).flip(1)
    ids, mask, count = ids.to(model.device), mask.to(model.device), tokens.images.shape[1]
    if tokens.images.is_floating_point():
        generator = torch.Generator(model.device).manual_seed(seed)
        return sample_features(model, ids, "image", count, attention_mask=mask, steps=steps, generator=generator).cpu()
    torch.manual_seed(seed)
    found: Any = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=count,
        do_sample=True,
        temperature=0.7,
        top_k=0,
        pad_token_id=0,
        logits_processor=[model.grammar],
    )
    return found[:, -count:].cpu() - TEXT_TOKENS


def first_words(
    model: MixtureOfTransformersForCausalLM, tokens: PairTokens, pairs: Sequence[int], longest: int = 12
) -> list[str]:
    """The first word of the caption that a model gives to a picture, greedily."""
    prompts = [torch.cat([torch.tensor([START]), tokens.span("image", i), torch.tensor([TEXT])]) for i in pairs]
    ids = torch.stack(prompts).to(model.device)
    features = {}
    if tokens.images.is_floating_point():
        wide = torch.zeros(*ids.shape, tokens.images.shape[2])
        wide[:, 2 : 2 + tokens.images.shape[1]] = tokens.images[torch.as_tensor(pairs)]
        features = {"features": wide.to(model.device)}
    found: Any = model.eval().generate(
        ids,
        max_new_tokens=longest,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=TEXT_END,
        logits_processor=[model.grammar],
        **features,
    )
    texts = [bytes(t for t in row.tolist() if 0 < t < 256).decode(errors="replace") for row in found[:, ids.shape[1] :]]
    return [text.split(" ")[0] for text in texts]


def nearest_caption(captions: Sequence[str], train: Tensor, pair: int) -> int:
    """The pair of training whose caption shares most words with a pair's, as a share of both; the first of equals."""
    own = words_of(captions[pair])

    def alike(other: int) -> float:
        words = words_of(captions[other])
        return len(own & words) / max(1, len(own | words))

    return max(train.tolist(), key=alike)
