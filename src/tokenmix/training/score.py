"""Exact scores of a language model on a text."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from tokenmix.data import Corpus, TokenBlocks, baselines, bits_per_byte, collate, ngram_nats


@torch.no_grad()
def score_text(model: nn.Module, blocks: TokenBlocks, batch_size: int = 16) -> dict[str, float]:
    """Bits per byte and perplexity over every token that the blocks score, each counted once.

    The Trainer's evaluation averages batch means, which weighs tokens unequally where labels are masked; this
    sums.

    Args:
        model: takes the blocks' tensors and returns an output with `logits`.
        blocks: the text.
        batch_size: rows at a time.

    Returns:
        "bits_per_byte", and "perplexity" a token.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    nats, batches = 0.0, DataLoader(blocks, batch_size=batch_size, collate_fn=collate)
    for batch in batches:
        inputs: dict[str, Any] = {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}
        logits = model(**inputs, use_cache=False).logits[:, :-1].float()
        labels = batch["labels"][:, 1:].to(device)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
        nats += loss.item()
    model.train(training)
    mean = nats / blocks.scored_tokens
    return {
        "bits_per_byte": bits_per_byte(mean, blocks.scored_tokens, blocks.scored_bytes),
        "perplexity": perplexity(mean),
    }


def perplexity(nats: float) -> float:
    """exp(nats), and infinity where a model that diverged leaves the range of floats.

    Example:
        >>> perplexity(0.0), perplexity(1e4)
        (1.0, inf)
    """
    return math.exp(nats) if nats < 700 else math.inf


def score_baselines(
    corpus: Corpus,
    train: TokenBlocks,
    test: TokenBlocks,
    *,
    train_bytes: int | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> dict[str, dict[str, float]]:
    """Scores of n-gram models beside those of `score_text`.

    Args:
        corpus: the text.
        train, test: its blocks, for counting tokens.
        train_bytes: count n-grams of bytes in the first bytes of the training split only.
        folder: where the counts of bytes are kept.

    Returns:
        For bytes, the unigram, bigram, 3-gram and 6-gram with both scores. For other tokens, the same with the bits
        alone, and the unigram and bigram over tokens with both.
    """
    bits = baselines(corpus, train_bytes=train_bytes, folder=folder)
    if test.byte_lengths is None:
        return {name: {"bits_per_byte": value, "perplexity": 2**value} for name, value in bits.items()}
    found = {f"{name} of bytes": {"bits_per_byte": value} for name, value in bits.items()}
    for name, order in (("unigram", 1), ("bigram", 2)):
        nats = ngram_nats(train.tokens.numpy(), test.tokens.numpy(), order, len(test.byte_lengths))
        score = bits_per_byte(nats, test.scored_tokens, test.scored_bytes)
        found[f"{name} of tokens"] = {"bits_per_byte": score, "perplexity": perplexity(nats)}
    return found
