"""A Block Transformer that reads from a state: caches, prompts of any length, and generation in every way."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_cases import KINDS, build
from tiny_models import VOCABULARY, assert_close, left_padded, tokens
from tiny_models import build as build_vanilla
from torch import Tensor
from transformers import DynamicCache

from tokenmix.layout import Layout
from tokenmix.models import BlockTransformerForCausalLM, MixerCache, generate
from tokenmix.models.block_transformer.reading import read_on
from tokenmix.models.block_transformer.token_decoder import TokenDecoder
from tokenmix.models.cache import CACHE_ARGUMENT

TINY = ["lookup", "cls", "summation", "cross_attention", "two_embeddings", "hybrid", "mamba2_gam", "three"]


def by_full_forward(model: BlockTransformerForCausalLM, ids: Tensor, count: int) -> Tensor:
    """Greedy continuation of one row: the whole row is read anew for every token, its first block filled up before."""
    offset = -ids.shape[1] % model.config.block_length
    with torch.no_grad():
        for _ in range(count):
            places = torch.arange(offset, offset + ids.shape[1])[None]
            scores = model(ids, position_ids=places, use_cache=False).logits[:, -1]
            ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], dim=1)
    return ids


def theirs(model: BlockTransformerForCausalLM, ids: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    found: Tensor = model.generate(ids, attention_mask=mask, **{"pad_token_id": 0, "do_sample": False, **options})
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_generation_is_the_argmax_of_the_full_forward(kind: str) -> None:
    """Prompts of 1 to 2 L_B + 1 tokens, ends inside a block and at one, by transformers' loop and by ours."""
    model = build(kind)
    size = model.config.block_length
    for length in range(1, 2 * size + 2):
        ids = tokens(1, length, seed=length)
        new = 2 * size + 1 + length % 3
        expected = by_full_forward(model, ids, new)
        assert expected.shape[1] == length + new
        assert torch.equal(theirs(model, ids, max_new_tokens=new), expected), length
        assert torch.equal(generate(model, ids, max_new_tokens=new), expected), length
        if length in (1, size):
            assert torch.equal(theirs(model, ids, max_new_tokens=new, use_cache=False), expected)
            assert torch.equal(theirs(model, ids, max_length=length + 3), expected[:, : length + 3])
    assert len(expected.unique()) > 3  # no loop of one token, which mistakes could leave alone


@pytest.mark.parametrize("kind", TINY)
def test_batches_of_unequal_prompts(kind: str) -> None:
    model = build(kind)
    ids, mask, rows = left_padded([9, 4, 1, 6])
    found = generate(model, ids, mask, max_new_tokens=9)
    assert torch.equal(found, theirs(model, ids, mask, max_new_tokens=9))
    for i, row in enumerate(rows):
        assert torch.equal(found[i, 9:], by_full_forward(model, row, 9)[0, row.shape[1] :])


@pytest.mark.parametrize("kind", TINY)
def test_beams_equal_beams_without_a_cache(kind: str) -> None:
    model = build(kind)
    ids, mask, _ = left_padded([6, 3])
    options: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 9, "num_return_sequences": 2}
    found = theirs(model, ids, mask, **options)
    assert torch.equal(found, theirs(model, ids, mask, use_cache=False, **options))
    assert not torch.equal(found[::2], found[1::2])
    model.generation_config.num_beams = 3
    with pytest.raises(ValueError, match=r"generation_config.num_beams: expected None or 1, .* found 3"):
        generate(model, ids, max_new_tokens=3)


@pytest.mark.parametrize("kind", ["lookup", "hybrid"])
def test_samples_after_the_same_seed(kind: str) -> None:
    model = build(kind)
    ids, mask, _ = left_padded([5, 3])
    options: dict[str, Any] = {"do_sample": True, "temperature": 1.4, "top_k": 30, "max_new_tokens": 11}
    results = []
    for run in (generate, theirs, lambda *args, **kw: theirs(*args, use_cache=False, **kw)):
        torch.manual_seed(5)
        results.append(run(model, ids, mask, **options))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], generate(model, ids, mask, max_new_tokens=11))


