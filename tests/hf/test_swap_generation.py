"""What a swapped model generates with any cache equals what it computes without one, as logits."""

from typing import Any

import pytest
import torch
from swap_cases import DECODERS, assert_close, build, inputs_of, left_padded, tokens
from transformers import DynamicCache, PreTrainedModel, StaticCache

from tokenmix.hf import swap_mixers
from tokenmix.models.cache import CACHE_ARGUMENT, MixerCacheLayer, cache_bytes

FIXED: dict[str, Any] = {
    "return_dict_in_generate": True,
    "output_logits": True,
    "pad_token_id": 0,
    "eos_token_id": None,
}
MIXED = {"0": {"mixer": "mamba2"}, "1": {"mixer": "ls_attention", "window": 3}}
SPECS = {
    "attention": "attention",
    "sliding_window": {"mixer": "sliding_window", "window": 3},
    "ls_attention": {"mixer": "ls_attention", "window": 3},
    "linear_attention": "linear_attention",
    "gam": {"mixer": "gam", "memory": "written", "slots": 8},
    "mamba": {"mixer": "mamba", "state_size": 4},
    "mamba2": "mamba2",
}


def compare(model: PreTrainedModel, ids: torch.Tensor, **options: Any) -> Any:
    """Generate with a cache and without; the logits of every step must agree."""
    plain_options = {k: v for k, v in options.items() if k not in ("cache_implementation", "prefill_chunk_size")}
    found = model.generate(ids, **{"max_new_tokens": 5, **FIXED, **options})
    expected = model.generate(ids, use_cache=False, **{"max_new_tokens": 5, **FIXED, **plain_options})
    assert torch.equal(found.sequences, expected.sequences)
    for a, b in zip(found.logits, expected.logits, strict=True):
        assert_close(a, b, 1e-4)
    return found


@pytest.mark.parametrize("where", ["0", "1-2", "all"])
@pytest.mark.parametrize("spec", SPECS)
def test_every_mixer_generates(spec: str, where: str) -> None:
    model = swap_mixers(build("llama"), {where: SPECS[spec]})
    ids, mask, _ = left_padded([6, 3])
    compare(model, ids, attention_mask=mask)
    compare(model, ids, attention_mask=mask, num_beams=3)
    compare(model, ids, attention_mask=mask, cache_implementation="static")


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_generates(name: str) -> None:
    model = swap_mixers(build(name), MIXED)
    ids, mask, rows = left_padded([7, 4, 1])
    found = compare(model, ids, attention_mask=mask)
    for i, row in enumerate(rows):
        with torch.no_grad():
            assert_close(found.logits[0][i], model(row).logits[0, -1], 1e-4)
    compare(model, ids, attention_mask=mask, num_beams=3, num_return_sequences=2)
    compare(model, ids, attention_mask=mask, cache_implementation="static")
    compare(model, ids, attention_mask=mask, cache_implementation="static", num_beams=2)


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gpt2"])
def test_chunks_equal_one_call(name: str) -> None:
    model = swap_mixers(build(name), {"0": "mamba2", "2": "gam"})
    ids = tokens(2, 12)
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        for chunks in ([1] * 12, [5, 1, 3, 2, 1]):
            cache = DynamicCache()
            parts = [model(part, **{CACHE_ARGUMENT: cache}).logits for part in ids.split(chunks, dim=1)]
            assert_close(torch.cat(parts, dim=1), whole, 1e-4)
    assert [type(layer).__name__ for layer in cache.layers] == ["MixerCacheLayer", "DynamicLayer", "MixerCacheLayer"]
    assert cache.get_seq_length() == 12
    assert cache_bytes(cache) > 0


def test_chunked_prefill() -> None:
    model = swap_mixers(build("llama"), MIXED)
    ids, mask, _ = left_padded([7, 4])
    compare(model, ids, attention_mask=mask, prefill_chunk_size=3)


@pytest.mark.parametrize("where", ["0", "1", "0-1", "all"])
@pytest.mark.parametrize("cache", [None, "static"])
def test_beside_sliding_windows(where: str, cache: str | None) -> None:
    """Mistral's own caches keep a window only, and their masks count from there."""
    model = swap_mixers(build("mistral", sliding_window=4), {where: "mamba2"})
    ids, mask, _ = left_padded([9, 6])
    compare(model, ids, attention_mask=mask, cache_implementation=cache, max_new_tokens=8)


