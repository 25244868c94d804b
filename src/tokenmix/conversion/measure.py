"""What a conversion is judged by: scores on held-out text, memory of generation, speed of decoding."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tokenmix.conversion.checks import HeldOut
from tokenmix.models.cache import CACHE_ARGUMENT, cache_bytes
from tokenmix.training import score_text

SMALLEST_GAP = 0.01  # of the original's value: what a swap has to lose for shares of it to mean anything


class Score(NamedTuple):
    """How well a model predicts held-out text: perplexity a token, its logarithm, and bits a byte of the text."""

    perplexity: float
    nats: float
    bits_per_byte: float


def score(model: PreTrainedModel, held_out: HeldOut, batch_size: int) -> Score:
    """Score a model on every token of the held-out text, each once."""
    blocks = held_out.blocks
    found = score_text(model, blocks, batch_size)
    nats = found["bits_per_byte"] * math.log(2) * blocks.scored_bytes / blocks.scored_tokens
    return Score(found["perplexity"], nats, nats * blocks.scored_tokens / (math.log(2) * held_out.bytes))


def gap_closed(swap: float, stage: float, original: float) -> float | None:
    """The share of what the swap lost that was won back; None where the gap is too small to measure.

    It is too small where the swap lost less than `SMALLEST_GAP` of the original's value: what training alone moves a
    model by is no longer small against that, and shares come out as 129 % or -69 %.

    Example:
        >>> gap_closed(swap=10.0, stage=4.0, original=2.0)
        0.75
        >>> gap_closed(swap=2.001, stage=1.9, original=2.0) is None
        True
    """
    gap = swap - original
    if not math.isfinite(gap) or gap < SMALLEST_GAP * abs(original):
        return None
    return (swap - stage) / gap


@torch.no_grad()
def prefill(model: PreTrainedModel, input_ids: Tensor) -> Any:
    """The cache of a model after it has read tokens."""
    model.eval()
    return getattr(model(input_ids=input_ids, use_cache=True), CACHE_ARGUMENT)


@torch.no_grad()
def decode(model: PreTrainedModel, cache: Any, token: Tensor, steps: int) -> float:
    """Seconds that a model takes for `steps` single tokens, each the most likely after the last, from a cache."""
    _synchronize(token.device)
    began = time.perf_counter()
    for _ in range(steps):
        logits = model(input_ids=token, use_cache=True, **{CACHE_ARGUMENT: cache}).logits
        token = logits[:, -1:].argmax(-1)
    _synchronize(token.device)
    return time.perf_counter() - began


def measure_generation(
    models: Mapping[str, PreTrainedModel], input_ids: Tensor, steps: int, repeats: int
) -> tuple[dict[str, int], dict[str, float]]:
    """Memory after a prompt, and speed of decoding after it, of several models in alternating runs.

    On a CPU the speed is that of one thread.

    Args:
        models: by name.
        input_ids: (1, L) the prompt.
        steps: tokens decoded in a run.
        repeats: runs of each model, after one that is not counted.

    Returns:
        Bytes of the caches after the prompt, and the median of tokens a second, by name.
    """
    size: dict[str, int] = {}
    speeds: dict[str, list[float]] = {name: [] for name in models}
    with _one_thread(input_ids.device):
        for run in range(repeats + 1):
            for name, model in models.items():
                cache = prefill(model, input_ids)
                size[name] = cache_bytes(cache)
                seconds = decode(model, cache, input_ids[:, -1:], steps)
                if run:
                    speeds[name].append(steps / seconds)
    return size, {name: statistics.median(values) for name, values in speeds.items()}


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
