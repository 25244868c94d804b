"""A Block Transformer from the weights of a vanilla language model, to be trained on."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tokenmix.models.block_transformer.causal_lm import BlockTransformerForCausalLM
from tokenmix.models.block_transformer.config import BlockTransformerConfig
from tokenmix.models.causal_lm import MixerForCausalLM
from tokenmix.models.checkpoints import build_with_weights, from_transformers

METHODS = ("partition", "skip", "duplicate")


def from_vanilla(
    model: PreTrainedModel, *, block_length: int = 4, method: str = "partition", expansion: int = 2, **options: Any
) -> BlockTransformerForCausalLM:
    """A Block Transformer that starts from a vanilla language model, to be trained on (uptraining).

    Its lower layers become the block decoder and its upper layers the token decoder. A block is embedded as the mean of
    its tokens' embeddings, the bridge hands the block decoder's output on as every prefix vector, and the token
    decoder has the vanilla model's embedding, final norm and output layer. The block decoder's final norm is new, as
    in the authors' code.

    Args:
        model: a model that `tokenmix.models.from_transformers` knows (Llama, GPT-NeoX, Mamba, Mamba-2), or a
            `MixerForCausalLM` of causal mixers without learned positions.
        block_length: tokens a block.
        method: which layers go where: "partition" (the first half, and the rest), "skip" (every second, to both) or
            "duplicate" (all, to both).
        expansion: prefix vectors.
        options: other fields of `BlockTransformerConfig`.

    Returns:
        A model with a copy of the weights, of the same type, on the same device, in the same mode.

    Raises:
        TypeError: another model. ValueError: an unknown method, learned positions, or fewer than two layers to share.

    Example:
        >>> from tokenmix.models import MixerConfig
        >>> mixers = {"a": {"mixer": "attention", "heads": 4, "rope": True}}
        >>> vanilla = MixerForCausalLM(MixerConfig(hidden_size=32, mixers=mixers, num_hidden_layers=4))
        >>> block = from_vanilla(vanilla)
        >>> block.config.num_block_layers, block.config.num_token_layers
        (2, 2)

    Source:
        Ho et al. 2024, arXiv 2406.02657, section 3.7; which parts start how is that of the authors' code.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {METHODS}, found {method!r}")
    for name, wanted in {"embedder": "projection", "token_decoder": "prefix", "block_embeddings": 1}.items():
        if options.get(name, wanted) != wanted:
            raise ValueError(f"options: expected {name}={wanted!r}, found {options[name]!r}")
    vanilla = model if isinstance(model, MixerForCausalLM) else from_transformers(model)
    config = vanilla.config
    for name in ("hidden_size", "token_hidden_size", "vocab_size"):
        own = getattr(config, name.removeprefix("token_"))
        if options.get(name, own) != own:
            raise ValueError(f"{name}: expected that of the vanilla model, {own}, found {options[name]!r}")
    if config.position != "none":
        raise ValueError(f"model: expected one without learned positions, found position={config.position!r}")
    letters = vanilla.stack.letters
    count = len(letters)
    if count < 2 and method != "duplicate":
        raise ValueError(f"model: expected at least two layers for method={method!r}, found {count}")
    lower, upper = {
        "partition": (range(count // 2), range(count // 2, count)),
        "skip": (range(0, count, 2), range(0, count, 2)),
        "duplicate": (range(count), range(count)),
    }[method]
    described = _describe(vanilla, lower, "block") | _describe(vanilla, upper, "token")
    ours_config = BlockTransformerConfig(
        **{
            **described,
            **{name: getattr(config, name) for name in _SHARED},
            "token_intermediate_size": config.intermediate_size,
            "block_length": block_length,
            "embedder": "projection",
            "expansion": expansion,
            **options,
        }
    )
    ours = build_with_weights(
        BlockTransformerForCausalLM, ours_config, _weights(vanilla, lower, upper, block_length, expansion)
    )
    ours.generation_config = copy.deepcopy(vanilla.generation_config)
    return ours.train(model.training)


_SHARED = (
    "vocab_size", "hidden_size", "feed_forward", "intermediate_size", "feed_forward_bias", "parallel_residual", "norm",
    "norm_eps", "dropout", "mixer_dropout", "initializer_range", "tie_word_embeddings", "pad_token_id", "bos_token_id",
    "eos_token_id",
)  # fmt: skip


def _describe(vanilla: MixerForCausalLM, layers: range, which: str) -> dict[str, Any]:
    letters, mixers = "".join(vanilla.stack.letters[i] for i in layers), vanilla.config.mixers
    return {
        f"{which}_mixers": {letter: dict(mixers[letter]) for letter in mixers if letter in letters},
        f"{which}_pattern": letters,
        f"num_{which}_layers": len(letters),
    }


def _weights(
    vanilla: MixerForCausalLM, lower: range, upper: range, block_length: int, expansion: int
) -> dict[str, Tensor]:
    theirs = vanilla.state_dict()
    table = theirs["model.embed_tokens.weight"]
    one = torch.eye(table.shape[1], dtype=table.dtype, device=table.device)
    head = theirs.get("lm_head.weight", table)
    named = {
        "model.blocks.gather.embed_tokens.weight": table,
        "model.blocks.gather.projection.weight": one.repeat(1, block_length) / block_length,
        "model.blocks.gather.projection.bias": torch.zeros_like(one[0]),
        "model.blocks.scatter.bridge.weight": one.repeat(expansion, 1),
        "model.blocks.scatter.bridge.bias": torch.zeros_like(one[0]).repeat(expansion),
        "model.blocks.scatter.embed_tokens.weight": table,
        "lm_head.weight": head,
    }
    for part, layers in (("process", lower), ("scatter.stack", upper)):
        for new, old in enumerate(layers):
            start = f"model.stack.layers.{old}."
            named |= {
                f"model.blocks.{part}.layers.{new}.{name.removeprefix(start)}": value
                for name, value in theirs.items()
                if name.startswith(start)
            }
    for name, value in theirs.items():
        if name.startswith("model.stack.norm."):
            kind = name.rpartition(".")[2]
            named[f"model.blocks.scatter.stack.norm.{kind}"] = value
            named[f"model.blocks.process.norm.{kind}"] = torch.full_like(value, float(kind == "weight"))
    return named
