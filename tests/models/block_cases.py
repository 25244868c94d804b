"""Tiny Block Transformers whose mistakes show, and what one computes block by block."""

from typing import Any

import torch
from tiny_models import ATTENTION, MAMBA2, VOCABULARY, randomize
from torch import Tensor

from tokenmix.models import BlockTransformerConfig, BlockTransformerForCausalLM

GAM = {"mixer": "gam", "slots": 8}
LINEAR = {"mixer": "linear_attention", "heads": 4}
WINDOW = {"mixer": "sliding_window", "heads": 4, "window": 3, "rope": True}

KINDS: dict[str, dict[str, Any]] = {
    "lookup": {},
    "projection": {"embedder": "projection"},
    "cls": {"embedder": "cls", "cls_tokens": 2, "cls_layers": 2},
    "summation": {"token_decoder": "summation"},
    "cross_attention": {"token_decoder": "cross_attention", "cross_heads": 4},
    "three_prefixes": {"expansion": 3},
    "two_embeddings": {"block_embeddings": 2, "expansion": 1},
    "two_embeddings_summed": {"block_embeddings": 2, "embedder": "projection", "token_decoder": "summation"},
    "mamba2_gam": {"block_mixers": {"m": MAMBA2}, "token_mixers": {"g": GAM}},
    "hybrid": {
        "block_mixers": {"m": MAMBA2, "a": ATTENTION},
        "block_pattern": "ma",
        "token_mixers": {"w": WINDOW, "k": LINEAR},
        "token_pattern": "wk",
    },
    "narrow_tokens": {"token_hidden_size": 16, "token_mixers": {"a": {"mixer": "attention", "heads": 2}}},
    "one": {"block_length": 1},
    "three": {"block_length": 3, "hidden_size": 24, "embedder": "lookup"},
    "seven": {"block_length": 7, "embedder": "projection"},
    "pythia": {
        "parallel_residual": True,
        "norm": "layernorm",
        "feed_forward": "gelu",
        "feed_forward_bias": True,
        "tie_word_embeddings": True,
    },
}


def build(kind: str = "lookup", **options: Any) -> BlockTransformerForCausalLM:
    """A model in eval mode with weights far from those at the start."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 40,
        "token_intermediate_size": 40,
        "block_mixers": {"a": ATTENTION},
        "token_mixers": {"a": ATTENTION},
        **KINDS[kind],
        **options,
    }
    for part in ("block", "token"):
        pattern = settings.setdefault(f"{part}_pattern", next(iter(settings[f"{part}_mixers"])))
        settings.setdefault(f"num_{part}_layers", max(2, len(pattern)))
    torch.manual_seed(0)
    model: BlockTransformerForCausalLM = randomize(BlockTransformerForCausalLM(BlockTransformerConfig(**settings)))
    return model.eval()


def one_by_one(model: BlockTransformerForCausalLM, tokens: list[int], offset: int = 0) -> Tensor:
    """(L, vocabulary) logits of one row, each block and each token computed anew, without groups, shifts or states."""
    decoder, size = model.model.token_decoder, model.config.block_length
    places: list[int | None] = [None] * offset + list(tokens)
    blocks = [places[i : i + size] for i in range(0, len(places), size)]
    rows = []
    for i in range(offset, len(places)):
        target = i + 1  # its place
        before, inside = target // size, [t for t in places[target // size * size : target] if t is not None]
        if before == 0:
            rows.append(torch.zeros(model.config.vocab_size))
            continue
        embeds = torch.cat([embed_alone(model, block) for block in blocks[:before]], dim=1)
        known = decoder.bridge(model.model.block_stack(embeds)[:, -model.config.block_embeddings :])
        known = known.reshape(1, decoder.vectors, decoder.width)
        own = decoder.embed_tokens(torch.tensor([inside], dtype=torch.int64))
        if decoder.kind == "prefix":
            x = decoder.stack(torch.cat([known, own], dim=1))
        else:
            x = torch.cat([decoder.start.expand(1, 1, -1), own], dim=1)
            if decoder.kind == "summation":
                x = decoder.stack(x + known[:, : x.shape[1]])
            else:
                for block, norm, cross in zip(decoder.stack.layers, decoder.norms, decoder.crosses, strict=True):
                    x = block(x + cross(norm(x), known))
                x = decoder.stack.norm(x)
        rows.append(model.lm_head(x[0, -1]))
    return torch.stack(rows)


def embed_alone(model: BlockTransformerForCausalLM, block: list[int | None]) -> Tensor:
    """(1, block_embeddings, D) of one block."""
    config, embedder = model.config, model.model.blocks.gather
    kept = torch.tensor([t for t in block if t is not None])
    if config.embedder == "cls":
        table = embedder.embed_places.weight
        at = [config.cls_tokens + i for i, t in enumerate(block) if t is not None]
        x = torch.cat([table[: config.cls_tokens], embedder.embed_tokens(kept) + table[at]])[None]
        return embedder.encoder(x)[:, : config.cls_tokens].reshape(1, config.block_embeddings, -1)
    vectors = [
        torch.zeros(embedder.embed_tokens.embedding_dim) if t is None else embedder.embed_tokens(torch.tensor(t))
        for t in block
    ]
    each = len(block) // config.block_embeddings
    parts = [torch.cat(vectors[i : i + each]) for i in range(0, len(block), each)]
    if config.embedder == "projection":
        parts = [embedder.projection(part) for part in parts]
    return torch.stack(parts)[None]
