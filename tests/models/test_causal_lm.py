"""The language model: padding, packing, loss, outputs, and the errors a user meets."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import STACKS, assert_close, build, left_padded, tokens
from transformers import LlamaConfig, LlamaModel
from transformers.utils import output_capturing

from tokenmix.models import MixerCache, MixerConfig, MixerForCausalLM

SELECTS = hasattr(output_capturing, "selected_hidden_states")  # since transformers 5.24
ATTENTION = {"a": {"mixer": "attention", "heads": 2}}


# ---------------------------------------------------------------------- padding and packing


@pytest.mark.parametrize("position", ["none", "learned"])
@pytest.mark.parametrize("name", STACKS)
def test_padding_changes_nothing(name: str, position: str) -> None:
    model = build(name, position=position, max_position_embeddings=9 if position == "learned" else None)
    padded, mask, rows = left_padded([9, 4, 1])
    with torch.no_grad():
        left = model(padded, attention_mask=mask).logits
        places = (mask.cumsum(1) - 1).clamp(min=0)  # those of generate
        assert_close(model(padded, attention_mask=mask, position_ids=places).logits, left)
        for i, row in enumerate(rows):
            alone, size = model(row).logits[0], row.shape[1]
            assert_close(left[i, -size:], alone)
            right = torch.cat([row, tokens(1, 9 - size, seed=7)], dim=1)
            assert_close(model(right, attention_mask=mask.flip(1)[i : i + 1].bool()).logits[0, :size], alone)


@pytest.mark.parametrize("position", ["none", "learned"])
@pytest.mark.parametrize("name", STACKS)
def test_packed_equals_apart(name: str, position: str) -> None:
    model = build(name, position=position, max_position_embeddings=5 if position == "learned" else None)
    documents = [tokens(1, size, seed) for seed, size in enumerate([5, 1, 4])]
    packed = torch.cat(documents, dim=1).expand(2, -1)
    segment_ids = torch.tensor([[0] * 5 + [1] + [2] * 4]).expand(2, -1)
    position_ids = torch.tensor([[0, 1, 2, 3, 4, 0, 0, 1, 2, 3]])
    with torch.no_grad():
        apart = torch.cat([model(document).logits for document in documents], dim=1)[0]
        for found in (
            model(packed, segment_ids=segment_ids).logits,
            model(packed, position_ids=position_ids, use_cache=False).logits,
            model(packed, position_ids=position_ids).logits,
        ):
            assert_close(found, apart.expand(2, -1, -1))
        cache = MixerCache()
        parts = [
            model(packed[:, cut], segment_ids=segment_ids[:, cut], past_key_values=cache).logits
            for cut in (slice(0, 3), slice(3, 7), slice(7, 10))
        ]
    assert_close(torch.cat(parts, dim=1), apart.expand(2, -1, -1))


def test_places_that_are_given_count() -> None:
    model = build("mamba", position="learned", max_position_embeddings=9)
    ids, places = tokens(2, 3), torch.tensor([[4, 6, 8]])
    found = model(ids, attention_mask=torch.ones(2, 3), position_ids=places).logits
    x = model.model.embed_tokens(ids) + model.model.embed_positions(places)
    assert_close(found, model.lm_head(model.stack(x)), 1e-6)
    rotary = build("attention")
    found = rotary(ids, attention_mask=torch.ones(2, 3), position_ids=torch.tensor([[0, 5, 6]])).logits
    assert (found - rotary(ids).logits)[:, 1:].abs().max() > 0.1


def test_documents_do_not_see_each_other() -> None:
    """The test above can fail: without segments the documents mix."""
    model, ids = build("hybrid"), tokens(1, 8)
    split = model(ids, segment_ids=torch.tensor([[0] * 4 + [1] * 4])).logits
    assert (split - model(ids).logits)[:, 4:].abs().max() > 0.1


# ---------------------------------------------------------------------- loss


def test_loss_is_the_shifted_cross_entropy() -> None:
    model, ids = build("hybrid"), tokens(2, 7)
    labels = ids.clone()
    labels[0, 2:4] = -100
    output = model(ids, labels=labels)
    logits, targets = output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    assert_close(output.loss, F.cross_entropy(logits, targets, ignore_index=-100), 1e-6)
    summed = F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
    assert_close(model(ids, labels=labels, num_items_in_batch=torch.tensor(20)).loss, summed / 20, 1e-6)
    assert output.past_key_values is None
    assert model(ids).past_key_values.get_seq_length() == 7
    assert model.train()(ids).past_key_values is None


def test_loss_never_crosses_documents_or_padding() -> None:
    model = build("hybrid")
    documents = [tokens(1, size, seed) for seed, size in enumerate([5, 4])]
    losses = [model(document, labels=document).loss for document in documents]
    expected = (losses[0] * 4 + losses[1] * 3) / 7
    packed = torch.cat(documents, dim=1)
    position_ids = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]])
    assert_close(model(packed, labels=packed, position_ids=position_ids).loss, expected, 1e-5)
    padded, mask, rows = left_padded([5, 3])
    losses = [model(row, labels=row).loss for row in rows]
    assert_close(model(padded, attention_mask=mask, labels=padded).loss, (losses[0] * 4 + losses[1] * 2) / 6, 1e-5)


@pytest.mark.parametrize("asked", [[0, 2], 1, [-1], (0, -3, 9), [], 0, 2])
def test_some_hidden_states(asked: Any) -> None:
    """As transformers' own models: None in the place of others, nothing for what is out of range or empty."""
    model, ids = build("hybrid"), tokens(2, 5)
    every = model(ids, output_hidden_states=True).hidden_states
    found = model(ids, output_hidden_states=asked).hidden_states
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32
    )
    theirs = LlamaModel(config).eval()(ids % 64, output_hidden_states=asked).hidden_states
    if SELECTS:
        assert (found is None) == (theirs is None)
        assert [x is None for x in found or ()] == [x is None for x in theirs or ()]
    for state, expected in zip(found or (), every, strict=found is not None):
        assert state is None or torch.equal(state, expected)
    assert (found is None) == (not asked)


