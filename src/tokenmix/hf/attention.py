"""Softmax-shaped mixers as names for `attn_implementation`, for models that use transformers' interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tokenmix.hf.attention_function import make_attention_function
from tokenmix.hf.attention_masks import make_mask_function
from tokenmix.hf.attention_probe import probe_attention
from tokenmix.hf.attention_rules import BUILT_IN, AttentionSpec, make_spec
from tokenmix.hf.attention_storage import keep_names_in_configs

_SPECS: dict[str, AttentionSpec] = {}


def register_attention(
    name: str | None = None,
    source: str | Sequence[Any] | None = None,
    *,
    replace: bool = False,
    **options: Any,
) -> None:
    """Make a softmax-shaped mixer an `attn_implementation`.

    The attention function is registered together with its mask function: without it, transformers hands every layer
    the mask None, and padding, static caches and sliding caches go wrong without a word. Before both are registered,
    they are probed (`tokenmix.hf.attention_probe.probe_attention`): a pair that lets a causal query read a later token,
    or padding, is refused. `import tokenmix.hf` registers the built-in names:

    - "ls_attention" (options `window`, `long_heads`): the first heads read the last `window` tokens, the last
      `long_heads` read everything; a number, or a share of the heads. The default is half the heads: milder to a
      pretrained model than the `ls_attention` mixer, whose default is a sixth.
    - "sliding_window" (`window`): all heads read the last `window` tokens, themselves included; as many on each side in
      a model that looks ahead.
    - "cells" (`size`): a token reads its own chunk of `size` places, which start at the first token of its document.

    What the model itself hides stays hidden: padding, the future, other documents, its own sliding window. Cross
    attention always reads everything. A model's options are in its config, by name, and are stored with it::

        config.tokenmix_attention = {"ls_attention": {"window": 256, "long_heads": 2}}

    `tokenmix.hf.use_attention` sets name and options, and raises where a model would not follow. Weights that are
    asked for (output_attentions), attention dropout in training and soft caps are honoured, at the dense cost of eager
    attention; attention sinks are refused. A mixer with weights of its own is put into a model by
    `tokenmix.hf.swap_mixers`, and stored with a model type of its own.

    Args:
        name: the name; None for the built-in names.
        source: a built-in name (the default is `name`), or a list of (heads, rule) in the order of the heads. Heads
            are a number, or a share such as 0.5; a rule is None for everything, a window, or {"cells": size}.
        replace: whether another registration of the name may be replaced.
        **options: of the source.

    Raises:
        ValueError, TypeError: options that do not fit, a name that has other options or belongs to transformers, or a
            pair that the probe refuses.

    Example:
        >>> register_attention("near_and_far", [(0.25, None), (0.25, {"cells": 64}), (0.5, 32)])
        >>> register_attention("near_and_far", "sliding_window", window=16)
        Traceback (most recent call last):
            ...
        ValueError: name: 'near_and_far' is registered with other options; expected replace=True to replace them

    Source:
        Hajra 2025, arXiv 2505.15548 (long and short heads); Beltagy et al. 2020, arXiv 2004.05150 (windows); Qiu et al.
        2019, arXiv 1911.02972 (blocks).
    """
    if name is None:
        if source is not None or options:
            raise ValueError("name: expected one for a source and options, found None")
        for known in BUILT_IN:
            if known not in _SPECS:
                register_attention(known)
        return
    if not isinstance(name, str) or not name or "|" in name or "/" in name:
        raise ValueError(f"name: expected a word, found {name!r}")
    spec = make_spec(name, source, options)
    registered = _SPECS.get(name)
    if registered == spec:
        return
    if registered is None and (
        name == "eager" or name in ALL_ATTENTION_FUNCTIONS or name in ALL_MASK_ATTENTION_FUNCTIONS
    ):
        raise ValueError(f"name: expected one that is free, found {name!r}, which somebody else registered")
    if registered is not None and not replace:
        raise ValueError(f"name: {name!r} is registered with other options; expected replace=True to replace them")
    function, mask_function = make_attention_function(spec), make_mask_function(spec)
    probe_attention(function, mask_function)
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, mask_function)
    _SPECS[name] = spec
    keep_names_in_configs(_SPECS.keys())


def registered_attention(name: str) -> AttentionSpec:
    """What a name was registered with.

    Raises:
        ValueError: a name that `register_attention` does not know.
    """
    if name not in _SPECS:
        raise ValueError(
            f"name: expected one of {', '.join(map(repr, _SPECS))}, found {name!r}; see register_attention"
        )
    return _SPECS[name]