def test_sampling_is_reproducible() -> None:
    model = swap_mixers(build("llama"), MIXED)
    ids, mask, _ = left_padded([5, 3])
    options = {"attention_mask": mask, "do_sample": True, "num_return_sequences": 3, "max_new_tokens": 6, **FIXED}
    results = []
    for use_cache in (True, True, False):
        torch.manual_seed(3)
        results.append(model.generate(ids, use_cache=use_cache, **options))
    assert torch.equal(results[0].sequences, results[1].sequences)
    assert len({tuple(row.tolist()) for row in results[0].sequences}) == 6
    for found, expected in zip(results[0].logits, results[2].logits, strict=True):
        assert_close(found, expected, 1e-4)


@pytest.mark.parametrize("fault", ["reorder_cache", "advance"])
def test_a_broken_cache_is_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above do reach the rows and the columns of the cache."""
    model = swap_mixers(build("llama"), {"all": "mamba2"})
    ids, mask, _ = left_padded([6, 3])
    monkeypatch.setattr(MixerCacheLayer, fault, lambda self, *args: None)
    with pytest.raises((AssertionError, RuntimeError, ValueError, IndexError)):
        compare(model, ids, attention_mask=mask, num_beams=3)


def test_continue_from_a_returned_cache() -> None:
    model = swap_mixers(build("gpt_neox"), {"0-1": "mamba"})
    ids, mask, _ = left_padded([5, 3])
    first = model.generate(ids, attention_mask=mask, max_new_tokens=4, **FIXED)
    ids = torch.cat([first.sequences, tokens(2, 3, seed=4)], dim=1)
    options = {"attention_mask": torch.cat([mask, torch.ones(2, 7, dtype=torch.long)], dim=1), "max_new_tokens": 3}
    found = model.generate(ids, **{CACHE_ARGUMENT: first.past_key_values}, **options, **FIXED)
    expected = model.generate(ids, use_cache=False, **options, **FIXED)
    for a, b in zip(found.logits, expected.logits, strict=True):
        assert_close(a, b, 1e-4)


@pytest.mark.parametrize("name", ["whisper", "bart"])
def test_encoder_decoders_generate(name: str) -> None:
    layers = {"encoder.0": "linear_attention", "encoder.1": "gam", "decoder.0": "mamba2", "decoder.1": "attention"}
    model = swap_mixers(build(name), layers)
    inputs = inputs_of(name)
    inputs.pop("decoder_input_ids")
    key = "input_features" if name == "whisper" else "input_ids"
    extra = {} if name == "whisper" else {"attention_mask": inputs["attention_mask"]}
    model.generation_config.forced_decoder_ids = None
    model.generation_config.suppress_tokens = model.generation_config.begin_suppress_tokens = None
    for beams in (1, 3):
        options = {**extra, "max_new_tokens": 5, "num_beams": beams, **FIXED}
        found = model.generate(inputs[key], **options)
        expected = model.generate(inputs[key], use_cache=False, **options)
        assert torch.equal(found.sequences, expected.sequences)
        for a, b in zip(found.logits, expected.logits, strict=True):
            assert_close(a, b, 1e-4)


def test_a_memory_that_cannot_go_back_refuses_assisted_decoding() -> None:
    ids = tokens(1, 6).repeat(1, 3)
    model = swap_mixers(build("llama"), {"0": "attention"})
    found = model.generate(ids, max_new_tokens=8, prompt_lookup_num_tokens=3, **FIXED)
    expected = model.generate(ids, max_new_tokens=8, use_cache=False, **FIXED)
    for a, b in zip(found.logits, expected.logits, strict=True):
        assert_close(a, b, 1e-4)
    with pytest.raises(ValueError, match="stateful"):
        swap_mixers(build("llama"), {"0": "mamba2"}).generate(ids, max_new_tokens=8, prompt_lookup_num_tokens=3)


def test_keys_of_attention_are_not_a_memory() -> None:
    """A prefix (PEFT's prefix tuning), or the cache of the model before the swap."""
    stock, model = build("llama"), swap_mixers(build("llama"), {"1": "mamba2"})
    cache = DynamicCache()
    stock(tokens(1, 4), **{CACHE_ARGUMENT: cache})
    with pytest.raises(ValueError, match=r"layer 1 is a mixer, which cannot read the keys and values of the Dynamic"):
        model(tokens(1, 1), **{CACHE_ARGUMENT: cache})


def test_static_cache_of_a_user() -> None:
    model = swap_mixers(build("llama"), {"0": "mamba2"})
    ids = tokens(2, 6)
    cache = StaticCache(config=model.config, max_cache_len=9)
    with torch.no_grad():
        parts = [model(part, **{CACHE_ARGUMENT: cache}).logits for part in ids.split([3, 1, 2], dim=1)]
        assert_close(torch.cat(parts, dim=1), model(ids, use_cache=False).logits, 1e-4)
