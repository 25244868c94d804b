"""FIT with a cache: what is read in parts, or generated, equals what is computed at once."""

from typing import Any

import pytest
import torch
from test_fit_tools import GROUP, LATENTS, MIXERS, build, logits_of, memory
from tiny_models import assert_close, left_padded, tokens
from torch import Tensor
from transformers import DynamicCache

from tokenmix.layout import Layout
from tokenmix.models import MixerCache, generate
from tokenmix.models.cache import CACHE_ARGUMENT
from tokenmix.models.fit import FITConfig, FITForCausalLM, FITState, reading
from tokenmix.models.fit.state import forget_rows

FIXED: dict[str, Any] = {
    "return_dict_in_generate": True,
    "output_logits": True,
    "output_scores": True,
    "pad_token_id": 0,
}
EXACT = {name: 1e-9 if name in ("attention", "rope") else 1e-4 for name in MIXERS}


def greedy(model: FITForCausalLM, ids: Tensor, count: int) -> Tensor:
    """The argmax of a full forward, token by token."""
    for _ in range(count):
        ids = torch.cat([ids, logits_of(model, ids, use_cache=False)[:, -1:].argmax(-1)], dim=1)
    return ids


# ---------------------------------------------------------------------- reading in parts


@pytest.mark.parametrize("chunks", [[1] * 14, [3, 1, 6, 4], [4, 4, 6], [14], [2, 12]], ids=str)
@pytest.mark.parametrize("name", MIXERS)
def test_any_split_equals_the_whole(name: str, chunks: list[int]) -> None:
    model, ids, cache = build(**MIXERS[name]), tokens(2, 14), MixerCache()
    parts = [logits_of(model, part, past_key_values=cache) for part in ids.split(chunks, dim=1)]
    assert_close(torch.cat(parts, dim=1), logits_of(model, ids, use_cache=False), EXACT[name])
    assert cache.get_seq_length() == 14


def check_unequal(model: FITForCausalLM, tolerance: float) -> None:
    """Rows at every place of their groups, read in chunks that end, cross and fill groups."""
    prompts, mask, rows = left_padded([11, 8, 7, 5, 1])
    more = tokens(5, 16, seed=2)
    cache = MixerCache()
    parts = [logits_of(model, prompts, attention_mask=mask, past_key_values=cache)[:, -1:]]
    for chunk in more.split([1, 1, 3, 3, 8], dim=1):
        mask = torch.cat([mask, torch.ones_like(chunk)], dim=1)
        parts.append(logits_of(model, chunk, attention_mask=mask, past_key_values=cache))
    for i, row in enumerate(rows):
        alone = logits_of(model, torch.cat([row, more[i : i + 1]], dim=1), use_cache=False)
        assert_close(torch.cat(parts, dim=1)[i], alone[0, -17:], tolerance)


@pytest.mark.parametrize("name", MIXERS)
def test_unequal_prompts_then_chunks(name: str) -> None:
    check_unequal(build(**MIXERS[name]), EXACT[name])


@pytest.mark.parametrize("layers", ["(2)", "(0)1(1)", "(1)1(0)", "(1)1(1)1(1)2"])
def test_other_layers_then_chunks(layers: str) -> None:
    check_unequal(build(layers=layers), 1e-9)


def test_padding_in_any_chunk() -> None:
    model, ids = build(), tokens(3, 16)
    mask = torch.rand(3, 16, generator=torch.Generator().manual_seed(0)) < 0.7
    mask[2, :6] = False  # a row that begins late
    places = (mask.cumsum(1) - 1).masked_fill(~mask, 3)  # what stands at padding says nothing
    cache = MixerCache()
    parts = [
        logits_of(model, part, attention_mask=real.long(), position_ids=where, past_key_values=cache)
        for part, real, where in zip(
            ids.split([5, 3, 8], dim=1), mask.split([5, 3, 8], dim=1), (places[:, :5], None, None), strict=True
        )
    ]
    found = torch.cat(parts, dim=1)
    for i in range(3):
        assert_close(found[i, mask[i]], logits_of(model, ids[i : i + 1, mask[i]], use_cache=False)[0], 1e-9)


def test_positions_say_where_a_document_begins_in_its_group() -> None:
    model, ids, cache = build(), tokens(2, 9), MixerCache()
    places = torch.tensor([[2], [5]]) + torch.arange(9)
    expected = logits_of(model, ids, position_ids=places, attention_mask=torch.ones(2, 9), use_cache=False)
    parts = [
        logits_of(model, ids[:, cut], position_ids=places[:, cut], past_key_values=cache)
        for cut in (slice(0, 4), slice(4, 5), slice(5, 9))
    ]
    assert_close(torch.cat(parts, dim=1), expected, 1e-9)
    assert (expected - logits_of(model, ids, use_cache=False)).abs().max() > 0.1


