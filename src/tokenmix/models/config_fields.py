"""Which keys a configuration of ours takes."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from tokenmix.models.safe_loading import CODE_FIELDS
from tokenmix.nearest import nearest

_WRITTEN_BY_TRANSFORMERS = (
    "architectures", "attn_implementation", "dtype", "model_type", "quantization_config", "torch_dtype",
    "transformers_version", "use_cache",
)  # fmt: skip
_OF_THE_CLASS = ("model_type", "keys_to_ignore_at_inference")


def refuse_misspelt_fields(config: type[PreTrainedConfig], names: dict[str, Any]) -> None:
    """Refuse a key that nobody reads: transformers would keep it.

    Args:
        config: the class whose fields are known.
        names: the keys that are no fields of it.

    Raises:
        ValueError: a key that is neither a field nor one that transformers writes, with the nearest fields.

    Example:
        >>> class Tiny(PreTrainedConfig):
        ...     width: int = 4
        >>> refuse_misspelt_fields(Tiny, {"widht": 3})
        Traceback (most recent call last):
        ...
        ValueError: widht: not a field of Tiny; did you mean 'width'?
    """
    ours = config.__mro__[: config.__mro__.index(PreTrainedConfig)]
    own = [name for cls in ours for name in vars(cls).get("__annotations__", ()) if name not in _OF_THE_CLASS]
    for name in names:
        if name.startswith("_") or name in _WRITTEN_BY_TRANSFORMERS or hasattr(config, name):
            continue
        raise ValueError(f"{name}: not a field of {config.__name__}; {nearest(name, own)}")


def check_probabilities(config: PreTrainedConfig, *names: str) -> None:
    """Refuse fields that are no probabilities of dropping something.

    Raises:
        ValueError: a number below 0, or of 1 and more.

    Example:
        >>> class Tiny(PreTrainedConfig):
        ...     dropout: float = 1.5
        >>> check_probabilities(Tiny(), "dropout")
        Traceback (most recent call last):
        ...
        ValueError: dropout: expected a probability below 1, found 1.5
    """
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name}: expected a probability below 1, found {getattr(config, name)}")


def require_settings(config: PreTrainedConfig, **settings: Any) -> None:
    """Refuse a published model with a setting that has no counterpart here.

    Raises:
        ValueError: the setting, what is expected, and what was found.

    Example:
        >>> require_settings(PreTrainedConfig(), chunk_size_feed_forward=0)
    """
    for name, wanted in settings.items():
        if getattr(config, name) != wanted:
            raise ValueError(f"{name}: expected {wanted!r}, found {getattr(config, name)!r}")


def plain_rope(config: Any) -> dict[str, Any]:
    """The rotary parameters of a published model.

    Raises:
        ValueError: scaled ones.
    """
    rope: dict[str, Any] = {**(config.rope_parameters or {})}
    if rope["rope_type"] != "default":
        raise ValueError(f"rope_parameters: expected rope_type 'default', found {rope['rope_type']!r}")
    return rope


def in_groups(mixer: Any, group: int) -> Any:
    """The description of a mixer over slots: in causal attention, those of a group see each other.

    Args:
        mixer: a name or a description.
        group: slots a group.

    Example:
        >>> in_groups("attention", 2), in_groups("gam", 2)
        ({'group': 2, 'mixer': 'attention'}, 'gam')
    """
    described = {"mixer": mixer} if isinstance(mixer, str) else mixer
    if group == 1 or described.get("mixer") != "attention" or not described.get("causal", True):
        return mixer
    return {"group": group, **described}


def drop_code_fields(names: dict[str, Any]) -> None:
    """Forget where a checkpoint says that its code is: that of these models is never a checkpoint's.

    Example:
        >>> names = {"auto_map": {}, "num_labels": 2}
        >>> drop_code_fields(names)
        >>> names
        {'num_labels': 2}
    """
    for name in CODE_FIELDS:
        names.pop(name, None)
