"""Losses of each modality, and what generated pictures and captions are worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

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
from tokenmix.models import MixtureOfTransformersConfig, MixtureOfTransformersForCausalLM
from tokenmix.models.mixture_of_transformers.sampling import sample_features
from tokenmix.training.epoch_sampler import EpochTrainer
from tokenmix.training.pair_baselines import words_of


class ModalityTrainer(EpochTrainer):
    """An `EpochTrainer` whose evaluation gives the loss of each modality, `eval_<name>_loss`.

    Every process evaluates all rows, so the numbers do not depend on how many there are.

    Raises:
        ValueError: label smoothing for a model with continuous modalities, whose features would not be learned.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        model: Any = self.model
        if self.args.label_smoothing_factor and model.config.continuous():
            raise ValueError(
                "label_smoothing_factor: expected 0 with continuous modalities, whose loss it would leave out, found "
                f"{self.args.label_smoothing_factor}"
            )

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,  # the Trainer's
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Losses of each modality over the rows of the evaluation set."""
        with self.clock_stopped():
            rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
            model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
            found = losses_by_modality(model, rows, self.args.per_device_eval_batch_size)
            metrics = {f"{metric_key_prefix}_{name}_loss": loss for name, loss in found.items()}
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def losses_by_modality(model: Any, rows: ModalityRows, batch_size: int = 64) -> dict[str, float]:
    """Mean loss of each modality over rows, nats a token (squared error for patches, with a pair's own noise)."""
    model.eval()
    sums: Any = 0
    counts: Any = 0
    with torch.no_grad():
        for low in range(0, len(rows), batch_size):
            places = range(low, min(low + batch_size, len(rows)))
            batch = collate_modalities([rows[i] for i in places])
            if "features" in batch:
                batch["noise"] = _noise(batch["features"], [int(rows.ids[i]) for i in places])
            found = model(**{name: value.to(model.device) for name, value in batch.items()})
            sums, counts = sums + found.modality_losses * found.modality_counts, counts + found.modality_counts
    return dict(zip(model.config.names, (sums / counts.clamp(min=1)).tolist(), strict=True))


def _noise(features: Tensor, pairs: Sequence[int]) -> Tensor:
    """Noise that depends on the pair alone, not on its batch."""
    noise = torch.zeros_like(features)
    for row, pair in zip(noise, pairs, strict=True):
        here = row.new_empty(4096, row.shape[1]).normal_(generator=torch.Generator().manual_seed(pair))
        row.copy_(here[: len(row)] if len(row) <= len(here) else here.repeat(len(row) // len(here) + 1, 1)[: len(row)])
    return noise


def unigram_losses(tokens: PairTokens, train: Tensor, test: Tensor) -> dict[str, float]:
    """Nats a token of each modality's frequencies in the rows of training, one added to each count.

    Counted are the tokens that a model predicts: all of a row but its first, the marks of spans among those of text.
    Patches have no frequencies, and a modality that no test row holds is left out.
    """
    config = MixtureOfTransformersConfig(modalities=tokens.modalities)
    counts = _counts(tokens, train, config.vocab_size) + 1.0
    seen = _counts(tokens, test, config.vocab_size)
    found = {}
    for name, spec in config.specs.items():
        own = slice(config.token_range(name).start, config.token_range(name).stop)
        if "vocab_size" in spec and seen[own].sum() > 0:
            nats = -(counts[own] / counts[own].sum()).log()
            found[name] = float((nats * seen[own]).sum() / seen[own].sum())
    return found


def _counts(tokens: PairTokens, pairs: Tensor, vocabulary: int) -> Tensor:
    """(vocabulary,) how often each token is predicted in the rows of some pairs."""
    names = list(tokens.modalities)
    rows = [tokens.row(pair, names)[1:] for pair in pairs.tolist()]
    return torch.bincount(torch.cat(rows), minlength=vocabulary).double()


def flops_per_token(model: Any, batch: Mapping[str, Tensor]) -> float:
    """Floating point operations of the matrix products of forward and backward, a real token.

    Attention counts in its plain form, all L x L scores.

    Args:
        model: on the CPU.
        batch: of `collate_modalities`; its products are computed, so a few rows will do.
    """
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        model(**batch).loss.backward()
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


def first_words(model: MixtureOfTransformersForCausalLM, tokens: PairTokens, pairs: Sequence[int]) -> list[str]:
    """The first word of the caption that a model gives to a picture, greedily; as long as the longest there is."""
    longest = 1 + max(len(caption.split(" ")[0].encode()) for caption in tokens.captions)
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