def test_what_is_kept() -> None:
    """Latents of whole groups, and no more than one group of tokens."""
    model = build().float()
    state = model.init_state(2)
    for length in range(1, 4 * GROUP + 1):
        with torch.no_grad():
            model.read_last(tokens(2, 1), Layout(), state)
        assert (state.length, state.groups.tolist(), state.place.tolist()) == (
            length,
            [length // GROUP] * 2,
            [length % GROUP] * 2,
        )
        for stage in state.stages:
            assert stage.local is not None
            assert stage.local.length == length % GROUP
            assert stage.latent is None or stage.latent.length == length // GROUP * LATENTS
    keys = 2 * (4 * LATENTS) * 2 * 24 * 3  # rows, latents, keys and values, width, global layers
    known, present = 2 * LATENTS * 24 * 2, 2 * GROUP * 16 * 2  # in two stages
    assert state.nbytes == 4 * (keys + known + present)


def test_gradients_flow_through_a_state() -> None:
    model, ids = build(), tokens(2, 10)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    whole = model(ids, use_cache=False).logits.square().mean()
    expected = torch.autograd.grad(whole, parameters)
    cache = MixerCache()
    parts = [model(part, past_key_values=cache).logits for part in ids.split([3, 6, 1], dim=1)]
    found = torch.autograd.grad(torch.cat(parts, dim=1).square().mean(), parameters)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-8)
    cache.detach()
    assert not any(stage.known is not None and stage.known.requires_grad for stage in memory(cache).stages)


# ---------------------------------------------------------------------- generate


@pytest.mark.parametrize("length", range(1, 2 * GROUP + 2))
def test_generate_is_the_argmax_of_the_whole(length: int) -> None:
    model, ids = build(), tokens(2, length)
    found = model.generate(ids, max_new_tokens=2 * GROUP + 1, pad_token_id=0)
    assert torch.equal(found, greedy(model, ids, 2 * GROUP + 1))


@pytest.mark.parametrize("name", MIXERS)
def test_generate_greedy_and_beams(name: str) -> None:
    """Left-padded prompts with junk under the padding: scores of every step equal those without a cache."""
    model = build(**MIXERS[name])
    ids, mask, rows = left_padded([6, 3, 4])
    for beams in (1, 3):
        options = {"attention_mask": mask, "max_new_tokens": 7, "num_beams": beams, **FIXED}
        cached = model.generate(ids, use_cache=True, **options)
        plain = model.generate(ids, use_cache=False, **options)
        assert isinstance(cached.past_key_values, MixerCache)
        assert plain.past_key_values is None
        assert torch.equal(cached.sequences, plain.sequences)
        for found, expected in zip(cached.logits, plain.logits, strict=True):
            assert_close(found, expected, EXACT[name])
        if beams == 1:
            for i, row in enumerate(rows):
                assert torch.equal(cached.sequences[i, 6:], greedy(model, row, 7)[0, row.shape[1] :])


@pytest.mark.parametrize("name", ["attention", "gam_mamba2"])
def test_the_lean_loop_gives_the_same_tokens(name: str) -> None:
    """`tokenmix.models.generate`, greedy and sampled, with padding, in two calls with one state."""
    model = build(**MIXERS[name])
    ids, mask, _ = left_padded([7, 4, 1])
    found = generate(model, ids, mask, max_new_tokens=9)
    assert torch.equal(found, model.generate(ids, attention_mask=mask, max_new_tokens=9, pad_token_id=0))
    results = []
    for run in (generate, model.generate):
        torch.manual_seed(3)
        model_first = (model,) if run is generate else ()
        options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": True, "pad_token_id": 0}
        results.append(run(*model_first, ids, **options))
    assert torch.equal(*results)
    state = model.init_state(1)
    first = generate(model, ids[:1], max_new_tokens=4, state=state)
    second = generate(model, first[:, -1:], max_new_tokens=5, state=state)
    assert torch.equal(torch.cat([first, second[:, 1:]], dim=1), found[:1])


def test_sampling_with_one_seed() -> None:
    model = build(**MIXERS["gam_mamba2"])
    ids, mask, _ = left_padded([5, 3])
    options = {"attention_mask": mask, "max_new_tokens": 9, "do_sample": True, "num_return_sequences": 3, **FIXED}
    results = []
    for use_cache in (True, True, False):
        torch.manual_seed(3)
        results.append(model.generate(ids, use_cache=use_cache, **options))
    assert torch.equal(results[0].sequences, results[1].sequences)
    assert torch.equal(results[0].sequences, results[2].sequences)
    assert len({tuple(row.tolist()) for row in results[0].sequences}) == 6


@pytest.mark.parametrize("cache", [MixerCache, DynamicCache])
def test_continue_from_a_returned_cache_and_chunked_prompts(cache: Any) -> None:
    model = build()
    ids, mask, _ = left_padded([7, 4])
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=5, use_cache=False, **FIXED)
    chunked = model.generate(ids, attention_mask=mask, max_new_tokens=5, prefill_chunk_size=3, **FIXED)
    first = model.generate(ids, attention_mask=mask, max_new_tokens=2, **{CACHE_ARGUMENT: cache()}, **FIXED)
    longer = torch.cat([mask, torch.ones(2, 2, dtype=torch.long)], dim=1)
    second = model.generate(
        first.sequences,
        attention_mask=longer,
        max_new_tokens=3,
        **{CACHE_ARGUMENT: first.past_key_values},
        **FIXED,
    )
    assert torch.equal(chunked.sequences, expected.sequences)
    assert torch.equal(second.sequences, expected.sequences)
    for found, wanted in zip((*first.logits, *second.logits), expected.logits, strict=True):
        assert_close(found, wanted, 1e-9)