@pytest.mark.parametrize("place", [0, 1, 3])
def test_end_tokens_inside_a_block(place: int) -> None:
    """A row ends at any place of a block, goes on with padding, and the others do not notice."""
    model = build()
    ids, mask, _ = left_padded([8, 5])
    free = generate(model, ids, mask, max_new_tokens=14)
    eos = int(free[0, 8 + 4 + place])
    found = generate(model, ids, mask, max_new_tokens=14, eos_token_id=eos, pad_token_id=0)
    assert torch.equal(found, theirs(model, ids, mask, max_new_tokens=14, eos_token_id=eos))
    for row, whole in zip(found, free, strict=True):
        ends = (whole[8:] == eos).nonzero()
        length = 8 + (int(ends[0, 0]) + 1 if len(ends) else 14)
        assert torch.equal(row[:length], whole[:length])
        assert not row[length:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_any_split_into_chunks_gives_the_same_logits(kind: str) -> None:
    """Single tokens, a prompt and the rest, chunks across several blocks; with a row that begins inside a block."""
    model, length = build(kind), 15
    ids, size = tokens(2, length), model.config.block_length
    for offset, splits in ((0, [1] * length), (0, [7, 8]), (2, [4, 1, 9, 1]), (3, [2, 13]), (1, [length])):
        places = torch.arange(offset, offset + length)[None].expand(2, -1)
        with torch.no_grad():
            expected = model(ids, position_ids=places, use_cache=False).logits
            cache, found, start = MixerCache(), [], 0
            for count in splits:
                part = slice(start, start + count)
                found.append(model(ids[:, part], position_ids=places[:, part], cache=cache).logits)
                start += count
        assert_close(torch.cat(found, dim=1), expected)
        blocks = (offset % size + length) // size
        assert cache.layers[0].state.block.length == blocks * model.config.block_embeddings


@pytest.mark.parametrize("kind", ["lookup", "summation", "two_embeddings", "hybrid"])
def test_prefill_of_padded_rows_gives_all_logits_or_the_last(kind: str) -> None:
    model = build(kind)
    ids, mask, rows = left_padded([9, 5, 2])
    places = model.prompt_positions(mask)
    with torch.no_grad():
        full = model(ids, attention_mask=mask, position_ids=places, use_cache=False).logits
        cached = model(ids, attention_mask=mask, position_ids=places).logits
        last = model(ids, attention_mask=mask, position_ids=places, logits_to_keep=1).logits
        assert_close(cached, full)
        assert_close(last, full[:, -1:])
        for i, row in enumerate(rows):
            alone = model(row, position_ids=model.prompt_positions(torch.ones_like(row))).logits
            assert_close(cached[i, 9 - row.shape[1] :], alone[0])


def test_cache_sizes_are_the_closed_forms() -> None:
    """One entry a block and layer; at most r + L_B - 1 of the token decoder, which begin anew in every block."""
    model, prompt = build(num_block_layers=3, num_token_layers=2), 6
    ids = tokens(2, prompt)
    state = model.init_state(2)
    with torch.no_grad():
        model.read_last(ids, Layout(), state)
        for read in range(prompt, 23):
            offset = -prompt % 4
            blocks, inside = (offset + read) // 4, (offset + read) % 4
            assert state.block.length == blocks
            assert state.token is not None
            assert state.token.length == 2 + inside <= 2 + 4 - 1
            kv_width = 16  # two heads of width 8
            expected = 2 * 2 * kv_width * 4 * (3 * blocks + 2 * (2 + inside))
            assert state.nbytes == expected
            assert state.length == read
            model.read_last(tokens(2, 1, seed=read), Layout(), state)


@pytest.mark.parametrize("kind", KINDS)
def test_state_bytes_is_the_most_that_is_kept(kind: str) -> None:
    """At every length of a prompt, aligned to its end, with decoders of unequal depth."""
    model = build(kind, num_block_layers=3)
    for length in range(1, 4 * model.config.block_length):
        state = model.init_state(1)
        with torch.no_grad():
            model.read_last(tokens(1, length), Layout(), state)
            most = state.nbytes
            for step in range(1, model.config.block_length):
                model.read_last(tokens(1, 1, seed=step), Layout(), state)
                most = max(most, state.nbytes - (model.state_bytes(length + step) - model.state_bytes(length)))
        assert most <= model.state_bytes(length)
        assert model.state_bytes(length) <= 2 * most


def test_reserved_entries_are_not_allocated_again() -> None:
    model, state = build(), build().init_state(1)
    state.reserve(200)
    with torch.no_grad():
        model.read_last(tokens(1, 8), Layout(), state)
        before = state.block.states[0]._growing["k0"].data_ptr()
        for step in range(190):
            model.read_last(tokens(1, 1, seed=step), Layout(), state)
    assert state.block.states[0]._growing["k0"].data_ptr() == before
    for wrong in (-1, 2.5, True):
        with pytest.raises(ValueError, match="length: expected an integer of at least 0"):
            state.reserve(wrong)


def test_rows_that_have_no_whole_block_yet() -> None:
    """They stand where the others do, one of them without any token, and are exact from their first block on."""
    model, ids = build(), tokens(3, 16)
    mask = (torch.arange(6) >= 6 - torch.tensor([6, 2, 0])[:, None]).long()
    places = (mask.cumsum(1) - 1).clamp(min=0)
    places[1:] -= places[1:] - torch.tensor([0] * 4 + [0, 1])
    with torch.no_grad():
        first = model(ids[:, :6], attention_mask=mask, position_ids=places)
        whole = model(ids[:, :6], attention_mask=mask, position_ids=places, use_cache=False)
        assert_close(first.logits, whole.logits)
        more = model(ids[:, 6:], cache=first[CACHE_ARGUMENT]).logits
        alone = [
            model(ids[:1], use_cache=False).logits[:, 6:],
            model(ids[1:2, 4:], use_cache=False).logits[:, 2:],
            model(ids[2:, 6:], position_ids=torch.arange(2, 12)[None], use_cache=False).logits,
        ]
    for i in range(3):
        assert_close(more[i], alone[i][0])
    assert not more[1, 0].any()  # still in its first block
    assert theirs(model, ids[:, :6], mask, max_new_tokens=9).shape == (3, 15)


def test_states_of_other_models_are_refused() -> None:
    ids = tokens(2, 8)
    states = {kind: build(kind).init_state(2) for kind in ("lookup", "summation", "two_embeddings", "one")}
    for kind, state in states.items():
        if kind != "lookup":
            with pytest.raises(ValueError, match="state: expected one of this model"):
                generate(build(), ids, max_new_tokens=1, state=state)
    with pytest.raises(ValueError, match="state: expected one for 2 rows, found 1"):
        build().model.read(ids, build().init_state(1))
    vanilla = build_vanilla("attention")
    cache = MixerCache()
    vanilla(ids, cache=cache)
    with pytest.raises(TypeError, match="state: expected a BlockTransformerState, found MixerState"):
        build()(ids, cache=cache)
    cache = MixerCache()
    build()(ids[:1, :3], cache=cache)
    assert not cache.is_croppable  # before its first block too
    with pytest.raises(ValueError, match="state: expected one for 2 rows, found 1"):
        build()(ids, cache=cache)


def test_a_recurrent_block_decoder_keeps_the_same_at_any_length() -> None:
    model = build("mamba2_gam")
    sizes = []
    for length in (8, 64):
        state = model.init_state(1)
        with torch.no_grad():
            model.read_last(tokens(1, length), Layout(), state)
        sizes.append(state.nbytes)
    assert sizes[0] == sizes[1] > 0


@pytest.mark.parametrize("kind", ["lookup", "hybrid", "cross_attention"])
def test_generate_goes_on_from_its_own_state(kind: str) -> None:
    model, ids = build(kind), tokens(2, 8)
    state = model.init_state(2)
    first = generate(model, ids, max_new_tokens=6, state=state)
    second = generate(model, first[:, -1:], max_new_tokens=7, state=state)
    assert torch.equal(torch.cat([first, second[:, 1:]], dim=1), generate(model, ids, max_new_tokens=13))
    assert torch.equal(
        generate(model, ids, max_new_tokens=13, pack_weights=True), generate(model, ids, max_new_tokens=13)
    )


def test_states_are_copied_reordered_and_not_cropped() -> None:
    model, ids = build(), tokens(3, 6)
    state = model.init_state(3)
    with torch.no_grad():
        model.model.read(ids, state)
        copied = copy.deepcopy(state)
        copied.reorder(torch.tensor([2, 0]))
        more = tokens(2, 5, seed=3)
        found = model.model.read(more, copied)
        expected = model.model.read(torch.cat([ids[[2, 0]], more], dim=1), model.init_state(2))
        assert_close(found, expected[:, 6:])
    assert state.length == 6
    with pytest.raises(ValueError, match=r"crop\(length=3\): this state has seen 6 tokens and cannot go back"):
        state.crop(3)
    state.crop(6)
    cache = MixerCache()
    model(ids, cache=cache)
    assert not cache.is_croppable
    with pytest.raises(ValueError, match="cannot go back"):
        cache.crop(-1)


def test_other_caches_and_gradients_through_a_state() -> None:
    model, ids = build("summation"), tokens(2, 10)
    expected = model(ids, use_cache=False).logits
    cache = DynamicCache()
    found = torch.cat([model(part, cache=cache).logits for part in ids.split([3, 7], dim=1)], dim=1)
    assert_close(found, expected)
    weight = model.model.blocks.gather.embed_tokens.weight
    grads = [torch.autograd.grad(y.square().sum(), weight)[0] for y in (found, expected)]
    assert_close(grads[0], grads[1], 1e-3)


def test_refusals_in_generation() -> None:
    model, ids = build(max_position_embeddings=12), tokens(2, 13)
    with pytest.raises(ValueError, match=r"prompt and new tokens to be at most max_position_embeddings=12, found 14"):
        generate(model, ids, max_new_tokens=1)
    with pytest.raises(ValueError, match=r"prompt and new tokens to be at most max_position_embeddings=12, found 13"):
        theirs(model, ids[:, :10], max_new_tokens=3)
    padded = F.pad(torch.ones(2, 10, dtype=torch.int64), (3, 0))
    assert theirs(model, ids, padded, max_new_tokens=2).shape == (2, 15)
    assert generate(model, ids, padded, max_new_tokens=2).shape == (2, 15)
    with pytest.raises(ValueError, match="input_ids: expected 0 to vocab_size - 1 = 60"):
        generate(model, ids[:, :3] + VOCABULARY, max_new_tokens=2)
    unequal = model(ids[:, :7], attention_mask=torch.tensor([[0, 1, 1, 1, 1, 1, 1], [1] * 7]))
    with pytest.raises(ValueError, match=r"stand at one place of their blocks, found places \[2, 3\] of 4"):
        model(ids[:, :1], cache=unequal[CACHE_ARGUMENT])
    cache = MixerCache()
    model(ids[:, :4], cache=cache)
    with pytest.raises(ValueError, match="attention_mask: expected no padding after the first tokens"):
        model(ids[:, :2], attention_mask=torch.tensor([[0, 1], [1, 1]]), cache=cache)
    with pytest.raises(ValueError, match="labels: expected none with a cache that has read tokens"):
        model(ids[:, :2], labels=ids[:, :2], cache=cache)
    with pytest.raises(ValueError, match=r"assistant|assisted|stateful"):
        theirs(model, ids[:1, :4], max_new_tokens=3, prompt_lookup_num_tokens=2)


@pytest.mark.parametrize("fault", ["place", "fresh", "known", "official"])
def test_planted_faults_change_tokens(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparisons above can fail: a decoder that does not begin anew, or whose places are the official ones."""
    model = build("summation" if fault == "place" else "lookup")
    ids = tokens(2, 7)
    expected = generate(model, ids, max_new_tokens=16)
    begin, read = TokenDecoder.begin, TokenDecoder.read
    kept: list[Any] = []

    def stale(self: TokenDecoder, known: Tensor) -> Any:
        if not kept:
            kept.append(begin(self, known)[1])
            return begin(self, known)
        return self._run(self._first(known), known, kept[0])[:, -1:], kept[0]

    def misplaced(self: TokenDecoder, found: Tensor, place: int, known: Tensor, state: Any) -> Tensor:
        return read(self, found, min(place + 1, 2), known, state)

    def official(self: TokenDecoder, known: Tensor) -> Any:
        """Both prefix vectors at place 0, the tokens after them at 1, 2, 3."""
        state = self.stack.init_state(known.shape[0])
        x = self.stack(known, Layout(positions=torch.zeros(known.shape[:2], dtype=torch.int64)), state)
        return x[:, -1:], state

    def forgotten(blocks: Any, found: Tensor, state: Any) -> Tensor:
        if state.place == 3:
            state.tokens = state.tokens.roll(1, 1)
        return read_on(blocks, found, state)

    if fault == "known":
        monkeypatch.setattr("tokenmix.models.block_transformer.model.read_on", forgotten)
    else:
        wrong = {"fresh": ("begin", stale), "official": ("begin", official), "place": ("read", misplaced)}[fault]
        monkeypatch.setattr(TokenDecoder, *wrong)
    assert not torch.equal(generate(model, ids, max_new_tokens=16), expected)
