"""Names of attention in config.json: transformers does not write them, so that a model would load as another one."""

from __future__ import annotations

import functools
from collections.abc import KeysView
from typing import Any

from transformers import PreTrainedConfig

_MARK = "_tokenmix_names"


def keep_names_in_configs(names: KeysView[str]) -> None:
    """Let `PreTrainedConfig.to_dict` write `attn_implementation` where it is one of our names.

    transformers honours that key when it loads a config, but never writes it, and the class that it loads into is its
    own: so the writing is mended in the one place where it happens, for our names only. A process that has not imported
    `tokenmix.hf` refuses such a checkpoint with "attn_implementation ... is not supported", instead of computing
    something else; `attn_implementation="sdpa"` in `from_pretrained` still overrides it.

    Args:
        names: a live view of the registered names.
    """
    if getattr(PreTrainedConfig.to_dict, _MARK, None) is not None:
        return
    original = PreTrainedConfig.to_dict

    @functools.wraps(original)
    def to_dict(self: PreTrainedConfig) -> dict[str, Any]:
        output: dict[str, Any] = original(self)
        kept = _named(self, names)
        if kept is not None:
            output["attn_implementation"] = kept
        return output

    setattr(to_dict, _MARK, names)
    PreTrainedConfig.to_dict = to_dict  # type: ignore[method-assign]  # see above


def _named(config: Any, names: KeysView[str]) -> str | dict[str, Any] | None:
    """The value of the key: a name, or one for each part of a composite model whose parts differ."""
    own = getattr(config, "_attn_implementation", None)
    parts = {key: getattr(config, key, None) for key in config.sub_configs}
    parts = {key: _named(part, names) or part._attn_implementation for key, part in parts.items() if part is not None}
    if own not in names and not any(isinstance(part, dict) or part in names for part in parts.values()):
        return None
    if all(part == own for part in parts.values()):
        return str(own)
    return {"": own, **parts}
