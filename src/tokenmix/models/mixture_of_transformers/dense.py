"""A Mixture-of-Transformers from the weights of a dense model."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tokenmix.models.causal_lm import MixerForCausalLM
from tokenmix.models.checkpoints import from_transformers
from tokenmix.models.config import MixerConfig
from tokenmix.models.mixture_of_transformers.causal_lm import MixtureOfTransformersForCausalLM
from tokenmix.models.mixture_of_transformers.config import MixtureOfTransformersConfig


@torch.no_grad()
def from_dense(
    model: PreTrainedModel, modalities: dict[str, dict[str, Any]], **options: Any
) -> MixtureOfTransformersForCausalLM:
    """Untie a dense model: every modality begins with a copy of its weights, so nothing changes at the start.

    Tokens of the dense model's vocabulary get the logits that they had. The other modalities' embeddings and rows of
    the output layer, and what reads features, are new.

    Args:
        model: a `MixerForCausalLM`, a model that `tokenmix.models.from_transformers` knows (Llama, GPT-NeoX, Mamba,
            Mamba-2), or a `MixtureOfTransformersForCausalLM` with `untied=False`, all of whose modalities are kept.
        modalities: as in `MixtureOfTransformersConfig`; the first one is the dense model's, of its vocab_size.
        options: other fields of the configuration.

    Returns:
        A model with copies of the weights, of the same type, on the same device, in the same mode.

    Raises:
        TypeError: another model. ValueError: first modalities of another size than the model's vocabulary.

    Example:
        >>> dense = MixerForCausalLM(MixerConfig(vocab_size=50, hidden_size=32)).eval()
        >>> modalities = {"text": {"vocab_size": 50}, "image": {"vocab_size": 64}}
        >>> untied = MixtureOfTransformersForCausalLM.from_dense(dense, modalities)
        >>> tokens = torch.tensor([[3, 1, 4]])
        >>> torch.allclose(untied(tokens).logits[..., :50], dense(tokens).logits, atol=1e-5)
        True

    Source: Liang et al. 2024, arXiv 2411.04996.
    """
    dense = model if isinstance(model, MixerForCausalLM) else from_transformers(model)
    config = dense.config
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(MixerConfig) if f.init}
    for name in ("vocab_size", "transformers_version"):
        fields.pop(name, None)
    kept = [name for name in fields if name in MixerConfig.__annotations__]
    described = {name: fields[name] for name in kept} | {"norm_placement": "pre", "use_cache": config.use_cache}
    if described["intermediate_size"] is None:
        described["intermediate_size"] = _inner_width(dense)
    if isinstance(config, MixtureOfTransformersConfig):
        shapes = {name: (spec.get("vocab_size"), spec.get("input_size")) for name, spec in modalities.items()}
        mine = {name: (spec.get("vocab_size"), spec.get("input_size")) for name, spec in config.specs.items()}
        if config.untied or list(shapes.items())[: len(mine)] != list(mine.items()):
            raise ValueError(
                f"model: expected untied=False and modalities that begin with its own, {config.modalities}, found "
                f"untied={config.untied} and {modalities}"
            )
        described |= {"norm_placement": config.norm_placement, "feature_loss_weight": config.feature_loss_weight}
    elif next(iter(modalities.values()), {}).get("vocab_size") != config.vocab_size:
        raise ValueError(
            f"modalities: expected the first one to have vocab_size={config.vocab_size}, that of the model, found "
            f"{modalities}"
        )
    ours = MixtureOfTransformersForCausalLM(
        MixtureOfTransformersConfig(**{**described, "modalities": modalities, **options})
    )
    torch.nn.Module.to(ours, device=dense.device)
    source = dense.state_dict()
    for name, parameter in ours.named_parameters():
        parameter.data = parameter.data.to(source[name].dtype if name in source else dense.dtype)
    ours.tie_weights()
    own = ours.state_dict()
    for name, value in source.items():
        _copy(name, own, value)
    ours.generation_config = copy.deepcopy(dense.generation_config)
    return ours.train(model.training)


def _inner_width(dense: MixerForCausalLM) -> int | None:
    """Of the feed-forwards, which a configuration may leave to them."""
    layers: Any = dense.stack.layers
    return next((int(b.feed_forward.up_proj.out_features) for b in layers if b.feed_forward is not None), None)


def _copy(name: str, own: dict[str, Tensor], value: Tensor) -> None:
    """Into a parameter of the same shape, of one for each modality, or with more rows."""
    if name not in own:
        raise ValueError(f"model: {name} has no place in a Mixture-of-Transformers of these options")
    place = own[name]
    if place.shape == value.shape or place.shape[1:] == value.shape:
        place.copy_(value)
    elif place.shape[1:] == value.shape[1:] and len(place) > len(value):
        place[: len(value)].copy_(value)
    else:
        raise ValueError(f"{name}: expected shape {tuple(place.shape)} or less, found {tuple(value.shape)}")
