"""Mixture-of-Transformers: what sheet 7 says that a test must show."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mixtures import DISCRETE, IMAGE, SPEECH, STACKS, TEXT, build, settings, tokens
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tokenmix.models import MixerConfig, MixerForCausalLM, MixtureOfTransformersConfig, MixtureOfTransformersForCausalLM
from tokenmix.models.checkpoints import from_transformers

EXACT = {"rtol": 0, "atol": 1e-10}


def naive(model: MixtureOfTransformersForCausalLM, ids: Tensor) -> Tensor:
    """Logits of one attention model, token by token, from the equations."""
    config, weights = model.config, dict(model.named_parameters())
    modality = config.modality_of(ids)
    heads, length = 4, ids.shape[1]
    width = config.hidden_size // heads

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean() + config.norm_eps).sqrt() * weight

    def turn(x: Tensor, place: int) -> Tensor:
        angles = place * 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        first, second = x[..., : width // 2], x[..., width // 2 :]
        return torch.cat(
            [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1
        )

    rows = []
    for row, kinds in zip(ids, modality, strict=True):
        x = weights["model.embed_tokens.weight"][row]
        for layer in range(config.num_hidden_layers):
            of = lambda name, m, layer=layer: weights[f"model.stack.layers.{layer}.{name}.weight"][m]  # noqa: E731
            q, k, v = (
                torch.stack([(of(f"mixer.{p}_proj", m) @ t).view(heads, width) for t, m in zip(x, kinds, strict=True)])
                for p in "qkv"
            )
            q, k = (torch.stack([turn(t, i) for i, t in enumerate(side)]) for side in (q, k))
            mixed = []
            for i in range(length):
                scores = torch.einsum("he,jhe->hj", q[i], k[: i + 1]) / width**0.5
                mixed.append(torch.einsum("hj,jhe->he", scores.softmax(-1), v[: i + 1]).flatten())
            h = torch.stack(
                [
                    t + norm(of("mixer.o_proj", m) @ a, of("mixer_norm", m))
                    for t, a, m in zip(x, mixed, kinds, strict=True)
                ]
            )
            fed = []
            for t, m in zip(h, kinds, strict=True):
                inner = F.silu(of("feed_forward.gate_proj", m) @ t) * (of("feed_forward.up_proj", m) @ t)
                fed.append(t + norm(of("feed_forward.down_proj", m) @ inner, of("feed_forward_norm", m)))
            x = torch.stack(fed)
        final = torch.stack([norm(t, weights["model.stack.norm.weight"][m]) for t, m in zip(x, kinds, strict=True)])
        rows.append(final @ weights["model.embed_tokens.weight"].t())
    return torch.stack(rows)


def test_equals_the_equations() -> None:
    model, ids = build(), tokens()
    torch.testing.assert_close(model(ids).logits, naive(model, ids), rtol=0, atol=1e-9)


@pytest.mark.parametrize("stack", sorted(STACKS))
def test_tied_experts_equal_the_dense_model(stack: str) -> None:
    """Any pattern of modalities; the dense model is `untied=False` with the same embeddings."""
    dense = build(**STACKS[stack], untied=False)
    untied = MixtureOfTransformersForCausalLM.from_dense(dense, DISCRETE)
    ids = tokens(3)
    torch.testing.assert_close(untied(ids).logits, dense(ids).logits, **EXACT)
    assert not untied.training


def test_one_modality_is_a_dense_model() -> None:
    fields: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, **STACKS["hybrid"]}
    torch.manual_seed(0)
    one = MixtureOfTransformersForCausalLM(
        MixtureOfTransformersConfig(**fields, modalities={"text": {"vocab_size": 30}}, norm_placement="pre")
    ).double()
    dense = MixerForCausalLM(MixerConfig(**fields, vocab_size=30)).double()
    with torch.no_grad():
        own = dict(one.named_parameters())
        for name, parameter in dense.named_parameters():
            parameter.copy_(own[name].reshape(parameter.shape))
    ids = tokens(vocabulary=30)
    torch.testing.assert_close(one.eval()(ids).logits, dense.eval()(ids).logits, **EXACT)


@pytest.mark.parametrize("stack", sorted(STACKS))
def test_cached_decoding_that_switches_modality(stack: str) -> None:
    model, ids = build(**STACKS[stack]), tokens()
    whole = model(ids).logits
    outputs, cache = [], None
    for low, high in ((0, 5), (5, 6), (6, 7), (7, 12)):
        found = model(ids[:, low:high], past_key_values=cache, use_cache=True)
        cache = found.get("cache", found.get("past_key_values"))
        outputs.append(found.logits)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, **EXACT)


@pytest.mark.parametrize("stack", sorted(STACKS))
def test_generation_equals_full_forwards(stack: str) -> None:
    model = build(**STACKS[stack])
    prompt = tokens(2, 5)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    found = model.generate(prompt, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
    for row, real in zip(found, mask, strict=True):
        ids = torch.cat([row[:5][real.bool()], row[5:]])[None]
        start = int(real.sum())
        assert torch.equal(model(ids).logits[0, start - 1 : -1].argmax(-1), ids[0, start:])
    from tokenmix.models import generate

    fast = generate(model, prompt, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert torch.equal(fast, found)


def test_all_tokens_mix_and_only_backwards() -> None:
    model, ids = build(), tokens(1)
    ids[0, 2], ids[0, 7] = 3, TEXT + 2  # a text token, and a later one of a picture
    changed = ids.clone()
    changed[0, 2] = 4
    before, after = model(ids).logits[0], model(changed).logits[0]
    assert torch.equal(before[:2], after[:2])
    assert not torch.allclose(before[7], after[7])


def test_padding_and_packing_change_nothing() -> None:
    model = build(**STACKS["hybrid"])
    a, b = tokens(1, 5), tokens(1, 7, seed=1)
    alone = [model(a).logits, model(b).logits]
    packed = model(torch.cat([a, b], 1), segment_ids=torch.tensor([[0] * 5 + [1] * 7])).logits
    torch.testing.assert_close(packed, torch.cat(alone, 1), **EXACT)
    padded = torch.cat([torch.full((1, 3), TEXT + 1), a], 1)
    left = model(padded, attention_mask=torch.tensor([[0] * 3 + [1] * 5])).logits
    torch.testing.assert_close(left[:, 3:], alone[0], **EXACT)


def test_an_absent_modality_gets_zero_gradients() -> None:
    model = build().train()
    ids = tokens(2, 10, vocabulary=TEXT + IMAGE)  # no speech
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if parameter.dim() > 1 and len(parameter) == 3:
            assert (parameter.grad[2] == 0).all(), name
            assert (parameter.grad[0] != 0).any(), name
            assert (parameter.grad[1] != 0).any(), name


def test_flops_and_parameters() -> None:
    """FLOPs are the dense model's; all but embeddings has n times its parameters."""
    ids, counted = tokens(4, 32), {}
    for untied in (False, True):
        model = build(untied=untied, **STACKS["hybrid"])
        with FlopCounterMode(display=False) as flops:
            model(ids)
        counted[untied] = flops.get_total_flops()
    assert counted[True] == counted[False]

    def routed(model: Any) -> int:
        shared = ("embed_tokens", "conv1d", "A_log", "dt_bias", "mixer.norm", ".D")
        return sum(p.numel() for n, p in model.named_parameters() if not any(part in n for part in shared))

    assert routed(build(**STACKS["hybrid"])) == 3 * routed(build(untied=False, **STACKS["hybrid"]))


