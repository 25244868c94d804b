"""Block Transformer against vanilla models of as many parameters: tokens a second at a fixed memory for the cache."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.decoding import (
    DIM,
    HEADS,
    HIDDEN,
    LAYERS,
    PEER,
    VOCABULARY,
    after_prompt,
    llama_run,
    models,
    prompt,
    vanilla_run,
)  # fmt: skip
from benchmarks.rows import Pair, Row, Run
from tokenmix.models import BlockTransformerConfig, BlockTransformerForCausalLM, MixerForCausalLM, generate
from tokenmix.models.block_transformer import BlockTransformerState
from tokenmix.stack_state import StackState

OURS = "our vanilla model, generate"
MIB = 2**20


def block_model() -> BlockTransformerForCausalLM:
    """Half of the vanilla model's layers in either decoder, blocks of 4 tokens."""
    torch.manual_seed(0)
    attention = {"a": {"mixer": "attention", "heads": HEADS, "rope": True}}
    config = BlockTransformerConfig(
        vocab_size=VOCABULARY,
        hidden_size=DIM,
        block_mixers=attention,
        num_block_layers=LAYERS // 2,
        token_mixers=attention,
        num_token_layers=LAYERS // 2,
        intermediate_size=HIDDEN,
        token_intermediate_size=HIDDEN,
    )
    return BlockTransformerForCausalLM(config).eval()


def rows_within(model: BlockTransformerForCausalLM | MixerForCausalLM, length: int, budget: int) -> int:
    """How many rows of `length` tokens a cache of `budget` bytes holds."""
    return budget // model.state_bytes(length)


# ---------------------------------------------------------------------- contenders


def block_run(model: BlockTransformerForCausalLM, length: int, rows: int, steps: int, pack: bool) -> Run:
    """`steps` new tokens of each row after `length` that were read before and are not timed."""
    last, state = after_prompt(model, length, rows)
    return lambda: generate(model, last, max_new_tokens=steps, state=forked(state), pack_weights=pack)


def forked(state: BlockTransformerState) -> BlockTransformerState:
    """A state that goes on from another without a copy: attention writes behind what is there and leaves it alone."""
    other = copy.copy(state)
    other.block = _forked(state.block)
    other.token = None if state.token is None else _forked(state.token)
    return other


def _forked(stack: StackState) -> StackState:
    states = [copy.copy(state) for state in stack.states]
    for state in states:
        state._growing = dict(state._growing)
    return StackState(states)


# ---------------------------------------------------------------------- pairs


def budget_pair(length: int, mib: int, peer: str, pack: bool = True, steps: int = 128) -> Pair:
    """New tokens a second, each with as many rows as the budget holds: on this machine each one's best batch."""
    block, (vanilla, llama) = block_model(), models()
    own, theirs = (rows_within(model, length, mib * MIB) for model in (block, vanilla))
    return _pair(block, vanilla, llama, length, own, theirs, peer, pack, steps)


def batch_pair(length: int, rows: int, peer: str, steps: int, pack: bool = False) -> Pair:
    """The same number of rows."""
    block, (vanilla, llama) = block_model(), models()
    return _pair(block, vanilla, llama, length, rows, rows, peer, pack, steps)


def _pair(
    block: BlockTransformerForCausalLM,
    vanilla: MixerForCausalLM,
    llama: torch.nn.Module,
    length: int,
    own: int,
    theirs: int,
    peer: str,
    pack: bool,
    steps: int,
) -> Pair:
    mine = block_run(block, length, own, steps, pack)
    if peer == PEER:
        other = llama_run(llama, length, theirs, steps)
    else:
        other = vanilla_run(vanilla, length, theirs, steps, pack)
    peer_model = llama if peer == PEER else vanilla
    errors = partial(both_differ, prompt(length + 1), block, mine, peer_model, other)
    return Pair(mine, other, errors, limit=0.05, notes=_sizes(block, vanilla, length, own, theirs), work=own / theirs)


def _sizes(block: BlockTransformerForCausalLM, vanilla: MixerForCausalLM, length: int, own: int, theirs: int) -> str:
    sizes = [f"{model.state_bytes(length) / MIB:.2f}" for model in (block, vanilla)]
    return f"{own} rows of {sizes[0]} MiB against {theirs} of {sizes[1]} MiB"


