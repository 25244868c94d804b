"""FIT's cache: its rows, what it refuses, and what a refused call leaves."""

import pytest
import torch
from test_fit_tools import build, logits_of, memory
from tiny_models import assert_close, left_padded, tokens
from tiny_models import build as vanilla

from tokenmix.models import MixerCache
from tokenmix.models.fit import FITModel


def test_rows_of_the_cache() -> None:
    model, cache = build(), MixerCache()
    ids, mask, rows = left_padded([7, 6, 3])
    logits_of(model, ids, attention_mask=mask, past_key_values=cache)
    assert (len(cache), cache.batch_size, cache.is_croppable) == (1, 3, False)
    cache.batch_select_indices(torch.tensor([True, False, True]))
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.tensor([3, 1]))
    copy = memory(cache).clone()
    more = tokens(2, 6, seed=5)
    found = logits_of(model, more, past_key_values=cache)
    for i, row in enumerate((rows[2], rows[0])):
        whole = torch.cat([row, more[i : i + 1]], dim=1)
        assert_close(found[i], logits_of(model, whole, use_cache=False)[0, -6:], 1e-9)
    assert copy.seen.tolist() == [3, 7], "the copy has not moved"
    with torch.no_grad():
        again = model.model.read(model.model.embed(more, None), copy)
    assert_close(model.lm_head(again), found, 1e-9)
    assert copy.nbytes == cache.nbytes
    with pytest.raises(ValueError, match=r"crop\(length=12\): this state has seen 13 tokens and cannot go back"):
        copy.crop(12)
    copy.crop(13)
    with pytest.raises(ValueError, match="different numbers of real tokens"):
        cache.crop(-1)
    cache.reset()
    assert_close(logits_of(model, ids[:1], past_key_values=cache), logits_of(model, ids[:1], use_cache=False), 1e-9)
    with pytest.raises(ValueError, match=r"crop\(length=6\): this state has seen 7 tokens and cannot go back"):
        cache.crop(-1)
    assert cache.get_seq_length() == 7


def test_what_a_cache_refuses() -> None:
    model = build()
    with pytest.raises(ValueError, match="segment_ids: expected one document a row with a cache, found packed rows"):
        model(tokens(1, 4), segment_ids=torch.tensor([[0, 0, 1, 1]]), use_cache=True)
    assert model(tokens(1, 4), segment_ids=torch.tensor([[0, 0, 1, 1]])).past_key_values is None
    cache = MixerCache()
    logits_of(model, tokens(1, 3), past_key_values=cache)
    with pytest.raises(ValueError, match="state: expected one for 2 rows, found 1"):
        model(tokens(2, 1), past_key_values=cache)
    both_ways = build(FITModel, causal=False)
    with pytest.raises(ValueError, match="use_cache: expected none with causal=False"):
        both_ways(tokens(1, 3), use_cache=True)
    with pytest.raises(ValueError, match="init_state: expected a model with causal=True"):
        both_ways.init_state(1)
    with pytest.raises(ValueError, match="batch_size: expected at least 1, found 0"):
        model.init_state(0)
    with pytest.raises(ValueError, match="not supported with stateful models"):
        model.generate(tokens(1, 6), max_new_tokens=3, prompt_lookup_num_tokens=2)


# ---------------------------------------------------------------------- planted faults


def test_states_of_other_models_are_refused() -> None:
    ids = tokens(2, 6)
    for options in (
        {"group_size": 5},
        {"latents": 3},
        {"layers": "(1)1(1)"},
        {"latent_mixer": {"mixer": "gam", "slots": 8}},
    ):
        cache = MixerCache()
        build(**options)(ids, cache=cache)
        with pytest.raises(ValueError, match="state: expected one of this model"):
            build()(ids, cache=cache)
    cache = MixerCache()
    vanilla("attention")(ids, cache=cache)
    with pytest.raises(TypeError, match="state: expected a FITState, found MixerState"):
        build()(ids, cache=cache)


def test_a_refused_call_leaves_the_cache_as_it_was() -> None:
    model, ids = build(max_groups=2), tokens(1, 8)
    cache = MixerCache()
    with pytest.raises(ValueError, match="at most max_groups=2 groups"):
        model(ids, position_ids=torch.arange(3, 11)[None], cache=cache)
    assert torch.equal(model(ids[:, :5], cache=cache).logits, model(ids[:, :5]).logits)