def test_loss_by_modality_is_the_mean_over_its_labels() -> None:
    model, ids = build(), tokens(3)
    labels = ids.clone()
    labels[0, 4] = -100
    found = model(ids, labels=labels)
    nats = F.cross_entropy(found.logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    kinds = model.config.modality_of(ids)[:, 1:]
    for m in range(3):
        here = (kinds == m) & (labels[:, 1:] != -100)
        assert found.modality_counts[m] == here.sum()
        torch.testing.assert_close(found.modality_losses[m].double(), nats[here].mean(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.loss.double(), nats[labels[:, 1:] != -100].mean(), rtol=1e-6, atol=0)
    halves = sum(model(ids[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=32).loss for i in range(3))
    torch.testing.assert_close(halves * 32 / int((labels[:, 1:] != -100).sum()), found.loss)


def test_from_a_dense_language_model_of_transformers() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=30, num_hidden_layers=2, **sizes)).eval()
    modalities = {"text": {"vocab_size": 30}, "image": {"vocab_size": IMAGE}, "speech": {"vocab_size": SPEECH}}
    untied = MixtureOfTransformersForCausalLM.from_dense(llama, modalities)
    ids = tokens(vocabulary=30)
    with torch.no_grad():
        torch.testing.assert_close(untied(ids).logits[..., :30], llama(ids).logits, rtol=0, atol=1e-5)
        dense, embeds = from_transformers(llama), torch.randn(2, 12, 16)
        mixed = untied(inputs_embeds=embeds, modality_ids=tokens(vocabulary=3)).logits[..., :30]  # any modality
        torch.testing.assert_close(mixed, dense(inputs_embeds=embeds).logits, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="modalities: expected the first one to have vocab_size=30"):
        MixtureOfTransformersForCausalLM.from_dense(llama, DISCRETE)


def test_saved_and_loaded_and_auto(tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = build(**STACKS["hybrid"]).float()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, MixtureOfTransformersForCausalLM)
    assert loaded.config.names == ["text", "image", "speech"]
    torch.testing.assert_close(loaded(tokens()).logits, model(tokens()).logits, rtol=0, atol=1e-6)


def test_from_dense_keeps_what_each_option_changes() -> None:
    torch.manual_seed(0)
    tied = MixerForCausalLM(MixerConfig(vocab_size=30, hidden_size=16, **STACKS["hybrid"])).eval()
    ids, modalities = tokens(vocabulary=30), {"text": {"vocab_size": 30}, "image": {"vocab_size": 4}}
    for options in ({}, {"tie_word_embeddings": False}):
        untied = MixtureOfTransformersForCausalLM.from_dense(tied, modalities, **options)
        torch.testing.assert_close(untied(ids).logits[..., :30], tied(ids).logits, rtol=0, atol=1e-5)
    half = MixerForCausalLM(MixerConfig(vocab_size=30, hidden_size=16, **STACKS["mamba2"])).eval().to(torch.bfloat16)
    for parameter in (p for n, p in half.named_parameters() if n.endswith(("A_log", "dt_bias"))):
        parameter.data = parameter.data.float() + 1e-4
    kept = dict(MixtureOfTransformersForCausalLM.from_dense(half, modalities).named_parameters())
    for name, parameter in half.named_parameters():
        assert kept[name].dtype == parameter.dtype, name
        if name.endswith("A_log"):
            assert torch.equal(kept[name], parameter)
    dense = build(untied=False)
    with pytest.raises(ValueError, match="modalities that begin with its own"):
        MixtureOfTransformersForCausalLM.from_dense(dense, DISCRETE | {"text": {"vocab_size": TEXT + 5}})


def test_refuses_to_resize() -> None:
    model = build()
    with pytest.raises(ValueError, match="resize_token_embeddings: expected the vocabulary of the configuration"):
        model.resize_token_embeddings(64)
    assert model.resize_token_embeddings().num_embeddings == 44


def test_starts_with_modalities_apart_and_norms_at_one() -> None:
    torch.manual_seed(0)
    model = MixtureOfTransformersForCausalLM(settings(**STACKS["hybrid"]))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == 1).all(), name
        elif parameter.dim() == 3 and len(parameter) == 3:
            assert not torch.equal(parameter[0], parameter[1]), name
            assert 0.3 < (parameter[0].std() / parameter[1].std()).item() < 3, name