def whole_pair(length: int, mib: int, new: int, peer: str) -> Pair:
    """Prompts of `length` tokens and `new` after them, all timed: the paper's protocol, each at its own best batch."""
    block, (vanilla, llama) = block_model(), models()
    own, theirs = (rows_within(model, length + new, mib * MIB) for model in (block, vanilla))
    ids = torch.randint(1, VOCABULARY, (own, length), generator=torch.Generator().manual_seed(0))

    def mine() -> Tensor:
        return generate(block, ids, max_new_tokens=new, pack_weights=True)

    def other() -> Tensor:
        if peer == OURS:
            return generate(vanilla, ids[:theirs], max_new_tokens=new, pack_weights=True)
        with torch.inference_mode():
            return llama.generate(ids[:theirs], max_new_tokens=new, do_sample=False)

    part = slice(length - 1, length + 24)
    peer_model = vanilla if peer == OURS else llama
    errors = partial(both_differ, ids[:1], block, lambda: mine()[:, part], peer_model, lambda: other()[:, part])
    notes = _sizes(block, vanilla, length + new, own, theirs)
    return Pair(mine, other, errors, limit=0.05, notes=notes, work=own / theirs)


def prompt_pair(length: int, peer: str) -> Pair:
    """A prompt of one row is read, and one token chosen."""
    block, (vanilla, llama) = block_model(), models()
    ids = prompt(length)

    def mine() -> Tensor:
        return generate(block, ids, max_new_tokens=1)

    def theirs() -> Tensor:
        if peer == OURS:
            return generate(vanilla, ids, max_new_tokens=1)
        with torch.inference_mode():
            return llama.generate(ids, max_new_tokens=1, do_sample=False)

    peer_model = vanilla if peer == OURS else llama
    errors = partial(both_differ, ids, block, lambda: mine()[:, -2:], peer_model, lambda: theirs()[:, -2:])
    return Pair(mine, theirs, errors, limit=0.0)


def both_differ(
    ids: Tensor, block: torch.nn.Module, mine: Callable[[], Tensor], peer: torch.nn.Module, theirs: Callable[[], Tensor]
) -> dict[str, float]:
    """`differing` of either contender."""
    sides = {"ours": (block, mine), "theirs": (peer, theirs)}
    return {f"{who} tokens that differ": differing(model, ids, run) for who, (model, run) in sides.items()}


def differing(model: torch.nn.Module, ids: Tensor, run: Callable[[], Tensor]) -> float:
    """The share of the first row's tokens that are not the likeliest of a full forward without a cache.

    Packed weights round otherwise, so one in twenty may be another where two tokens are all but equally likely.

    Args:
        model: which generated.
        ids: (1, length) what the first row read, of whole blocks and perhaps one token more.
        run: gives (B, 1 + new) tokens: the last of `ids`, and those after it.
    """
    found = run()[:1, 1:]
    with torch.inference_mode():
        scores = model(torch.cat([ids, found], dim=1), use_cache=False).logits
    return float((scores[:, ids.shape[1] - 1 : -1].argmax(-1) != found).float().mean())


def _budget(mib: int, length: int, peer: str, target: float | None = None, stretch: float | None = None) -> Row:
    build = partial(budget_pair, mib=mib, peer=peer)
    return Row(
        f"block/{mib}MiB", f"Block Transformer: {mib} MiB of cache", peer, build, length, target, stretch, rounds=3
    )


def _whole(what: str, length: int, new: int, peer: str) -> Row:
    build = partial(whole_pair, mib=128, new=new, peer=peer)
    title = f"Block Transformer: {length} tokens in, {new} out, 128 MiB"
    return Row(f"block/{what}", title, peer, build, length, rounds=1)


def _batch(
    rows: int, length: int, peer: str, steps: int, target: float | None = None, stretch: float | None = None
) -> Row:
    build = partial(batch_pair, rows=rows, peer=peer, steps=steps)
    return Row(f"block/{rows}", f"Block Transformer: batch {rows}", peer, build, length, target, stretch, rounds=5)


def _prompt(peer: str) -> Row:
    return Row("block/prompt", "Block Transformer: a prompt, batch 1", peer, partial(prompt_pair, peer=peer), 1024, 8)


PLAIN = "Block Transformer: 256 MiB, weights not packed"
ROWS = [
    _budget(256, 1024, OURS, 10),
    _budget(256, 1024, PEER, 13),
    _budget(1024, 4096, OURS, 13, 15),
    Row("block/plain", PLAIN, OURS, partial(budget_pair, mib=256, peer=OURS, pack=False), 1024, rounds=3),
    _whole("prefill-heavy", 512, 32, OURS),
    _whole("prefill-heavy", 512, 32, PEER),
    _whole("decode-heavy", 32, 512, OURS),
    _whole("decode-heavy", 32, 512, PEER),
    _prompt(OURS),
    _prompt(PEER),
    _batch(1, 128, OURS, 64, 1.5, 2.2),
    _batch(1, 128, PEER, 64),
    _batch(8, 1024, OURS, 32),
    _batch(64, 1024, OURS, 16),
    _batch(64, 1024, PEER, 16),
]
