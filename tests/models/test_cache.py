"""The layers that hold mixers' memories in transformers' own caches: sizes, rows, cuts, and what is refused."""

import copy
from typing import Any

import pytest
import torch
from tiny_models import assert_close, build, tokens
from transformers import DynamicCache, LlamaConfig, StaticCache
from transformers.cache_utils import EncoderDecoderCache

from tokenmix.mixer import build_mixer
from tokenmix.models import MixerCache
from tokenmix.models.cache import CACHE_ARGUMENT, cache_bytes, mixer_layer, take_cache
from tokenmix.models.cache_layer import MixerCacheLayer

SIZES: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8}
X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))


def keys(batch: int = 3, length: int = 5) -> torch.Tensor:
    return torch.zeros(batch, 2, length, 4)


def filled(name: str = "attention") -> tuple[MixerCacheLayer, Any]:
    """A layer whose mixer has read five tokens of three rows."""
    mixer = build_mixer({"mixer": name, **({"heads": 2} if name == "attention" else {"state_size": 4})}, 8)
    layer = MixerCacheLayer()
    mixer(X, state=layer.prepare(mixer, 3, X))
    layer.advance(5, None)
    return layer, mixer


def test_a_layer_counts_and_forgets() -> None:
    layer, _ = filled()
    assert (layer.get_seq_length(), layer.get_mask_sizes(2), layer.get_max_length()) == (5, (7, 0), -1)
    assert layer.batch_size == 3
    layer.reset()
    assert (layer.get_seq_length(), layer.state, layer.is_initialized) == (0, None, False)
    assert not hasattr(layer, "batch_size")
    assert not layer.is_croppable


def test_rows_are_kept_repeated_and_chosen() -> None:
    layer, mixer = filled("mamba")
    layer.batch_select_indices(torch.tensor([True, False, True]))
    layer.batch_repeat_interleave(2)
    layer.reorder_cache(torch.tensor([3, 0]))
    assert layer.batch_size == layer.keys.shape[0] == 2
    more = torch.randn(2, 1, 8)
    found = mixer(more, state=layer.state)
    whole = torch.cat([X[[2, 0]], more], dim=1)
    assert_close(found, mixer(whole)[:, -1:])


def test_cuts() -> None:
    layer, mixer = filled()
    assert layer.is_croppable
    layer.crop(-2)
    assert layer.get_seq_length() == 3
    assert_close(mixer(X[:, 3:], state=layer.state), mixer(X)[:, 3:])
    with pytest.raises(ValueError, match="expected 0 or minus the number of tokens, found 1"):
        layer.crop(1)
    recurrent, _ = filled("mamba")
    assert not recurrent.is_croppable
    with pytest.raises(ValueError, match="cannot go back"):
        recurrent.crop(-1)
    assert recurrent.get_seq_length() == 5


def test_all_layers_are_cut_or_none() -> None:
    cache = MixerCache()
    model = build("hybrid")
    with torch.no_grad():
        model(tokens(2, 6), **{CACHE_ARGUMENT: cache})
    before = [layer.get_seq_length() for layer in cache.layers]
    with pytest.raises(ValueError, match="cannot go back"):
        cache.crop(-2)
    assert [layer.get_seq_length() for layer in cache.layers] == before


def test_masks_are_as_long_as_attention_beside_it_needs() -> None:
    """A static cache has slots for tokens to come, and the masks of its attention must cover them."""
    static = StaticCache(config=LlamaConfig(**SIZES), max_cache_len=11)
    layer = mixer_layer(static, 0)
    assert isinstance(static.layers[0], MixerCacheLayer)
    assert layer.get_mask_sizes(2) == static.layers[1].get_mask_sizes(2) == (11, 0)
    growing = DynamicCache()
    mixer_layer(growing, 0)
    growing.update(keys(length=4), keys(length=4), 1)
    assert growing.layers[0].get_mask_sizes(2) == (6, 0)
    mixer_layer(static, 1)
    mixer_layer(static, 2)
    assert static.layers[0].get_mask_sizes(2) == (2, 0)  # nobody is left but mixers


def test_where_a_layer_is_put() -> None:
    cache = DynamicCache()
    assert mixer_layer(cache, 2) is mixer_layer(cache, 2)
    assert [type(layer).__name__ for layer in cache.layers] == ["DynamicLayer", "DynamicLayer", "MixerCacheLayer"]
    pair = EncoderDecoderCache(DynamicCache(), DynamicCache())
    assert mixer_layer(pair, 0) is pair.self_attention_cache.layers[0]
    cache.update(keys(), keys(), 0)
    with pytest.raises(
        ValueError, match=r"layer 0 is a mixer, which cannot read the keys and values of the DynamicLayer"
    ):
        mixer_layer(cache, 0)
    with pytest.raises(ValueError, match="expected a cache of more than 3 layers, found 3"):
        mixer_layer(StaticCache(config=LlamaConfig(**SIZES), max_cache_len=4), 3)
    with pytest.raises(TypeError, match="expected a transformers Cache, found dict"):
        mixer_layer({}, 0)  # type: ignore[arg-type]  # the mistake


def test_attention_cannot_write_into_a_mixer() -> None:
    cache = DynamicCache()
    mixer_layer(cache, 0)
    with pytest.raises(TypeError, match="expected a mixer to read it, found an attention that adds keys and values"):
        cache.update(keys(), keys(), 0)


def test_both_names_of_the_cache() -> None:
    cache = MixerCache()
    assert take_cache(cache, None) is take_cache(None, cache) is cache
    assert take_cache(None, None) is None
    with pytest.raises(ValueError, match="expected either cache or past_key_values, found both"):
        take_cache(cache, cache)
    with pytest.raises(TypeError, match="expected a transformers Cache, found list"):
        take_cache(None, [])  # type: ignore[arg-type]  # the mistake
    model, ids = build("hybrid"), tokens(1, 5)
    for name in ("cache", "past_key_values"):
        held = MixerCache()
        with torch.no_grad():
            parts = [model(part, **{name: held}).logits for part in ids.split([3, 2], dim=1)]
            assert_close(torch.cat(parts, dim=1), model(ids, use_cache=False).logits)


def test_copies_are_apart() -> None:
    """A prompt that is read once, and continued in two ways."""
    model, ids = build("hybrid"), tokens(1, 5)
    prompt = MixerCache()
    with torch.no_grad():
        model(ids, **{CACHE_ARGUMENT: prompt})
        other = copy.deepcopy(prompt)
        model(tokens(1, 3, seed=1), **{CACHE_ARGUMENT: other})
        found = model(tokens(1, 2, seed=2), **{CACHE_ARGUMENT: prompt}).logits
        assert_close(found, model(torch.cat([ids, tokens(1, 2, seed=2)], dim=1), use_cache=False).logits[:, -2:])
    assert (prompt.get_seq_length(), other.get_seq_length()) == (7, 8)


def test_bytes_of_any_cache() -> None:
    cache = DynamicCache()
    cache.update(keys(), keys(), 0)
    layer = mixer_layer(cache, 1)
    mixer = build_mixer({"mixer": "mamba", "state_size": 4}, 8)
    layer.prepare(mixer, 3, X)
    assert cache_bytes(cache) == 2 * keys().nbytes + 3 * 4 * (16 * 4 + 3 * 16)
    assert cache_bytes(EncoderDecoderCache(cache, DynamicCache())) == cache_bytes(cache)
