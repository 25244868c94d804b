"""Tiny FIT models whose mistakes show, and FIT as its equations say it, in plain loops."""

import math
from collections.abc import Callable
from typing import Any

import torch
from tiny_models import VOCABULARY, assert_close, randomize, tokens
from torch import Tensor, nn

from tokenmix.models import MixerCache
from tokenmix.models.fit import FITConfig, FITForCausalLM, FITModel, FITState

GROUP, LATENTS = 4, 2
EXACT = 1e-9
ATTENTION = {"mixer": "attention", "heads": 2, "bias": True}
MIXERS: dict[str, dict[str, Any]] = {
    "attention": {},
    "rope": {"local_mixer": {**ATTENTION, "rope": True}, "latent_mixer": {**ATTENTION, "rope": True}},
    "gam_mamba2": {
        "local_mixer": {"mixer": "gam", "slots": 8},
        "latent_mixer": {"mixer": "mamba2", "state_size": 8, "head_dim": 8, "chunk": 4},
        "cross_heads": 2,
    },
    "mamba_window": {
        "local_mixer": {"mixer": "mamba", "state_size": 4},
        "latent_mixer": {"mixer": "sliding_window", "heads": 2, "window": 3},
    },
    "window_linear": {
        "local_mixer": {"mixer": "sliding_window", "heads": 2, "window": 2},
        "latent_mixer": {"mixer": "linear_attention", "heads": 2},
    },
}
BOTH_WAYS = {
    "attention": {},
    "gam_linear": {
        "local_mixer": {"mixer": "gam", "slots": 8},
        "latent_mixer": {"mixer": "linear_attention", "heads": 2},
    },
    "window": {
        "local_mixer": {"mixer": "sliding_window", "heads": 2, "window": 2},
        "latent_mixer": {"mixer": "sliding_window", "heads": 2, "window": 3},
    },
}


def settings(**options: Any) -> FITConfig:
    sizes = {"hidden_size": 16, "latent_size": 24, "group_size": GROUP, "latents": LATENTS, "max_groups": 8}
    small = {"layers": "(1)2(1)1(1)", "intermediate_size": 20, "latent_intermediate_size": 20}
    mixers = {"local_mixer": ATTENTION, "latent_mixer": ATTENTION}
    vocabulary = {} if "input_size" in options else {"vocab_size": VOCABULARY}
    return FITConfig(**{**sizes, **small, **mixers, **vocabulary, **options})


def build(model: Any = FITForCausalLM, **options: Any) -> Any:
    """A model in eval mode and float64, with large random weights."""
    torch.manual_seed(0)
    return randomize(model(settings(**options))).double().eval()


def built(model: FITModel | FITForCausalLM) -> FITModel:
    return model.model if isinstance(model, FITForCausalLM) else model


# ---------------------------------------------------------------------- the equations


def reference(model: FITModel, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """(L, D) embedded tokens of one document to their features, and to (t, m, D_l) latents, group by group."""
    config = model.config
    n, m, causal = config.group_size, config.latents, config.causal
    groups = [x[i : i + n] + model.embed_positions.weight[: len(x[i : i + n])] for i in range(0, len(x), n)]
    table = None if model.embed_latents is None else model.embed_latents.weight
    latents = [] if table is None else [table[k * m : (k + 1) * m] for k in range(len(groups))]
    for stage in model.stages:
        for k, group in enumerate(groups):
            for block in [] if stage.local is None else stage.local.layers:
                group = layer(block, group, lambda i, j: j <= i or not causal)
            groups[k] = group
        if stage.exchange is None:
            continue
        for k, group in enumerate(groups):
            latents[k] = cross(stage.exchange.gather.cross, latents[k], group, config.cross_query_norm)
        row = torch.cat(latents)
        for block in stage.exchange.process.layers:
            row = layer(block, row, lambda i, j: j // m <= i // m or not causal)
        latents = list(row.split(m))
        if stage is not model.stages[-1]:
            for k, group in enumerate(groups):
                seen = latents[k] if not causal else latents[k - 1] if k else torch.zeros_like(latents[0])
                groups[k] = cross(stage.exchange.scatter.cross, group, seen, config.cross_query_norm)
    last = None if model.latent_norm is None else torch.stack([norm(model.latent_norm, value) for value in latents])
    return norm(model.norm, torch.cat(groups)), last


def check_equations(model: FITModel, length: int) -> None:
    """The model equals the equations."""
    ids = tokens(1, length)
    found = model(ids)
    x, latents = reference(model, model.embed_tokens(ids)[0])
    assert_close(found.last_hidden_state[0], x, EXACT)
    assert_close(found.latents[0], latents, EXACT)
    assert found.latent_mask is None


def norm(module: nn.Module, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6) * module.weight + module.bias


def layer(block: Any, x: Tensor, sees: Callable[[int, int], bool]) -> Tensor:
    seen = norm(block.mixer_norm, x)
    x = x + attention(block.mixer, seen, seen, sees)
    inner = block.feed_forward
    y = norm(block.feed_forward_norm, x) @ inner.up_proj.weight.T + inner.up_proj.bias
    y = y * 0.5 * (1 + torch.erf(y / math.sqrt(2)))
    return x + y @ inner.down_proj.weight.T + inner.down_proj.bias


def cross(module: Any, x: Tensor, context: Tensor, query_norm: bool) -> Tensor:
    query = norm(module.norm, x) if query_norm else x
    return x + attention(module, query, norm(module.context_norm, context), lambda i, j: True)


def attention(module: Any, x: Tensor, context: Tensor, sees: Callable[[int, int], bool]) -> Tensor:
    q, k, v = (
        source @ projection.weight.T + projection.bias
        for source, projection in ((x, module.q_proj), (context, module.k_proj), (context, module.v_proj))
    )
    width = q.shape[1] // module.heads
    rows = []
    for i in range(len(x)):
        keys = [j for j in range(len(context)) if sees(i, j)]
        parts = []
        for h in range(module.heads):
            at = slice(h * width, (h + 1) * width)
            scores = torch.stack([q[i, at] @ k[j, at] / math.sqrt(width) for j in keys])
            weights = scores.exp() / scores.exp().sum()
            parts.append(sum(weights[a] * v[j, at] for a, j in enumerate(keys)))
        rows.append(torch.cat(parts))
    return torch.stack(rows) @ module.o_proj.weight.T + module.o_proj.bias


def logits_of(model: FITForCausalLM, ids: Tensor, **inputs: Any) -> Tensor:
    with torch.no_grad():
        return model(ids, **inputs).logits


def memory(cache: MixerCache) -> FITState:
    layer: Any = cache.layers[0]
    return layer.state
