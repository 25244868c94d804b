"""Swapping keeps what can be kept: an exact copy of the attention gives the logits of the model as it was."""

import copy
from typing import Any

import pytest
import torch
import transformers
from swap_cases import (
    CASES,
    DECODERS,
    GROUPED,
    PAIRS,
    SCALED_ROPE,
    assert_close,
    build,
    everywhere,
    inputs_of,
    left_padded,
    logits_of,
    randomize,
    tokens,
)

from tokenmix.hf import carried_weights, swap_mixers, swapped_mixers

WIDE = {"attention": {}, "sliding_window": {"window": 128}, "ls_attention": {"window": 128}}


@pytest.mark.parametrize("mixer", WIDE)
@pytest.mark.parametrize("name", CASES)
def test_softmax_mixers_keep_the_logits(name: str, mixer: str) -> None:
    model = build(name)
    inputs = inputs_of(name)
    expected = logits_of(model, inputs)
    assert expected.std() > 0.2
    swapped = swap_mixers(model, everywhere(name, {"mixer": mixer, **WIDE[mixer]}))
    assert swapped is model
    assert set(carried_weights(model).values()) == {("q", "k", "v", "o")}
    assert_close(logits_of(swapped, inputs), expected)


@pytest.mark.parametrize("name", CASES)
def test_the_swap_matters(name: str) -> None:
    """The test above can fail: a mixer drawn at random, or one that reads less, changes the logits."""
    model = build(name)
    inputs = inputs_of(name)
    expected = logits_of(model, inputs)
    narrow = swap_mixers(copy.deepcopy(model), everywhere(name, {"mixer": "sliding_window", "window": 1}))
    assert (logits_of(narrow, inputs) - expected).abs().max() > 0.01
    drawn = swap_mixers(model, everywhere(name, "attention"), init="random")
    assert (logits_of(drawn, inputs) - expected).abs().max() > 0.01
    assert set(carried_weights(drawn).values()) == {()}


@pytest.mark.parametrize("kind", SCALED_ROPE)
def test_scaled_rotary_positions(kind: str) -> None:
    model = build("llama", rope_parameters=SCALED_ROPE[kind])
    plain = logits_of(build("llama"), inputs_of("llama"))
    expected = logits_of(model, inputs_of("llama"))
    assert (plain - expected).abs().max() > 0.1
    assert_close(logits_of(swap_mixers(model, {"all": "attention"}), inputs_of("llama")), expected)


def test_rotary_positions_that_depend_on_the_length_are_refused() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}
    with pytest.raises(ValueError, match=r"rotary positions of a type among .* found 'dynamic'"):
        swap_mixers(build("llama", rope_parameters=rope), {"0": "attention"})


def test_a_window_of_the_model_is_the_default() -> None:
    model = build("mistral", sliding_window=4)
    expected = logits_of(model, inputs_of("mistral"))
    swapped = swap_mixers(model, {"0": "sliding_window", "2": "sliding_window"})
    assert swapped_mixers(swapped)["0"].window == 4
    assert_close(logits_of(swapped, inputs_of("mistral")), expected)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("spec", ["linear_attention", "mamba2", "mamba", "gam", {"mixer": "gam", "memory": "written"}])
def test_padding_changes_nothing_in_decoders(name: str, spec: Any) -> None:
    model = swap_mixers(build(name), {"0": spec, "2": spec})
    padded, mask, rows = left_padded([9, 4, 1])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        left = model(padded, attention_mask=mask, position_ids=places).logits
        for i, row in enumerate(rows):
            alone, size = model(row).logits[0], row.shape[1]
            assert_close(left[i, -size:], alone, 1e-4)
            right = torch.cat([row, tokens(1, 9 - size, seed=7)], dim=1)
            assert_close(model(right, attention_mask=mask.flip(1)[i : i + 1]).logits[0, :size], alone, 1e-4)