@pytest.mark.parametrize("asked", ["all", 1.5, [False], [0, None]])
def test_hidden_states_that_nobody_can_choose(asked: Any) -> None:
    with pytest.raises(TypeError, match="output_hidden_states: expected True, False, or indices of layers, found"):
        build("hybrid")(tokens(2, 5), output_hidden_states=asked)


def test_outputs_that_are_asked_for() -> None:
    model, ids = build("hybrid"), tokens(2, 5)
    output = model(ids, output_hidden_states=True)
    assert [tuple(h.shape) for h in output.hidden_states] == [(2, 5, 32)] * 4
    assert torch.equal(output.hidden_states[0], model.model.embed_tokens(ids))
    assert torch.equal(model.lm_head(output.hidden_states[-1]), output.logits)
    assert_close(model(ids, logits_to_keep=2).logits, output.logits[:, -2:])  # sums of another order
    assert_close(model(ids, logits_to_keep=torch.tensor([1])).logits, output.logits[:, 1:2])
    assert torch.equal(model(inputs_embeds=model.model.embed_tokens(ids)).logits, output.logits)
    assert torch.equal(model(ids, return_dict=False)[0], output.logits)


# ---------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "ab", "mixers": ATTENTION}, r"pattern: expected letters of mixers \['a'\], found \['b'\]"),
        ({"pattern": "a", "mixers": {**ATTENTION, "m": {"mixer": "mamba"}}}, r"mixers: \['m'\] named but not used"),
        ({"mixers": {"a": {"mixer": "atention"}}}, "unknown name 'atention'; did you mean 'attention'"),
        ({"mixers": {"a": {"mixer": "gam", "slot": 3}}}, "slot: not an argument of mixer 'gam'; did you mean 'slots'"),
        ({"mixers": {"a": {"mixer": "attention", "heads": 5}}}, "heads: expected a divisor of dim=32, found 5"),
        ({"mixers": {"a": {"heads": 4}}}, "expected a key 'mixer'"),
        ({"hiden_size": 64}, "hiden_size: not a field of MixerConfig; did you mean 'hidden_size'"),
        ({"mixer": {}}, "mixer: not a field of MixerConfig; did you mean 'mixers'"),
        ({"feed_forward": "swish"}, r"feed_forward: expected one of .* found 'swish'"),
        ({"norm": "batchnorm"}, r"norm: expected one of .* found 'batchnorm'"),
        ({"position": "rotary"}, "position: expected 'none' or 'learned', found 'rotary'"),
        ({"position": "learned"}, "max_position_embeddings: expected a number with position='learned'"),
        ({"max_position_embeddings": 8}, r"found 8 with position='none'"),
        (
            {"position": "learned", "max_position_embeddings": 0},
            "max_position_embeddings: expected at least 1, found 0",
        ),
        ({"vocab_size": 0}, "vocab_size: expected a positive integer, found 0"),
        ({"num_hidden_layers": 0}, "layers: expected a positive integer, found 0"),
    ],
)
def test_mistakes_in_the_config(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixerConfig(**{"hidden_size": 32, **options})


def test_a_language_model_reads_the_past_only() -> None:
    mixers = {"a": {"mixer": "attention", "causal": False}}
    with pytest.raises(ValueError, match=r"mixers: a language model needs causal mixers, found 'a'"):
        MixerForCausalLM(MixerConfig(hidden_size=32, mixers=mixers))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "expected either input_ids or inputs_embeds"),
        ({"input_ids": tokens(2, 4), "inputs_embeds": torch.zeros(2, 4, 32)}, "found both or neither"),
        ({"attention_mask": torch.ones(2, 1, 4, 4)}, r"attention_mask: expected shape \(2, 4\), found \(2, 1, 4, 4\)"),
        ({"attention_mask": torch.ones(2, 5)}, r"attention_mask: expected shape \(2, 4\), found \(2, 5\)"),
        ({"attention_mask": torch.full((2, 4), 2)}, "expected only 0 .* and 1"),
        ({"position_ids": torch.zeros(2, 3)}, r"position_ids: expected shape \(2, 4\) or \(1, 4\), found \(2, 3\)"),
        ({"segment_ids": torch.zeros(2, 3)}, r"segment_ids: expected shape \(2, 4\), found \(2, 3\)"),
        ({"labels": tokens(2, 3)}, r"labels: expected shape \(2, 4\), found \(2, 3\)"),
        ({"labels": tokens(2, 4), "logits_to_keep": 1}, "logits_to_keep: expected 0 where labels are given, found 1"),
    ],
)
def test_mistakes_in_a_call(inputs: dict[str, Any], message: str) -> None:
    if inputs:
        inputs = {"input_ids": tokens(2, 4), **inputs}
    with pytest.raises(ValueError, match=message):
        build("hybrid")(**inputs)


def test_too_long_for_learned_places() -> None:
    model = build("mamba", position="learned", max_position_embeddings=5)
    model(tokens(1, 5))
    with pytest.raises(ValueError, match="at most max_position_embeddings=5 tokens in a document, found 6"):
        model(tokens(1, 6))
    cache = MixerCache()
    model(tokens(1, 4), past_key_values=cache)
    with pytest.raises(ValueError, match="found 6"):
        model(tokens(1, 2), past_key_values=cache)
    with pytest.raises(ValueError, match=r"attention_mask: expected shape \(1, 1\) or \(1, 5\), found \(1, 3\)"):
        model(tokens(1, 1), past_key_values=cache, attention_mask=torch.ones(1, 3))
