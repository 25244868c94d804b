"""What is refused, before anything has changed."""

import copy
import warnings
from typing import Any

import pytest
import torch
from swap_cases import CASES, build, logits_of, tokens
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    WavLMConfig,
    WavLMModel,
)

from tokenmix import Layout, MixerState, TokenMixer, register_mixer
from tokenmix.hf import carried_weights, swap_mixers
from tokenmix.hf.adapter import MixerAttention, read_mask
from tokenmix.hf.layer_keys import expand_keys
from tokenmix.mixer import _REGISTRY, build_mixer

MISTAKES: list[tuple[Any, str]] = [
    ({"3": "gam"}, "layers: expected layers from 0 to 2, found '3'"),
    ({"1-3": "gam"}, "layers: expected layers from 0 to 2, found '1-3'"),
    ({"2-1": "gam"}, "layers: expected layers from 0 to 2, found '2-1'"),
    ({"one": "gam"}, r'layers: expected keys such as "2", "4-7" or "all", found \'one\''),
    ({"encoder.1": "gam"}, r'layers: expected keys such as "2", "4-7" or "all", found \'encoder.1\''),
    ({"-1": "gam"}, "layers: expected keys such as"),
    ({"0-1": "gam", "1": "mamba2"}, "layers: '1' names layer '1' a second time"),
    ({}, "layers: expected at least one"),
    (["gam"], "layers: expected a mapping such as"),
    ({1.5: "gam"}, r"layers: expected keys such as .* found 1.5"),
    ({True: "gam"}, r"layers: expected keys such as .* found True"),
    ({"0": None}, "layers: expected a mixer's name or its description for layer 0, found None"),
    ({"0": "gma"}, "mixer: unknown name 'gma'; did you mean 'gam'"),
    ({"0": {"slots": 4}}, "layers: expected a key 'mixer' with the mixer's name, found keys \\['slots'\\]"),
    ({"0": {"mixer": "gam", "slot": 4}}, "slot: not an argument of mixer 'gam'; did you mean 'slots'"),
    ({"0": {"mixer": "gam", "dim": 4}}, "spec: dim is that of the model"),
    ({"0": {"mixer": "ls_attention", "long_heads": 9}}, "long_heads: expected 0 to heads=4, found 9"),
    ({"0": {"mixer": "attention", "causal": False}}, "layers: a decoder needs causal mixers, found .*reads the future"),
    ({"0": "mamba2", "1": {"mixer": "gam", "kernel": 0}}, "kernel: expected a positive integer, found 0"),
]


@pytest.mark.parametrize(("layers", "message"), MISTAKES, ids=[message[:30] for _, message in MISTAKES])
def test_a_mistake_changes_nothing(layers: Any, message: str) -> None:
    model = build("llama")
    expected, config, named = logits_of(model, {"input_ids": tokens(1, 5)}), model.config, dict(model.named_modules())
    with pytest.raises((ValueError, TypeError), match=message):
        swap_mixers(model, layers)
    assert type(model) is LlamaForCausalLM
    assert model.config is config
    assert not hasattr(config, "tokenmix")
    assert dict(model.named_modules()) == named
    assert torch.equal(logits_of(model, {"input_ids": tokens(1, 5)}), expected)


def test_layers_of_pairs_have_a_stack() -> None:
    with pytest.raises(
        ValueError, match=r'"encoder.2", "encoder.4-7" or "encoder.all" with a stack among encoder, dec'
    ):
        swap_mixers(build("whisper"), {"0": "gam"})
    with pytest.raises(ValueError, match="layers: a decoder needs causal mixers"):
        swap_mixers(build("whisper"), {"decoder.0": {"mixer": "gam", "causal": False}})
    assert swap_mixers(build("whisper"), {"encoder.0": "gam"}).config.tokenmix["layers"]["encoder.0"]["causal"] is False


def test_numbers_are_keys_too() -> None:
    assert expand_keys({2: "b", "0-1": "a"}, {"": 3}) == {"0": "a", "1": "a", "2": "b"}


def test_init_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="init: expected 'attention' or 'random', found 'zeros'"):
        swap_mixers(build("llama"), {"0": "gam"}, init="zeros")  # type: ignore[arg-type]  # the mistake


def test_a_layer_is_swapped_once() -> None:
    model = swap_mixers(build("llama"), {"0-1": "gam"})
    with pytest.raises(ValueError, match="layers: 1 swapped already; swap a model as it was loaded"):
        swap_mixers(model, {"1-2": "mamba2"})
    assert list(model.config.tokenmix["layers"]) == ["0", "1"]


SIZES = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SPEECH_ENCODER = {"intermediate_size": 32, "conv_dim": (16,), "conv_stride": (2,), "conv_kernel": (3,)}
OTHERS = {
    "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(vocab_size=61, d_model=32, d_kv=8, num_layers=2, num_heads=4)),
    "wavlm": lambda: WavLMModel(WavLMConfig(**SIZES, **SPEECH_ENCODER)),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"model: expected one of llama, .*bart, found model_type '{name}'"):
        swap_mixers(OTHERS[name](), {"0": "gam"})


def test_other_modules_are_refused() -> None:
    with pytest.raises(TypeError, match="model: expected a transformers PreTrainedModel, found Linear"):
        swap_mixers(nn.Linear(2, 2), {"0": "gam"})  # type: ignore[arg-type]  # the mistake