@pytest.mark.parametrize("name", ["bert", "esm", "modernbert", "wav2vec2", "bart"])
@pytest.mark.parametrize("spec", ["linear_attention", "gam", "mamba2", {"mixer": "ls_attention", "window": 2}])
def test_padding_changes_nothing_in_encoders(name: str, spec: Any) -> None:
    model = swap_mixers(build(name), {"encoder.all": spec} if name in PAIRS else {"all": spec})
    inputs = inputs_of(name)
    expected = logits_of(model, inputs)
    junk = dict(inputs)
    key = "input_values" if "input_values" in inputs else "input_ids"
    if key == "input_ids":  # the convolutions of speech models read across the end of a recording
        junk[key] = torch.where(inputs["attention_mask"].bool(), inputs[key], tokens(2, 11, seed=9))
        assert not torch.equal(junk[key], inputs[key])
        assert_close(logits_of(model, junk), expected)
    alone = {name: value[1:] for name, value in inputs.items()}
    if key == "input_ids":
        alone["input_ids"], alone["attention_mask"] = alone["input_ids"][:, :7], alone["attention_mask"][:, :7]
        rows = expected[1] if "decoder_input_ids" in inputs else expected[11:]
        assert_close(logits_of(model, alone).reshape(rows.shape), rows, 1e-4)


@pytest.mark.parametrize("spec", ["attention", "linear_attention", "mamba2", "mamba", "gam"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_documents_stay_apart(spec: str, attention: str) -> None:
    model = swap_mixers(build("llama"), {"1-2": spec})
    model.set_attn_implementation(attention)
    documents = [tokens(1, size, seed) for seed, size in enumerate([5, 1, 4])]
    position_ids = torch.tensor([[0, 1, 2, 3, 4, 0, 0, 1, 2, 3]])
    packed = torch.cat(documents, dim=1)
    with torch.no_grad():
        apart = torch.cat([model(document).logits for document in documents], dim=1)
        found = model(packed, position_ids=position_ids, use_cache=False).logits
    assert_close(found, apart, 1e-4)
    assert (model(packed, use_cache=False).logits - apart).abs().max() > 0.05


HEADS = [
    ("LlamaModel", "LlamaConfig", GROUPED),
    ("LlamaForSequenceClassification", "LlamaConfig", GROUPED),
    ("LlamaForTokenClassification", "LlamaConfig", GROUPED),
    ("GPT2Model", "GPT2Config", CASES["gpt2"][2]),
    ("BertModel", "BertConfig", CASES["bert"][2]),
    ("EsmForTokenClassification", "EsmConfig", CASES["esm"][2]),
    ("Wav2Vec2Model", "Wav2Vec2Config", CASES["wav2vec2"][2]),
    ("WhisperForAudioClassification", "WhisperConfig", CASES["whisper"][2]),
]


@pytest.mark.parametrize(("model_class", "config_class", "options"), HEADS)
def test_every_head_of_a_family(model_class: str, config_class: str, options: dict[str, Any], tmp_path: Any) -> None:
    torch.manual_seed(0)
    cls = getattr(transformers, model_class)
    model = randomize(cls(getattr(transformers, config_class)(**options))).eval()
    name = {"LlamaConfig": "llama", "GPT2Config": "gpt2", "BertConfig": "bert", "EsmConfig": "esm"}.get(config_class)
    inputs = inputs_of(name or ("whisper" if "Whisper" in model_class else "wav2vec2"))
    inputs = {key: value for key, value in inputs.items() if "mask" not in key and "decoder" not in key}
    with torch.no_grad():
        expected = model(**inputs)[0]
        swap_mixers(model, {"encoder.1" if "Whisper" in model_class else "1": "attention"})
        assert_close(model(**inputs)[0], expected)
        model.save_pretrained(tmp_path)
        assert type(model).__name__ == f"Tokenmix{model_class}"
        assert torch.equal(type(model).from_pretrained(tmp_path)(**inputs)[0], model(**inputs)[0])
