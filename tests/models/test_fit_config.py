"""FIT's configuration: mistakes and their messages, how models start, saving, loading, Auto classes, training."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_fit_tools import ATTENTION, build, settings
from tiny_models import tokens
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, Trainer, TrainingArguments
from transformers.models.auto import modeling_auto

from tokenmix.models.fit import FITConfig, FITForCausalLM, FITModel
from tokenmix.models.fit.layers import parse_layers

# ---------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ""}, r"layers: expected pairs of local layers .* such as '\(2\)4\(2\)', found ''"),
        ({"layers": "2(4)2"}, r"layers: expected pairs .* found '2\(4\)2'"),
        ({"layers": "(2)4(2"}, r"layers: expected pairs .* found '\(2\)4\(2'"),
        ({"layers": "(2) 4"}, "layers: expected pairs"),
        (
            {"layers": "(2)0(2)"},
            r"layers: expected global layers in every stage but the last, found 0 in '\(2\)0",
        ),
        ({"layers": "(2)(2)"}, r"layers: expected pairs .* found '\(2\)\(2\)'"),
        ({"layers": "(0)"}, "layers: expected at least one layer, found none"),
        ({"layers": 3}, "layers"),
        ({"num_hidden_layers": 4}, "num_hidden_layers: expected layers to say it, found num_hidden_layers=4"),
        ({"local_mixer": {"mixer": "window2d"}}, "local_mixer: mixer: unknown name 'window2d'"),
        ({"hidden_size": 0}, "hidden_size: expected a positive integer, found 0"),
        ({"latents": 0}, "latents: expected a positive integer, found 0"),
        ({"max_groups": -1}, "max_groups: expected a positive integer, found -1"),
        ({"group_size": 0}, "group_size: expected a positive integer, found 0"),
        ({"vocab_size": 9, "input_size": 3}, "input_size: expected either vocab_size or input_size, found 9 and 3"),
        ({"input_size": 0}, "input_size: expected a positive integer, found 0"),
        ({"local_mixer": {"heads": 2}}, r"local_mixer: expected a key 'mixer' .* found keys \['heads'\]"),
        ({"latent_mixer": {"mixer": "atention"}}, "unknown name 'atention'; did you mean 'attention'"),
        (
            {"local_mixer": {"mixer": "gam", "slot": 3}},
            "local_mixer: slot: not an argument of mixer 'gam'; did you mean 'slots'",
        ),
        ({"local_mixer": {**ATTENTION, "heads": 3}}, "local_mixer: heads: expected a divisor of dim=16, found 3"),
        ({"latent_mixer": {**ATTENTION, "heads": 5}}, "latent_mixer: heads: expected a divisor of dim=24, found 5"),
        (
            {"local_mixer": {**ATTENTION, "causal": False}},
            "local_mixer: expected a causal mixer with causal=True, found .*, which reads the future",
        ),
        (
            {"latent_mixer": {"mixer": "mamba2", "head_dim": 8}, "causal": False},
            "latent_mixer: expected a mixer that reads both ways with causal=False, found .*, which reads only",
        ),
        ({"local_mixer": {**ATTENTION, "group": 2}}, "local_mixer: expected group to be 1, or it reads the future"),
        (
            {"latent_mixer": {**ATTENTION, "group": 4}},
            "latent_mixer: expected group to be a divisor of latents=2, or it reads the future, found 4",
        ),
        ({"cross_heads": 3}, r"cross_heads: expected a divisor of min\(hidden_size, latent_size\)=16, found 3"),
        ({"feed_forward": "swish"}, "feed_forward: expected one of .* found 'swish'"),
        ({"norm_eps": 0.0}, "norm_eps: expected a positive number, found 0.0"),
        ({"initializer_range": -1.0}, "initializer_range: expected a positive number, found -1.0"),
        ({"dropout": 1.0}, "dropout: expected at least 0 and below 1, found 1.0"),
        ({"grop_size": 4}, "grop_size: not a field of FITConfig; did you mean 'group_size'"),
        ({"mixers": {}}, "mixers: not a field of FITConfig; did you mean"),
    ],
)
def test_mistakes_in_the_config(options: dict[str, Any], message: str) -> None:
    sizes = {"hidden_size": 16, "latent_size": 24, "latents": 2, "local_mixer": ATTENTION, "latent_mixer": ATTENTION}
    with pytest.raises(ValueError, match=message):
        FITConfig(**{**sizes, **options})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "expected either input_ids or inputs_embeds"),
        ({"input_ids": tokens(2, 4), "inputs_embeds": torch.zeros(2, 4, 16)}, "found both or neither"),
        ({"input_ids": tokens(2, 4) + 61}, "input_ids: expected 0 to vocab_size - 1 = 60"),
        ({"input_ids": tokens(2, 4), "attention_mask": torch.ones(2, 5)}, r"attention_mask: expected shape \(2, 4\)"),
        ({"input_ids": tokens(2, 4), "labels": tokens(2, 3)}, r"labels: expected shape \(2, 4\), found \(2, 3\)"),
        (
            {"input_ids": tokens(2, 4), "labels": tokens(2, 4), "logits_to_keep": 1},
            "logits_to_keep: expected 0 where labels are given",
        ),
        (
            {
                "input_ids": tokens(2, 4),
                "position_ids": torch.tensor([[0, 1, 3, 4]]),
                "attention_mask": torch.ones(2, 4),
                "use_cache": False,
            },
            "positions: expected places that go up by one within a document",
        ),
    ],
)
def test_mistakes_in_a_call(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()(**inputs)


def test_misspelt_arguments_and_other_models() -> None:
    with pytest.raises(TypeError, match="atention_mask: not an argument of FITForCausalLM"):
        build()(tokens(1, 3), atention_mask=None)
    with pytest.raises(ValueError, match="config: a language model expected causal=True and a vocab_size, found"):
        FITForCausalLM(settings(causal=False))
    with pytest.raises(ValueError, match="found causal=True, vocab_size=None"):
        FITForCausalLM(settings(input_size=3))
    model = build(FITModel, input_size=3, causal=False)
    for inputs in ({"input_ids": tokens(1, 4)}, {"inputs_embeds": torch.zeros(1, 4, 16)}, {}):
        with pytest.raises(ValueError, match=r"inputs_embeds: expected shape \(B, L, input_size=3\), found"):
            model(**inputs)
    ids = tokens(1, 4)
    with pytest.raises(ValueError, match="layout: expected it without attention_mask"):
        build().model(ids, layout=torch, attention_mask=torch.ones(1, 4))


# ---------------------------------------------------------------------- what a configuration says


def test_layers_are_read() -> None:
    assert parse_layers("(2)4(2)") == [(2, 4), (2, 0)]
    assert parse_layers("(12)3") == [(12, 3)]
    assert parse_layers("(0)1(2)10(1)0") == [(0, 1), (2, 10), (1, 0)]
    config = settings(layers="(3)4(2)1")
    assert (config.num_hidden_layers, config.max_position_embeddings) == (10, 32)
    model = FITModel(config)
    assert [len(stage.local.layers) for stage in model.stages] == [3, 2]
    assert [len(stage.latent.layers) for stage in model.stages] == [4, 1]


def test_the_mode_completes_the_mixers() -> None:
    assert settings().latent_mixer == {**ATTENTION, "causal": True}
    assert FITModel(settings()).stages[0].latent.mixers[0].group == 2
    assert settings(causal=False).latent_mixer == {**ATTENTION, "causal": False}
    token_by_token = settings(latent_mixer={**ATTENTION, "group": 1})
    assert FITModel(token_by_token).stages[0].latent.mixers[0].group == 1
    assert ATTENTION == {"mixer": "attention", "heads": 2, "bias": True}, "the user's dictionary is left alone"


@pytest.mark.parametrize(
    ("local", "latent", "expected"),
    [
        ({**ATTENTION, "heads": 8}, {**ATTENTION, "heads": 2}, 2),
        ({**ATTENTION, "heads": 4}, {**ATTENTION, "heads": 8}, 4),
        ({"mixer": "gam", "slots": 4}, {**ATTENTION, "heads": 4}, 4),
        ({"mixer": "gam", "slots": 4}, {"mixer": "gam", "slots": 4}, 8),
    ],
)
def test_cross_attentions_have_the_smaller_of_two_sides(
    local: dict[str, Any], latent: dict[str, Any], expected: int
) -> None:
    model = FITModel(settings(local_mixer=local, latent_mixer=latent))
    for cross in (model.stages[0].exchange.gather.cross, model.stages[0].exchange.scatter.cross):
        assert (cross.heads, cross.inner_dim) == (expected, 16)
    assert (
        FITModel(settings(hidden_size=32, local_mixer={**ATTENTION, "heads": 8}))
        .stages[0]
        .exchange.gather.cross.inner_dim
        == 24
    )


# ---------------------------------------------------------------------- how models start


@torch.no_grad()
def test_how_a_model_starts() -> None:
    torch.manual_seed(0)
    model = FITForCausalLM(settings(hidden_size=64, latent_size=96, layers="(2)2(2)")).eval()
    ids = tokens(8, 32)
    assert abs(float(model(ids, labels=ids).loss) - math.log(61)) < 0.7
    assert not model.lm_head.bias.any()
    for table in (model.model.embed_latents, model.model.embed_positions, model.model.embed_tokens):
        assert abs(float(table.weight.std()) * 8 - 1) < 0.2
    gather, scatter = (getattr(model.model.stages[0].exchange, name).cross for name in ("gather", "scatter"))
    plain = 64**-0.5
    assert abs(float(gather.q_proj.weight.std()) / plain - 1) < 0.1
    tokens_branches, latent_branches = 4 * 2 + 1, 2 * 2 + 1
    assert abs(float(scatter.o_proj.weight.std()) / plain * tokens_branches**0.5 - 1) < 0.1
    assert abs(float(gather.o_proj.weight.std()) / plain * latent_branches**0.5 - 1) < 0.1
    local, latent = model.model.stages[0].local.layers[0], model.model.stages[0].latent.layers[0]
    assert abs(float(local.feed_forward.down_proj.weight.std()) / plain * tokens_branches**0.5 - 1) < 0.1
    assert abs(float(latent.feed_forward.down_proj.weight.std()) / plain * latent_branches**0.5 - 1) < 0.1


def test_dropout_is_in_training_only() -> None:
    model, ids = FITModel(settings(dropout=0.5)), tokens(1, 9)
    assert (model(ids).last_hidden_state - model(ids).last_hidden_state).abs().max() > 0.01
    model.eval()
    assert torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)


# ---------------------------------------------------------------------- saving, loading, Auto classes


@pytest.mark.parametrize("tied", [True, False])
def test_save_and_load(tmp_path: Path, tied: bool) -> None:
    model = build(tie_word_embeddings=tied).float()
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    ids = tokens(2, 9)
    expected = model(ids, use_cache=False).logits
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["model_type"], written["layers"], written["architectures"]) == (
        "fit",
        "(1)2(1)1(1)",
        ["FITForCausalLM"],
    )
    for auto in (FITForCausalLM, AutoModelForCausalLM):
        loaded = auto.from_pretrained(tmp_path).eval()
        assert type(loaded) is FITForCausalLM
        assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
        assert torch.equal(loaded(ids, use_cache=False).logits, expected)
    base = AutoModel.from_pretrained(tmp_path).eval()
    assert type(base) is FITModel
    features = model.model(ids).last_hidden_state
    assert torch.equal(base(ids).last_hidden_state, features)
    assert torch.equal(base.latent_norm.weight, torch.ones(24)), "a language model has none"
    base.save_pretrained(tmp_path / "base")
    again = FITForCausalLM.from_pretrained(tmp_path / "base")
    assert torch.equal(again.model(ids).last_hidden_state, features)


def test_an_encoder_of_features_is_saved_and_loaded(tmp_path: Path) -> None:
    model = build(FITModel, causal=False, input_size=5).float()
    x = torch.randn(2, 9, 5)
    expected = model(inputs_embeds=x)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert (loaded.config.input_size, loaded.config.vocab_size, loaded.config.causal) == (5, None, False)
    found = loaded(inputs_embeds=x)
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(found.latents, expected.latents)


def test_auto_classes_know_it() -> None:
    assert type(AutoConfig.for_model("fit", hidden_size=32)) is FITConfig
    assert type(AutoModelForCausalLM.from_config(settings())) is FITForCausalLM
    assert type(AutoModel.from_config(settings(causal=False))) is FITModel
    assert modeling_auto.MODEL_MAPPING_NAMES["fit"] == "FITModel"
    assert modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["fit"] == "FITForCausalLM"


def test_pickles_are_refused(tmp_path: Path) -> None:
    settings().save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(ValueError, match="expected safetensors weights, found"):
        FITForCausalLM.from_pretrained(tmp_path)


def test_a_larger_vocabulary() -> None:
    model = build().float()
    model.resize_token_embeddings(70)
    assert (model.lm_head.weight.shape, model.lm_head.bias.shape) == ((70, 16), (70,))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model(torch.tensor([[69, 3]])).logits.shape == (1, 2, 70)


def test_trainer_learns_what_lies_in_another_group(tmp_path: Path) -> None:
    """The second group repeats the first, which only latents can tell it."""
    torch.manual_seed(0)
    config = FITConfig(
        vocab_size=8, hidden_size=32, latent_size=32, group_size=4, latents=4, max_groups=2, layers="(1)1(2)"
    )
    rows = torch.randint(0, 8, (512, 4))
    data = [{"input_ids": row.repeat(2), "labels": row.repeat(2)} for row in rows]
    arguments = TrainingArguments(
        tmp_path, per_device_train_batch_size=32, max_steps=250, learning_rate=5e-3, report_to=[], use_cpu=True,
        save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    model = FITForCausalLM(config)
    Trainer(model, arguments, train_dataset=data).train()
    model.eval()
    ids = torch.randint(0, 8, (64, 4)).repeat(1, 2)
    with torch.no_grad():
        hits = model(ids).logits[:, 3:-1].argmax(-1) == ids[:, 4:]
    assert hits.float().mean() > 0.8, "by chance it would be 1 of 8"


def test_a_mixer_by_its_name_and_adapters_on_features() -> None:
    """A name alone is a description; a frozen model of features still gives its adapters gradients."""
    assert settings(local_mixer="gam").local_mixer == {"mixer": "gam", "causal": True}
    model = build(FITModel, input_size=5, causal=False, vocab_size=None).train()
    assert model.get_input_embeddings() is model.stem
    model.requires_grad_(False)
    model.enable_input_require_grads()
    assert model(inputs_embeds=torch.randn(1, 6, 5).double()).last_hidden_state.requires_grad