def test_mixers_that_need_what_no_layer_has() -> None:
    @register_mixer("needs_coords_test")
    class NeedsCoords(TokenMixer):
        causal, needs = "optional", ("coords",)

        def __init__(self, dim: int, *, causal: bool = True) -> None:
            super().__init__(dim, is_causal=causal)

        def mix(self, x: torch.Tensor, layout: Layout, state: MixerState | None) -> torch.Tensor:
            return x

    try:
        with pytest.raises(ValueError, match="mixer 'needs_coords_test' needs coords, which a transformers layer has"):
            swap_mixers(build("bert"), {"0": "needs_coords_test"})
    finally:
        _REGISTRY.pop("needs_coords_test")


def test_models_that_share_a_config() -> None:
    first = build("llama")
    second = LlamaForCausalLM(first.config).eval()
    before = second(tokens(1, 5)).logits
    swap_mixers(first, {"0": "gam"})
    assert not hasattr(second.config, "tokenmix")
    assert second.config.model_type == "llama"
    assert torch.equal(second(tokens(1, 5)).logits, before)
    assert torch.equal(
        LlamaForCausalLM(copy.deepcopy(second.config))(tokens(1, 5)).logits.isfinite().all(), torch.tensor(True)
    )


# ---------------------------------------------------------------------- masks


def test_masks_of_every_form_say_the_same() -> None:
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 1]], dtype=torch.bool)
    pairs = torch.ones(4, 4).tril().bool() & mask[:, None, None, :]
    floats = torch.zeros(2, 1, 4, 4).masked_fill(~pairs, torch.finfo(torch.float32).min)
    infinite = torch.zeros(2, 1, 4, 4).masked_fill(~pairs, -torch.inf)
    wide = torch.cat([pairs, torch.zeros(2, 1, 4, 3, dtype=torch.bool)], dim=3)  # slots of a static cache
    for given in (pairs, floats, infinite, wide, mask.long()):
        layout = read_mask(given, (2, 4))
        assert torch.equal(layout.mask, mask)
        assert layout.segments is None
    later = torch.cat([torch.ones(2, 1, 4, 5, dtype=torch.bool), pairs], dim=3)  # five tokens were read before
    assert torch.equal(read_mask(later, (2, 4), columns=5).mask, mask)
    assert read_mask(None, (2, 4)).fields() == ()


def test_documents_in_a_mask() -> None:
    blocks = torch.block_diag(torch.ones(2, 2), torch.ones(3, 3)).tril().bool()[None, None]
    assert read_mask(blocks, (1, 5)).segments.tolist() == [[0, 0, 1, 1, 1]]
    assert read_mask(blocks, (1, 5), segment=torch.tensor([7])).segments.tolist() == [[7, 7, 8, 8, 8]]
    padded = blocks & torch.tensor([1, 1, 0, 1, 1], dtype=torch.bool)
    found = read_mask(padded, (1, 5))
    assert found.mask.tolist() == [[True, True, False, True, True]]
    assert found.segments[0, 1] != found.segments[0, 3] == found.segments[0, 4]


def test_masks_that_cannot_be_read() -> None:
    adapter = MixerAttention(build_mixer({"mixer": "gam", "slots": 4}, 8), 0)
    x = torch.zeros(1, 3, 8)
    with pytest.raises(
        TypeError, match=r"attention_mask: expected a tensor or None, found dict; use attn_implementation"
    ):
        adapter(x, attention_mask={"full": None})
    with pytest.raises(ValueError, match=r"attention_mask: expected shape \(1, 1, 3, keys\), found \(1, 1, 2, 3\)"):
        adapter(x, attention_mask=torch.ones(1, 1, 2, 3))
    with pytest.raises(ValueError, match=r"encoder_hidden_states: .* found cross-attention"):
        adapter(x, encoder_hidden_states=x)


def test_an_encoder_that_becomes_one_way_is_told_of() -> None:
    with pytest.warns(UserWarning, match="read both sides") as told:
        swap_mixers(build("bert"), {"0": "mamba", "1-2": "mamba2"})
    first = "layers: 0, 1, 2 (mamba, mamba2) read both sides before the swap, and only earlier tokens after it"
    assert [str(warning.message)[: len(first)] for warning in told] == [first]  # once for all layers
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swap_mixers(build("bert"), {"0": "gam", "1": "attention"})  # they go on reading both sides
        swap_mixers(build("whisper"), {"decoder.0": "mamba2"})
        model = build("bert")
        with pytest.raises(UserWarning, match="read both sides"):
            swap_mixers(model, {"0": "mamba2"})
        assert type(model).__name__ == CASES["bert"][0]  # where warnings are errors, nothing has changed


def test_options_that_fit_nothing_are_told_of() -> None:
    """Five heads do not take the weights of four; with init="random" nothing was to be taken."""
    wide = {"mixer": "attention", "heads": 5, "head_dim": 8, "kv_heads": 5}
    with pytest.warns(UserWarning, match=r"layers: 1 \(attention\) start as drawn: no weights of the attention have"):
        model = swap_mixers(build("llama"), {"0": "attention", "1": wide, "2": "gam"})  # GAM has no place for any
    assert carried_weights(model)["1"] == ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swap_mixers(build("llama"), {"1": wide}, init="random")
