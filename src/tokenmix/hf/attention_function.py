"""The attention function of a registered name, with the signature that transformers' `AttentionInterface` wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import output_capturing

from tokenmix.hf.attention_read import Columns, columns, read_blocks, read_dense, read_with_weights
from tokenmix.hf.attention_rules import EVERYTHING, AttentionSpec, HeadRun, Reads

CROSS = "tokenmix_cross_attention"  # a module may say what it is
_REFUSED = ("s_aux", "sinks", "indices", "block_indices")  # arguments of models that change what is computed
AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]


def make_attention_function(spec: AttentionSpec) -> AttentionFunction:
    """The attention function of a spec."""

    def attention_function(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        scaling: float | None = None,
        dropout: float = 0.0,
        is_causal: bool | None = None,
        position_bias: Tensor | None = None,
        softcap: float | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        for name in _REFUSED:
            if kwargs.get(name) is not None:
                raise ValueError(f"{name}: {spec.name!r} cannot honour this argument of {type(module).__name__}")
        config = getattr(module, "config", None)
        own = spec.of(config)
        heads, kv_heads = query.shape[1], key.shape[1]
        causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
        if reads_another_sequence(module, causal, query.shape[2], key.shape[2], attention_mask):
            runs = [HeadRun(slice(0, heads), slice(0, kv_heads), EVERYTHING)]
        else:
            runs = own.runs(heads, kv_heads)
        at: Columns | None = None
        if attention_mask is None or attention_mask.dtype == torch.int32:
            window = getattr(config, "sliding_window", None)
            at = columns(attention_mask, query.shape[2], key.shape[2], causal, window)
        weigh = bool(dropout) or softcap is not None or bool(output_attentions) or _weights_are_recorded()
        if at is not None and position_bias is None and not weigh:
            parts = [
                read_blocks(query[:, x.heads], key[:, x.kv_heads], value[:, x.kv_heads], x.reads, at, scaling)
                for x in runs
            ]
            return _join(parts).transpose(1, 2).contiguous(), None
        scale = query.shape[3] ** -0.5 if scaling is None else scaling
        rules = own.rules()
        results, weights = [], []
        for x in runs:
            allowed, bias = _pairs(x.reads, rules, at, attention_mask, query, key)
            bias = _add(_heads_of(bias, x.heads), _heads_of(position_bias, x.heads))
            keys = key.shape[2] if allowed is None else allowed.shape[-1]
            q, k, v = query[:, x.heads], key[:, x.kv_heads, :keys], value[:, x.kv_heads, :keys]
            bias = None if bias is None else bias[..., :keys]
            allowed = _heads_of(allowed, x.heads)
            if weigh:
                y, share = read_with_weights(q, k, v, allowed, bias, scale, softcap=softcap, dropout=float(dropout))
                weights.append(nn.functional.pad(share, (0, key.shape[2] - keys)))
            else:
                y = read_dense(q, k, v, allowed, bias, scale)
            results.append(y)
        return _join(results).transpose(1, 2).contiguous(), _join(weights) if weights else None

    return attention_function


def reads_another_sequence(
    module: nn.Module, causal: bool, queries: int, keys: int, attention_mask: Tensor | None
) -> bool:
    """Whether a module is cross attention, whose heads all read everything.

    Its own word counts first (an attribute `tokenmix_cross_attention`, which a user may set), then its class and
    attributes, as transformers writes them; then, that it looks ahead and has not as many keys as queries.
    """
    stated = getattr(module, CROSS, None)
    if stated is not None:
        return bool(stated)
    if "Cross" in type(module).__name__ or getattr(module, "is_cross_attention", False) is True:
        return True
    if causal:
        return False
    if getattr(module, "is_decoder", False) is True and getattr(module, "is_causal", None) is False:
        return True  # the family of BART: its decoders are causal where they read themselves
    return queries != keys and (attention_mask is None or attention_mask.shape[1] in (1, 4))


def _pairs(
    reads: Reads, rules: list[Reads], at: Columns | None, mask: Tensor | None, query: Tensor, key: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """(B|1, H|1, Q, K) which keys the heads of a rule may read, and what is added to their scores."""
    if at is not None:
        return at.allowed(reads, query.device), None
    if mask is None:
        return None, None
    queries, keys = query.shape[2], key.shape[2]
    if mask.dtype == torch.uint8:
        bit = 0 if reads.size is None else rules.index(reads) + 1
        return (mask & (1 << bit)) != 0, None
    foreign = mask[..., :keys]
    near = None
    if reads.size is not None:
        if queries != keys:
            raise ValueError(
                "attention_mask: expected (B, L) beside a cache, so that queries can be placed, found a mask of shape "
                f"{tuple(foreign.shape)} that this attention did not make"
            )
        near = Columns(False, queries, keys, None).allowed(reads, query.device)
    if foreign.dtype == torch.bool:
        return (foreign if near is None else foreign & near), None
    hidden = foreign <= torch.finfo(foreign.dtype).min
    return near, foreign.masked_fill(hidden, -torch.inf)


def _weights_are_recorded() -> bool:
    """Whether a model that was called with output_attentions=True waits for weights."""
    if torch.compiler.is_compiling():
        return False
    waiting = output_capturing._active_collector.get()
    return waiting is not None and any("attentions" in name for name in waiting)


def _heads_of(x: Tensor | None, heads: slice) -> Tensor | None:
    return x if x is None or x.shape[1] == 1 else x[:, heads]


def _add(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    return right if left is None else left if right is None else left + right


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
