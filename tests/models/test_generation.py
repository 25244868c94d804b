"""The cache: what is generated with it equals what is computed without it, as logits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import STACKS, assert_close, build, left_padded, tokens
from torch import Tensor
from transformers import DynamicCache, StaticCache, TextStreamer
from transformers.cache_utils import Cache

from tokenmix.models import MixerCache, MixerForCausalLM
from tokenmix.models.cache import CACHE_ARGUMENT

FIXED: dict[str, Any] = {
    "return_dict_in_generate": True,
    "output_logits": True,
    "output_scores": True,
    "pad_token_id": 0,
}


def logits_of(model: MixerForCausalLM, ids: Tensor, **inputs: Any) -> Tensor:
    with torch.no_grad():
        return model(ids, **inputs).logits


@pytest.mark.parametrize("position", ["none", "learned"])
@pytest.mark.parametrize("chunks", [[1] * 12, [5, 1, 3, 2, 1], [12]], ids=["steps", "chunks", "whole"])
@pytest.mark.parametrize("name", STACKS)
def test_cached_equals_uncached(name: str, chunks: list[int], position: str) -> None:
    model = build(name, position=position, max_position_embeddings=12 if position == "learned" else None)
    ids = tokens(2, 12)
    cache = MixerCache()
    parts = [logits_of(model, part, past_key_values=cache) for part in ids.split(chunks, dim=1)]
    assert_close(torch.cat(parts, dim=1), logits_of(model, ids, use_cache=False))
    assert cache.get_seq_length() == 12


@pytest.mark.parametrize("position", ["none", "learned"])
@pytest.mark.parametrize("name", STACKS)
def test_unequal_prompts_then_steps(name: str, position: str) -> None:
    model = build(name, position=position, max_position_embeddings=20 if position == "learned" else None)
    prompts, mask, rows = left_padded([7, 4, 1])
    more = tokens(3, 5, seed=2)
    cache = MixerCache()
    parts = [logits_of(model, prompts, attention_mask=mask, past_key_values=cache)[:, -1:]]
    for chunk in more.split([1, 3, 1], dim=1):
        mask = torch.cat([mask, torch.ones_like(chunk)], dim=1)
        parts.append(logits_of(model, chunk, attention_mask=mask, past_key_values=cache))
    for i, row in enumerate(rows):
        alone = logits_of(model, torch.cat([row, more[i : i + 1]], dim=1), use_cache=False)
        assert_close(torch.cat(parts, dim=1)[i], alone[0, -6:])


@pytest.mark.parametrize("name", STACKS)
def test_right_padded_chunk_then_steps(name: str) -> None:
    model = build(name)
    ids, more = tokens(2, 6), tokens(2, 2, seed=2)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    cache = MixerCache()
    logits_of(model, ids, attention_mask=mask, past_key_values=cache)
    found = logits_of(model, more, past_key_values=cache)
    for i, length in enumerate([6, 3]):
        alone = torch.cat([ids[i : i + 1, :length], more[i : i + 1]], dim=1)
        assert_close(found[i], logits_of(model, alone, use_cache=False)[0, -2:])


@pytest.mark.parametrize("name", STACKS)
def test_generate_greedy_and_beams(name: str) -> None:
    """Left-padded prompts with junk under the padding: scores of every step equal those without a cache."""
    model = build(name)
    ids, mask, _ = left_padded([5, 3])
    for beams in (1, 3):
        options = {"attention_mask": mask, "max_new_tokens": 5, "num_beams": beams, **FIXED}
        cached = model.generate(ids, use_cache=True, **options)
        plain = model.generate(ids, use_cache=False, **options)
        assert isinstance(cached.past_key_values, MixerCache)
        assert plain.past_key_values is None
        assert torch.equal(cached.sequences, plain.sequences)
        for found, expected in zip(cached.logits, plain.logits, strict=True):
            assert_close(found, expected)
    assert_close(cached.sequences_scores, plain.sequences_scores)


def test_beams_are_reordered() -> None:
    """The case above does exercise `reorder_cache`: without it the scores would differ."""
    model = build("mamba2")
    ids, mask, _ = left_padded([5, 3])
    options = {"attention_mask": mask, "max_new_tokens": 5, "num_beams": 3, **FIXED}
    plain = model.generate(ids, use_cache=False, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MixerCache, "reorder_cache", lambda self, index: None)
        broken = model.generate(ids, use_cache=True, **options)
    assert any(not torch.allclose(a, b, atol=1e-2) for a, b in zip(broken.logits, plain.logits, strict=False))


def test_sampling_is_reproducible_and_cached_right() -> None:
    model = build("hybrid")
    ids, mask, _ = left_padded([5, 3])
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": True, "num_return_sequences": 3, **FIXED}
    results = []
    for use_cache in (True, True, False):
        torch.manual_seed(3)
        results.append(model.generate(ids, use_cache=use_cache, **options))
    assert results[0].sequences.shape == (6, 11)
    assert torch.equal(results[0].sequences, results[1].sequences)
    assert len({tuple(row.tolist()) for row in results[0].sequences}) == 6
    for found, expected in zip(results[0].logits, results[2].logits, strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("name", ["attention", "sliding_window", "gam_written", "mamba", "hybrid"])
def test_continue_from_a_returned_cache(name: str) -> None:
    model = build(name)
    ids, mask, _ = left_padded([5, 3])
    first = model.generate(ids, attention_mask=mask, max_new_tokens=4, **FIXED)
    ids = torch.cat([first.sequences, tokens(2, 3, seed=4)], dim=1)
    options = {"attention_mask": torch.cat([mask, torch.ones(2, 7, dtype=torch.long)], dim=1), "max_new_tokens": 3}
    found = model.generate(ids, **{CACHE_ARGUMENT: first.past_key_values}, **options, **FIXED)
    expected = model.generate(ids, use_cache=False, **options, **FIXED)
    for a, b in zip(found.logits, expected.logits, strict=True):
        assert_close(a, b)


def test_chunked_prefill_and_embeddings() -> None:
    model = build("hybrid")
    ids, mask, _ = left_padded([7, 4])
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=3, use_cache=False, **FIXED)
    chunked = model.generate(ids, attention_mask=mask, max_new_tokens=3, prefill_chunk_size=3, **FIXED)
    embedded = model.generate(
        inputs_embeds=model.model.embed_tokens(ids), attention_mask=mask, max_new_tokens=3, **FIXED
    )
    for found in (chunked, embedded):
        for a, b in zip(found.logits, expected.logits, strict=True):
            assert_close(a, b)


@pytest.mark.parametrize("use_cache", [True, False])
def test_generate_after_a_packed_prompt(use_cache: bool) -> None:
    """New tokens belong to the last document of the row."""
    model = build("hybrid", position="learned", max_position_embeddings=8)
    ids = tokens(1, 8)
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    found = model.generate(ids, segment_ids=segments, max_new_tokens=3, use_cache=use_cache, **FIXED)
    expected = model.generate(ids[:, 3:], max_new_tokens=3, use_cache=False, **FIXED)
    for a, b in zip(found.logits, expected.logits, strict=True):
        assert_close(a, b)


def test_prompt_lookup_needs_a_memory_that_goes_back() -> None:
    ids = tokens(1, 6).repeat(1, 3)
    model = build("attention")
    found = model.generate(ids, max_new_tokens=8, prompt_lookup_num_tokens=3, **FIXED)
    expected = model.generate(ids, max_new_tokens=8, use_cache=False, **FIXED)
    assert torch.equal(found.sequences, expected.sequences)
    for a, b in zip(found.logits, expected.logits, strict=True):
        assert_close(a, b)
    padded, mask = torch.cat([tokens(1, 2), ids], dim=1), torch.ones(1, 20, dtype=torch.long)
    mask[:, :2] = 0
    found = model.generate(padded, attention_mask=mask, max_new_tokens=8, prompt_lookup_num_tokens=3, **FIXED)
    assert torch.equal(found.sequences[:, 2:], expected.sequences)
    with pytest.raises(ValueError, match="not supported with stateful models"):
        build("hybrid").generate(ids, max_new_tokens=8, prompt_lookup_num_tokens=3)


def test_streamer_gets_every_token() -> None:
    class Tokenizer:
        def decode(self, ids: list[int], **options: Any) -> str:
            return " ".join(map(str, torch.as_tensor(ids).tolist())) + " "

    class Collector(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            pieces.append(text)

    pieces: list[str] = []
    sequences = build("mamba").generate(tokens(1, 4), max_new_tokens=5, streamer=Collector(Tokenizer()), pad_token_id=0)
    assert [int(word) for word in "".join(pieces).split()] == sequences[0].tolist()


def test_cache_rows() -> None:
    model = build("hybrid")
    ids = tokens(3, 5)
    cache = MixerCache()
    assert (len(cache), cache.batch_size, cache.nbytes, cache.is_initialized) == (0, -1, 0, False)
    logits_of(model, ids, past_key_values=cache)
    assert (len(cache), cache.batch_size, cache.is_compileable) == (3, 3, False)
    assert cache.get_mask_sizes(2, 0) == (7, 0)
    cache.batch_select_indices(torch.tensor([True, False, True]))
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.tensor([3, 1]))
    rows, more = torch.tensor([2, 0]), tokens(2, 2, seed=5)
    found = logits_of(model, more, past_key_values=cache)
    assert_close(found, logits_of(model, torch.cat([ids[rows], more], dim=1), use_cache=False)[:, -2:])
    cache.reset()
    assert cache.get_seq_length() == 0
    assert_close(logits_of(model, ids, past_key_values=cache), logits_of(model, ids, use_cache=False))


def test_crop() -> None:
    model, ids = build("attention"), tokens(2, 6)
    cache = MixerCache()
    logits_of(model, ids, past_key_values=cache)
    assert cache.is_croppable
    cache.crop(-2)
    assert cache.get_seq_length() == 4
    found = logits_of(model, ids[:, 4:], past_key_values=cache)
    assert_close(found, logits_of(model, ids, use_cache=False)[:, 4:])
    cache.crop(0)
    assert cache.get_seq_length() == 6
    with pytest.raises(ValueError, match="expected 0 or minus the number of tokens, found 3"):
        cache.crop(3)
    with pytest.raises(ValueError, match="at most the 6 tokens read, found 7"):
        cache.crop(-7)
    cache.reset()
    logits_of(model, ids, attention_mask=torch.tensor([[1] * 6, [0] * 2 + [1] * 4]), past_key_values=cache)
    with pytest.raises(ValueError, match="crop such rows one by one"):
        cache.crop(-1)
    cache.reset()
    logits_of(model, ids[:1], attention_mask=torch.tensor([[1, 1, 1, 1, 0, 0]]), past_key_values=cache)
    with pytest.raises(ValueError, match="rows hold padding among the tokens to forget"):
        cache.crop(-1)
    cache = MixerCache()
    logits_of(build("mamba"), ids, past_key_values=cache)
    assert not cache.is_croppable
    with pytest.raises(ValueError, match="cannot go back"):
        cache.crop(-1)


CACHES: dict[str, Callable[[MixerForCausalLM], Cache]] = {
    "mixer": lambda model: MixerCache(),
    "dynamic": lambda model: DynamicCache(),
    "dynamic with layers": lambda model: DynamicCache(config=model.config),
    "static": lambda model: StaticCache(config=model.config, max_cache_len=12),
}


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("name", ["ls_attention", "mamba2", "hybrid"])
def test_any_cache_of_transformers_serves(name: str, kind: str) -> None:
    """Also static ones, for which `generate` makes masks of four axes unless a model says that it wants none."""
    model = build(name)
    padded, mask, rows = left_padded([6, 3])
    cache = CACHES[kind](model)
    options = {CACHE_ARGUMENT: cache, "attention_mask": mask, "max_new_tokens": 4}
    found = model.generate(padded, **options, **FIXED)
    assert cache.get_seq_length() == 9
    for i, row in enumerate(rows):
        alone = torch.cat([row, found.sequences[i : i + 1, 6:]], dim=1)
        expected = logits_of(model, alone, use_cache=False)[0, -5:-1]
        assert_close(torch.stack([step[i] for step in found.logits]), expected)


def test_other_caches_are_refused() -> None:
    model, ids = build("hybrid"), tokens(1, 4)
    with pytest.raises(TypeError, match=r"expected a transformers Cache, found list"):
        model(ids, past_key_values=[])
    with pytest.raises(ValueError, match="expected either cache or past_key_values, found both"):
        model(ids, cache=MixerCache(), past_key_values=MixerCache())
    with pytest.raises(ValueError, match=r"cache_implementation: expected None, .* found 'static'"):
        model.generate(ids, cache_implementation="static", max_new_tokens=1)
    cache = MixerCache()
    model(ids, past_key_values=cache)
    with pytest.raises(ValueError, match="expected one for 2 rows, found 1"):
        model(tokens(2, 1), past_key_values=cache)