def test_compiles_whole() -> None:
    torch.compiler.reset()
    model, ids = build().float(), tokens()
    with torch.no_grad():
        compiled = torch.compile(lambda ids: model(ids, use_cache=False).logits, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(ids), model(ids).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modalities": {}}, "modalities: expected"),
        ({"modalities": {"a": 3}}, "modalities: a: expected a mapping"),
        ({"modalities": ["text"]}, "modalities: 0: expected a mapping"),
        ({"modalities": {"a": {"vocab_sise": 3}}}, "did you mean 'vocab_size'"),
        ({"modalities": {"a": {"vocab_size": 3, "input_size": 2}}}, "expected either vocab_size or input_size"),
        ({"modalities": {"a": {"vocab_size": 0}}}, "modalities: a: vocab_size: expected a positive integer, found 0"),
        ({"modalities": {"a": {"input_size": 2}}}, "objective: expected one of"),
        ({"modalities": {"a": {"vocab_size": 2, "objective": "diffusion"}}}, "expected none for discrete tokens"),
        ({"modalities": {"a": {"vocab_size": 2, "begin": 2}}}, "begin: expected an id below 2, found 2"),
        ({"modalities": {"a": {"vocab_size": 2, "begin": "x"}}}, "begin: expected an id below 2, found 'x'"),
        ({"modalities": {"a": {"vocab_size": 2, "end": 1}}}, "end: expected a token of another modality, found 1"),
        (
            {"modalities": {"a": {"vocab_size": 2}, "b": {"vocab_size": 1, "begin": 0, "end": 0}}},
            "b: end: expected another",
        ),
        (
            {
                "modalities": {
                    "a": {"vocab_size": 2},
                    "b": {"vocab_size": 1, "begin": 0},
                    "c": {"vocab_size": 1, "begin": 0},
                }
            },
            "begin: expected a token of its own for each span",
        ),
        ({"untied": 3}, "untied: expected True or False, found 3"),
        ({"vocab_size": 7}, "vocab_size: expected 44, the sum over modalities, found 7"),
        ({"norm_placement": "post"}, "norm_placement: expected one of"),
        ({"modalitis": {}}, "modalitis: not a field of MixtureOfTransformersConfig; did you mean 'modalities'"),
    ],
)
def test_refuses_settings(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        settings(**fields)


def test_refuses_inputs() -> None:
    model = build()
    with pytest.raises(ValueError, match="modality_ids: expected them with inputs_embeds, found None"):
        model(inputs_embeds=torch.zeros(1, 2, 16, dtype=torch.float64))
    with pytest.raises(ValueError, match="modality_ids: expected 0 to 2, found 0 to 3"):
        model(inputs_embeds=torch.zeros(1, 2, 16, dtype=torch.float64), modality_ids=torch.tensor([[0, 3]]))
    with pytest.raises(ValueError, match="input_ids: expected 0 to vocab_size - 1 = 43, found 0 to 44"):
        model(torch.tensor([[0, 44]]))
    with pytest.raises(ValueError, match="features: expected none"):
        model(tokens(), features=torch.zeros(2, 12, 4))
    with pytest.raises(TypeError, match="modality_id: not an argument"):
        model(tokens(), modality_id=3)
