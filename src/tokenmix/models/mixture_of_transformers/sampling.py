"""Features of a span behind a prompt: denoised together, or predicted one after the other."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenmix.mixer import check_positive
from tokenmix.models.cache import CACHE_ARGUMENT, MixerCache
from tokenmix.models.mixture_of_transformers.features import step_towards

if TYPE_CHECKING:
    from tokenmix.models.mixture_of_transformers.causal_lm import MixtureOfTransformersForCausalLM


@torch.no_grad()
def sample_features(
    model: MixtureOfTransformersForCausalLM,
    input_ids: Tensor,
    name: str,
    count: int,
    *,
    attention_mask: Tensor | None = None,
    features: Tensor | None = None,
    steps: int = 32,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Features of `count` tokens of a continuous modality that follow prompts; the prompt is read once.

    Objective "diffusion": all tokens begin as noise, and each of `steps` calls takes them a deterministic step towards
    features. "regression": each token's features are predicted from those before; `steps` and noise are not used.

    Args:
        model: in eval mode unless dropout is wanted.
        input_ids: (B, L) prompts, which end where the span begins.
        name: of the modality.
        count: tokens of the span.
        attention_mask: (B, L), 1 for real tokens; prompts are padded on the left.
        features: (B, L, F) of continuous tokens in the prompts.
        steps: calls that denoise.
        generator: of the noise.

    Returns:
        (B, count, F).

    Raises:
        ValueError: a modality that is not continuous, numbers below 1, or prompts that end in padding.

    Example:
        >>> from tokenmix.models import MixtureOfTransformersConfig, MixtureOfTransformersForCausalLM
        >>> image = {"input_size": 4, "objective": "diffusion"}
        >>> config = MixtureOfTransformersConfig(hidden_size=16, modalities={"text": {"vocab_size": 9}, "image": image})
        >>> sample_features(MixtureOfTransformersForCausalLM(config).eval(), torch.tensor([[1, 2]]), "image", 3).shape
        torch.Size([1, 3, 4])
    """
    config = model.config
    if name not in config.continuous():
        raise ValueError(f"name: expected one of {list(config.continuous())}, found {name!r}")
    check_positive("count", count)
    check_positive("steps", steps)
    if attention_mask is not None and not bool(attention_mask[:, -1].all()):
        raise ValueError("attention_mask: expected prompts padded on the left, found padding at the end of one")
    cache = MixerCache(reserve=input_ids.shape[1] + count)
    kept = {"features": features, "logits_to_keep": 1, CACHE_ARGUMENT: cache}
    read = model(input_ids, attention_mask=attention_mask, use_cache=True, **kept)
    token = torch.full((len(input_ids), count), config.first_token(name), device=input_ids.device)
    if name in config.continuous("diffusion"):
        size = (*token.shape, config.specs[name]["input_size"])
        x = torch.randn(size, generator=generator, device=token.device)  # float32, whatever the model is
        return _denoise(model, token, name, x, cache, steps)
    first = read.predictions[name][:, -1:]
    return _predict(model, token, name, first, cache)


def _denoise(model: Any, token: Tensor, name: str, x: Tensor, cache: MixerCache, steps: int) -> Tensor:
    levels = torch.linspace(1.0, 0.0, steps + 1, device=x.device, dtype=x.dtype)
    for here, there in itertools.pairwise(levels):
        level, target = here.expand(token.shape), there.expand(token.shape)
        memory = copy.deepcopy(cache)  # the span is read anew in each step
        read = model(token, features=_widen(model, x), noise_level=level, use_cache=True, **{CACHE_ARGUMENT: memory})
        x = step_towards(x, read.predictions[name].float(), level, target)
    return x


def _predict(model: Any, token: Tensor, name: str, first: Tensor, cache: MixerCache) -> Tensor:
    found = [first]
    while len(found) < token.shape[1]:
        read = model(token[:, :1], features=_widen(model, found[-1]), use_cache=True, **{CACHE_ARGUMENT: cache})
        found.append(read.predictions[name])
    return torch.cat(found, dim=1)


def _widen(model: Any, features: Tensor) -> Tensor:
    """Features with zeros behind them, up to the widest modality of the model."""
    return torch.nn.functional.pad(features, (0, model.config.feature_size - features.shape[-1]))
