"""A swapped model is what it was after saving and loading, in any process, or it does not load."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from swap_cases import CASES, build, everywhere, inputs_of, logits_of, tokens
from transformers import AutoConfig, AutoModelForCausalLM

import tokenmix.hf
from fork_server import ForkServer
from tokenmix.hf import swap_mixers, swapped_mixers

DECODER = {"0": {"mixer": "gam", "slots": 8}, "1": "mamba2", "2": {"mixer": "ls_attention", "window": 3}}
ENCODER = {"0": {"mixer": "gam", "slots": 8}, "1": "linear_attention", "2": {"mixer": "sliding_window", "window": 3}}
PAIR = {"encoder.0": "linear_attention", "decoder.0": "mamba2", "decoder.1": {"mixer": "ls_attention", "window": 3}}
MIXTURES = {
    "llama": DECODER,
    "gpt_neox": DECODER,
    "bert": ENCODER,
    "esm": ENCODER,
    "whisper": PAIR,
    "wav2vec2": ENCODER,
}
AUTO = {"llama": "CausalLM", "gpt_neox": "CausalLM", "bert": "MaskedLM", "esm": "MaskedLM"} | {
    "whisper": "SpeechSeq2Seq",
    "wav2vec2": "CTC",
}

LOAD = """
import sys, torch, transformers
import tokenmix.hf
folder, auto = sys.argv[1:]
model, info = getattr(transformers, f"AutoModelFor{auto}").from_pretrained(folder, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
with torch.no_grad():
    torch.save(model(**torch.load(f"{folder}/inputs.pt", weights_only=True)).logits, f"{folder}/logits.pt")
print(type(model).__module__, type(model).__name__)
"""


@pytest.mark.parametrize("name", MIXTURES)
def test_another_process_loads_the_same_model(processes: ForkServer, name: str, tmp_path: Path) -> None:
    model = swap_mixers(build(name), MIXTURES[name])
    inputs = inputs_of(name)
    model.save_pretrained(tmp_path)
    torch.save(inputs, tmp_path / "inputs.pt")
    found = processes.run(["-c", LOAD, str(tmp_path), AUTO[name]])
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["tokenmix.hf.classes", f"Tokenmix{CASES[name][0]}"]
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), model(**inputs).logits)


WITHOUT = """
import sys, transformers
folder, auto, stock = sys.argv[1:]
for cls in (getattr(transformers, f"AutoModelFor{auto}"), getattr(transformers, stock)):
    try:
        cls.from_pretrained(folder)
    except Exception as error:
        print(cls.__name__, type(error).__name__, " ".join(str(error).split()))
    else:
        print(cls.__name__, "LOADED")
"""


@pytest.mark.parametrize("name", MIXTURES)
def test_without_tokenmix_nothing_loads(processes: ForkServer, name: str, tmp_path: Path) -> None:
    """Neither the Auto class nor the stock class: no process sees random weights in the place of mixers."""
    swap_mixers(build(name), MIXTURES[name]).save_pretrained(tmp_path)
    found = processes.run(["-c", WITHOUT, str(tmp_path), AUTO[name], CASES[name][0]])
    assert found.returncode == 0, found.stderr
    auto, stock = found.stdout.splitlines()
    assert "ValueError" in auto
    kind = f"tokenmix_{build(name).config.model_type}"
    assert f"model type `{kind}` but Transformers does not recognize this architecture" in auto  # README quotes it
    assert "LOADED" not in stock
    assert "tokenmix mixers in the place of some attention: import tokenmix.hf" in stock


@pytest.mark.parametrize("name", CASES)
def test_no_stock_class_loads_a_swapped_checkpoint(name: str, tmp_path: Path) -> None:
    swap_mixers(build(name), everywhere(name, "gam")).save_pretrained(tmp_path)
    with pytest.raises(
        Exception, match=r"tokenmix mixers in the place of some attention: import tokenmix\.hf, then load"
    ):
        getattr(transformers, CASES[name][0]).from_pretrained(tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_every_family_loads_bit_equal(name: str, tmp_path: Path) -> None:
    layers = everywhere(name, "linear_attention")
    model = swap_mixers(build(name), layers)
    model.save_pretrained(tmp_path / "once", max_shard_size="20KB")
    again = type(model).from_pretrained(tmp_path / "once")
    assert torch.equal(logits_of(again, inputs_of(name)), logits_of(model, inputs_of(name)))
    again.save_pretrained(tmp_path / "twice")
    twice = type(model).from_pretrained(tmp_path / "twice")
    assert torch.equal(logits_of(twice, inputs_of(name)), logits_of(model, inputs_of(name)))
    assert twice.config.tokenmix == model.config.tokenmix
    assert getattr(twice.config, "layer_types", None) == getattr(build(name).config, "layer_types", None)
    assert list(swapped_mixers(twice)) == list(swapped_mixers(model)) == list(model.config.tokenmix["layers"])


def test_a_base_model_loads_from_a_head(tmp_path: Path) -> None:
    model = swap_mixers(build("llama"), DECODER)
    model.save_pretrained(tmp_path)
    base, info = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    with torch.no_grad():
        expected = model.model(tokens(1, 5)).last_hidden_state
        assert torch.equal(base(tokens(1, 5)).last_hidden_state, expected)
    assert type(base).__name__ == "TokenmixLlamaModel"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_types(dtype: torch.dtype, tmp_path: Path) -> None:
    model = swap_mixers(build("llama").to(dtype), {"0": "mamba2", "1": "mamba", "2": "attention"})
    for name, parameter in model.named_parameters():
        kept = name.rpartition(".")[2] in ("A_log", "D", "dt_bias")
        assert parameter.dtype == (torch.float32 if kept else dtype), name
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    for (name, found), expected in zip(again.named_parameters(), model.parameters(), strict=True):
        assert found.dtype == expected.dtype, name
    assert torch.equal(again(tokens(1, 5)).logits, model(tokens(1, 5)).logits)


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    model = swap_mixers(build("llama", tie_word_embeddings=True), {"0": "mamba2"})
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(again(tokens(1, 5)).logits, model(tokens(1, 5)).logits)


def test_copies(processes: ForkServer, tmp_path: Path) -> None:
    model = swap_mixers(build("llama"), DECODER)
    ids = tokens(1, 5)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # our own bytes
        assert type(other) is type(model)
        assert torch.equal(other(ids).logits, model(ids).logits)
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(model.config))
    code = "import pickle, sys; print(type(pickle.load(open(sys.argv[1], 'rb'))).__name__)"
    fresh = processes.run(["-c", code, str(tmp_path / "config.pickle")])
    assert fresh.stdout.split() == ["TokenmixLlamaConfig"], fresh.stderr


def test_more_layers_of_a_loaded_model(tmp_path: Path) -> None:
    model = swap_mixers(build("llama"), {"0": "mamba2"})
    model.save_pretrained(tmp_path / "first")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "first")
    assert type(swap_mixers(again, {"2": "attention"})) is type(model)
    assert list(again.config.tokenmix["layers"]) == ["0", "2"]
    assert torch.equal(again(tokens(1, 5)).logits, model(tokens(1, 5)).logits)
    again.save_pretrained(tmp_path / "second")
    third = AutoModelForCausalLM.from_pretrained(tmp_path / "second")
    assert torch.equal(third(tokens(1, 5)).logits, again(tokens(1, 5)).logits)


def test_missing_weights_are_drawn_as_published(tmp_path: Path) -> None:
    """Built on the meta device: every value must still come from somewhere."""
    model = swap_mixers(build("llama"), {"0": {"mixer": "mamba", "state_size": 4}, "1": "mamba2", "2": "attention"})
    kept = {name: value for name, value in model.state_dict().items() if ".mixer." not in name}
    model.save_pretrained(tmp_path, state_dict=kept)
    torch.manual_seed(0)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    mixers = swapped_mixers(again)
    expected = torch.arange(1.0, 5.0).log().expand(64, 4)
    torch.testing.assert_close(mixers["0"].A_log, expected)
    for key in ("0", "1"):
        bias = mixers[key].dt_proj.bias if key == "0" else mixers[key].dt_bias
        steps = torch.nn.functional.softplus(bias)
        assert 1e-3 * 0.999 <= steps.min() <= steps.max() <= 0.1 * 1.001
        assert torch.equal(mixers[key].D, torch.ones_like(mixers[key].D))
    bound = 32**-0.5
    assert mixers["2"].q_proj.weight.abs().max() <= bound
    assert mixers["2"].q_proj.weight.std() > bound / 3
    assert again(tokens(1, 5)).logits.isfinite().all()


def test_config_json_tells_the_swap(tmp_path: Path) -> None:
    model = swap_mixers(build("llama"), {"0": "mamba2", "2": {"mixer": "gam", "slots": 8}})
    model.save_pretrained(tmp_path)
    written: dict[str, Any] = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == "tokenmix_llama"
    assert written["tokenmix"]["layers"]["2"] == {"mixer": "gam", "causal": True, "slots": 8}
    assert written["num_attention_heads"].startswith("4 heads, and tokenmix mixers in the place")
    assert model.config.num_attention_heads == AutoConfig.from_pretrained(tmp_path).num_attention_heads == 4
    assert type(model.config)(**written).num_attention_heads == 4
    with pytest.raises(Exception, match="num_attention_heads: expected an integer, found 'four'"):
        type(model.config)(**{**written, "num_attention_heads": "four"})
    assert "auto_map" not in written
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.tokenmix == written["tokenmix"]
    written["tokenmix"]["version"] = 2
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match=r"config.tokenmix: expected version 1, found 2"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    model = swap_mixers(build("llama"), {"0": "mamba2"})
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"expected safetensors weights, found .*pytorch_model.bin"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_stock_classes_are_left_alone() -> None:
    before = build("llama")(tokens(1, 5)).logits
    swap_mixers(build("llama"), {"all": "mamba2"})
    stock = build("llama")
    assert type(stock) is transformers.LlamaForCausalLM
    assert torch.equal(stock(tokens(1, 5)).logits, before)
    assert len(stock(tokens(1, 5), output_attentions=True).attentions or ()) in (0, 3)
    assert tokenmix.hf.swapped_mixers(stock) == {}


def test_hidden_states_of_every_layer() -> None:
    model = build("llama")
    expected = model(tokens(1, 5), output_hidden_states=True).hidden_states
    swap_mixers(model, {"0": "attention", "2": "attention"})
    found = model(tokens(1, 5), output_hidden_states=True).hidden_states
    assert len(found) == len(expected) == 4
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)
