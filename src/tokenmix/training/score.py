"""Exact scores of a language model on a text."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from tokenmix.data import TokenBlocks, bits_per_byte, collate


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
        "perplexity": math.exp(mean),
    }