def test_every_place_can_be_used_and_no_more() -> None:
    model = build(max_groups=3)
    ids = tokens(1, 5)
    assert torch.equal(model.generate(ids, max_new_tokens=7, pad_token_id=0), greedy(model, ids, 7))
    with pytest.raises(ValueError, match="to be at most max_position_embeddings=12, found 13"):
        model.generate(ids, max_new_tokens=8, pad_token_id=0)
    with pytest.raises(ValueError, match="at most max_groups=3 groups of 4 tokens in a document, found 4"):
        model(tokens(1, 13), use_cache=False)
    cache = MixerCache()
    logits_of(model, tokens(1, 12), past_key_values=cache)
    with pytest.raises(ValueError, match="at most max_groups=3 groups of 4 tokens in a document, found 4"):
        logits_of(model, tokens(1, 1), past_key_values=cache)


# ---------------------------------------------------------------------- the cache


def keep_all(memory: Any, fresh: Any, rows: Tensor) -> None:
    """Instead of `forget_rows`: the local layers go on over the border of a group."""


def forget_all(memory: Any, fresh: Any, rows: Tensor) -> None:
    forget_rows(memory, fresh, torch.ones_like(rows))


def close_late(stages: Any, table: Any, closing: Tensor, state: FITState) -> None:
    """Instead of `_close`: the next group still reads the latents from before."""
    known = [stage.known for stage in state.stages]
    CLOSE(stages, table, closing, state)
    for stage, value in zip(state.stages, known, strict=True):
        stage.known = value


def close_first(stages: Any, table: Any, closing: Tensor, state: FITState) -> None:
    """Every group starts from the latents of group 0."""
    CLOSE(stages, table[:1], closing, state)


def close_all(stages: Any, table: Any, closing: Tensor, state: FITState) -> None:
    """Latents of groups that are not whole come into the memory too."""
    groups, place, filled = state.groups, state.place, state.filled
    CLOSE(stages, table, torch.ones_like(closing), state)
    state.groups, state.filled = groups + closing, filled & ~closing[:, None]
    state.place = place.masked_fill(closing, 0)


CLOSE = reading._close


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("forget_rows", keep_all),
        ("forget_rows", forget_all),
        ("_close", close_late),
        ("_close", close_first),
        ("_close", close_all),
    ],
)
def test_planted_faults_are_caught(name: str, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    check_unequal(model, 1e-9)
    monkeypatch.setattr(reading, name, fault)
    with pytest.raises(AssertionError):
        check_unequal(model, 1e-9)


def test_beams_are_reordered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The beams above do exercise `reorder`: without it the scores would differ."""
    model = build()
    ids, mask, _ = left_padded([5, 3])
    options = {"attention_mask": mask, "max_new_tokens": 6, "num_beams": 3, **FIXED}
    plain = model.generate(ids, use_cache=False, **options)
    monkeypatch.setattr(FITState, "reorder", lambda self, index: None)
    broken = model.generate(ids, use_cache=True, **options)
    assert any(not torch.allclose(a, b, atol=1e-2) for a, b in zip(broken.logits, plain.logits, strict=False))


def test_autocast_and_bfloat16_read_on() -> None:
    model = FITForCausalLM(FITConfig(hidden_size=32, latent_size=32, group_size=4, latents=2)).eval()
    ids = tokens(2, 11)
    with torch.autocast("cpu", torch.bfloat16):
        whole = logits_of(model, ids, use_cache=False)
        cache = MixerCache()
        parts = [logits_of(model, part, past_key_values=cache) for part in ids.split([6, 1, 4], dim=1)]
    assert_close(torch.cat(parts, dim=1).float(), whole.float(), 0.05)
    half = model.to(torch.bfloat16)
    whole, cache = logits_of(half, ids, use_cache=False), MixerCache()
    parts = [logits_of(half, part, past_key_values=cache) for part in ids.split([6, 1, 4], dim=1)]
    assert_close(torch.cat(parts, dim=1).float(), whole.float(), 0.05)
    assert memory(cache).stages[0].known.dtype == torch.bfloat16


def test_inference_mode_then_gradients_and_other_types() -> None:
    model, ids = build(), tokens(1, 10)
    expected = model(ids, use_cache=False).logits
    state = model.init_state(1)
    with torch.inference_mode():
        model.read_last(ids[:, :6], Layout(), state)
    last = model.lm_head(model.read_last(ids[:, 6:], Layout(), state))
    last.sum().backward()
    assert_close(last, expected[:, -1])
    narrow = build().float()
    state = narrow.init_state(1, dtype=torch.bfloat16)
    with torch.no_grad():
        found = narrow.lm_head(narrow.read_last(ids, Layout(), state))
    assert torch.nn.functional.cosine_similarity(found, expected[:, -1].float()).item() > 0.99
