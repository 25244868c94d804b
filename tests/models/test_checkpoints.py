"""Published models with the same weights give the same logits, padding and generation included."""

from inspect import signature
from typing import Any

import pytest
import torch
from tiny_models import VOCABULARY, assert_close, build, left_padded, randomize, tokens
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
)
from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated

from tokenmix.models import MixerForCausalLM, from_mamba_ssm, from_transformers, rename_mamba_ssm

SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "pad_token_id": 0}
LLAMA = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
MAMBA2 = {**SIZES, "state_size": 8, "head_dim": 8, "num_heads": 8, "chunk_size": 4}


def llama(**options: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**{**LLAMA, **options}))


def mamba(**options: Any) -> PreTrainedModel:
    return MambaForCausalLM(MambaConfig(**{**SIZES, "state_size": 4, **options}))


def mamba2(**options: Any) -> PreTrainedModel:
    return Mamba2ForCausalLM(Mamba2Config(**{**MAMBA2, **options}))


THEIRS = {
    "llama": llama,
    "llama biases tied": lambda: llama(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama wide heads": lambda: llama(head_dim=12, rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "mamba": mamba,
    "mamba biases": lambda: mamba(use_bias=True, use_conv_bias=False, time_step_rank=5, tie_word_embeddings=False),
    "mamba2 one group": lambda: mamba2(n_groups=1),
    "mamba2 two groups": lambda: mamba2(n_groups=2, tie_word_embeddings=True),
    "mamba2 limits": lambda: mamba2(n_groups=4, use_bias=True, time_step_limit=(0.3, 0.9), layer_norm_epsilon=1e-3),
}


def make(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if name in ("mamba2 two groups", "mamba2 limits") and "group_size" not in signature(MambaRMSNormGated).parameters:
        pytest.skip("this transformers norms over all groups of Mamba-2 at once, unlike mamba_ssm and later versions")
    return randomize(THEIRS[name]()).eval()


@pytest.mark.parametrize("name", THEIRS)
def test_same_logits(name: str) -> None:
    theirs = make(name)
    ours = from_transformers(theirs)
    ids = tokens(2, 11)
    padded, mask, rows = left_padded([9, 4])
    with torch.no_grad():
        expected = theirs(ids).logits
        assert expected.std() > 0.5
        assert_close(ours(ids).logits, expected)
        found, expected = ours(padded, attention_mask=mask).logits, theirs(padded, attention_mask=mask).logits
        for i, row in enumerate(rows):
            assert_close(found[i : i + 1, -row.shape[1] :], theirs(row).logits)
    if not getattr(theirs.config, "use_bias", False):  # in transformers 5.23 this bias leaks from padding (off by 4)
        assert_close(found[mask.bool()], expected[mask.bool()])
    assert not ours.training
    assert (ours.lm_head.weight is ours.model.embed_tokens.weight) == theirs.config.tie_word_embeddings


@pytest.mark.parametrize("name", ["llama", "mamba", "mamba2 two groups"])
def test_same_greedy_generation(name: str) -> None:
    theirs = make(name)
    ours = from_transformers(theirs)
    padded, mask, _ = left_padded([6, 3])
    options = {"attention_mask": mask, "max_new_tokens": 6, "return_dict_in_generate": True, "output_logits": True}
    expected, found = theirs.generate(padded, **options), ours.generate(padded, **options)
    assert torch.equal(found.sequences, expected.sequences)
    for a, b in zip(found.logits, expected.logits, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("name", ["llama biases tied", "mamba biases", "mamba2 limits"])
def test_copies_and_saves(name: str, tmp_path: Any) -> None:
    theirs = make(name)
    ours = from_transformers(theirs)
    ids = tokens(1, 5)
    before = ours(ids).logits
    ours.save_pretrained(tmp_path)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.zero_()
    assert torch.equal(ours(ids).logits, before)
    assert torch.equal(MixerForCausalLM.from_pretrained(tmp_path)(ids).logits, before)


PUBLISHED = {
    "mamba": {"d_state": 4},
    "mamba biases": {"d_state": 4, "bias": True, "conv_bias": False, "dt_rank": 5, "layer": "Mamba1"},
    "mamba2 two groups": {"layer": "Mamba2", "d_state": 8, "headdim": 8, "ngroups": 2, "chunk_size": 4},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_spelling_of_mamba_ssm(name: str) -> None:
    theirs = make(name)
    tied = theirs.config.tie_word_embeddings
    published = {key.replace("embeddings", "embedding"): value for key, value in theirs.state_dict().items()}
    assert "backbone.embedding.weight" in published
    if tied:
        del published["lm_head.weight"]
    config = {"d_model": 32, "n_layer": 3, "vocab_size": 57, "ssm_cfg": PUBLISHED[name], "tie_embeddings": tied}
    ours = from_mamba_ssm(config, published)
    ids = tokens(1, 7)
    with torch.no_grad():
        assert_close(ours(ids).logits, theirs(ids).logits)
    fresh = MixerForCausalLM(from_transformers(theirs).config).eval()
    fresh.load_state_dict(rename_mamba_ssm(published), strict=True)
    assert torch.equal(fresh(ids).logits, ours(ids).logits)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"ssm_cfg": {"layer": "Mamba3"}}, "ssm_cfg: expected layer 'Mamba1' or 'Mamba2', found 'Mamba3'"),
        ({"ssm_cfg": {"layer": "Mamba2", "d_ssm": 8}}, r"ssm_cfg: expected options among .* found \['d_ssm'\]"),
        ({"attn_layer_idx": [1]}, "expected a model of Mamba layers only"),
        ({"ssm_cfg": {"d_state": 5}}, "state_dict: expected the weights of this configuration"),
        ({"rms_norm": False}, "state_dict: expected the weights of this configuration"),
    ],
)
def test_mamba_ssm_without_counterpart(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_mamba_ssm({"d_model": 32, "n_layer": 3, **config}, make("mamba").state_dict())


def test_what_has_no_counterpart_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected one of LlamaForCausalLM, .* found GPT2LMHeadModel"):
        from_transformers(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=8)))
    with pytest.raises(TypeError, match="found MixerForCausalLM"):
        from_transformers(build("mamba"))
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(ValueError, match="rope_parameters: expected rope_type 'default', found 'linear'"):
        from_transformers(llama(rope_parameters=scaled))
    with pytest.raises(ValueError, match="hidden_act: expected 'silu', found 'gelu'"):
        from_transformers(mamba(hidden_act="gelu"))
    with pytest.raises(ValueError, match=r"state_dict: expected names that fit .* found 'model.embed_tokens.weight'"):
        rename_mamba_ssm({"model.embed_tokens.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"expected 'backbone.embedding.weight' in it"):
        rename_mamba_ssm({"backbone.norm_f.weight": torch.zeros(1)})
