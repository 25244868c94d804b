"""Decoding after a long context: tokens a second of a Llama of transformers and of the same model here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.rows import Pair, Row, Run
from tokenmix.layout import Layout
from tokenmix.models import MixerForCausalLM, from_transformers, generate

LAYERS, DIM, HEADS, HIDDEN, VOCABULARY = 8, 512, 8, 1536, 8192
ROOM = 512  # places made for new tokens beforehand


def models(layers: int = LAYERS) -> tuple[MixerForCausalLM, torch.nn.Module]:
    """The library's model and transformers' Llama, with equal weights, so that both give the same tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    llama = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=DIM,
        intermediate_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    theirs = LlamaForCausalLM(llama).eval()
    return from_transformers(theirs).eval(), theirs


def prompt(length: int, vocabulary: int = VOCABULARY) -> Tensor:
    """(1, length) tokens."""
    return torch.randint(1, vocabulary, (1, length), generator=torch.Generator().manual_seed(0))


def after_prompt(model: Any, length: int, rows: int) -> tuple[Tensor, Any]:
    """The (rows, 1) token after `length` of a prompt, and the state in which these were read."""
    ids = prompt(length + 1, model.config.vocab_size)
    state = model.init_state(1)
    state.reserve(length + ROOM)
    with torch.inference_mode():
        model.read_last(ids[:, :-1], Layout(), state)
    state.reorder(torch.zeros(rows, dtype=torch.int64))  # now no tensor of inference mode, which would be copied
    return ids[:, -1:].expand(rows, -1), state


def vanilla_run(model: MixerForCausalLM, length: int, rows: int, steps: int, pack: bool) -> Run:
    """`steps` new tokens of each row after `length` that were read before and are not timed."""
    last, state = after_prompt(model, length, rows)

    def run() -> Tensor:
        state.crop(length)
        return generate(model, last, max_new_tokens=steps, state=state, pack_weights=pack)

    return run


def llama_run(model: torch.nn.Module, length: int, rows: int, steps: int) -> Run:
    """The generate of transformers, with the cache that it makes by default, as `vanilla_run`."""
    ids = prompt(length + 1)
    with torch.inference_mode():
        read = model(ids[:, :-1], use_cache=True)
    name = "cache" if hasattr(read, "cache") else "past_key_values"
    cache = getattr(read, name)
    cache.batch_repeat_interleave(rows)
    whole = ids.expand(rows, -1).contiguous()

    def run() -> Tensor:
        cache.crop(min(0, length - cache.get_seq_length()))
        with torch.inference_mode():
            return model.generate(whole, max_new_tokens=steps, do_sample=False, **{name: cache})[:, length:]

    return run


def pair(length: int, rows: int, steps: int = 8, pack: bool = False) -> Pair:
    """`steps` new tokens of each row, after a context of `length` tokens that was read before and is not timed."""
    ours, theirs = models()
    mine, other = vanilla_run(ours, length, rows, steps, pack), llama_run(theirs, length, rows, steps)
    return Pair(mine, other, partial(_differing, mine, other), limit=0.0, notes=f"{rows * steps} tokens a call")


def prompt_pair(length: int) -> Pair:
    """A prompt of one row is read, and one token chosen."""
    ours, theirs = models()
    ids = prompt(length)

    def mine() -> Tensor:
        return generate(ours, ids, max_new_tokens=1)

    def llama() -> Tensor:
        with torch.inference_mode():
            return theirs.generate(ids, max_new_tokens=1, do_sample=False)

    return Pair(mine, llama, partial(_differing, mine, llama), limit=0.0)


def _differing(mine: Callable[[], Tensor], llama: Callable[[], Tensor]) -> dict[str, float]:
    """The share of other tokens."""
    return {"ours tokens that differ": float((mine() != llama()).float().mean())}


PEER = "transformers' Llama, generate"
ROWS = [
    Row("generate/prompt", "reading a prompt, batch 1", PEER, prompt_pair, 1024),
    Row("generate/64", "decoding, batch 64", PEER, partial(pair, rows=64), 1024, 3.7, 6, rounds=5),
    Row("generate/8", "decoding, batch 8", PEER, partial(pair, rows=8), 1024),
    Row("generate/1", "decoding, batch 1", PEER, partial(pair, rows=1, steps=24), 1024),
    Row("generate/1/short", "decoding, batch 1", PEER, partial(pair, rows=1, steps=24), 128),
    Row(
        "generate/1/packed", "decoding, batch 1, packed weights", PEER, partial(pair, rows=1, steps=64, pack=True), 128
    ),
]
