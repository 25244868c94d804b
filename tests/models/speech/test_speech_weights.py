"""Gradients, types, saving and loading of speech models; what a CTC checkpoint gives a decoder model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from speech_cases import (
    BRIDGES,
    MAMBA,
    STACKS,
    assert_close,
    batch_of,
    ctc_model,
    noise,
    randomize,
    samba_config,
    samba_model,
    settings,
    speech_config,
)
from transformers import AutoModel, AutoModelForCTC, AutoModelForSpeechSeq2Seq

from tokenmix.mixer import TokenMixer
from tokenmix.models.speech import MixerForCTC, SambaASRForConditionalGeneration, SpeechModel

AUDIO = batch_of([noise(2000, 1), noise(1210, 2)], 160)
LABELS = torch.tensor([[5, 3, 3, 9], [4, 8, -100, -100]])
MODELS = {"ctc": lambda **o: ctc_model("mamba2", **o), **{c: (lambda c=c, **o: samba_model(c, **o)) for c in BRIDGES}}


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_parameter(name: str) -> None:
    model = MODELS[name](normalise="utterance").train()
    model(**AUDIO, labels=LABELS).loss.backward()
    for part, parameter in model.named_parameters():
        assert parameter.grad is not None, part
        assert parameter.grad.isfinite().all(), part
        assert parameter.grad.any(), part


@pytest.mark.parametrize("mixer", sorted(STACKS))
def test_gradients_equal_finite_differences(mixer: str) -> None:
    """Of the whole loss, CTC and cross-entropy, along a random direction in the space of all parameters."""
    model = samba_model("mamba", mixers={"x": STACKS[mixer]}, ctc_weight=0.5).double().train()
    parameters = list(model.parameters())
    torch.manual_seed(1)
    direction = [torch.randn_like(parameter) for parameter in parameters]
    gradients = torch.autograd.grad(model(**AUDIO, labels=LABELS).loss, parameters)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    losses = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            for parameter, change in zip(parameters, direction, strict=True):
                parameter.add_(step * change)
            losses.append(model(**AUDIO, labels=LABELS).loss.item())
    # CTC is summed in float32, so a difference of two losses is good to about 1e-7 / 1e-5
    assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(slope, rel=0.02, abs=0.05)


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")  # the name users know
@pytest.mark.parametrize("name", MODELS)
def test_gradient_checkpointing_gives_equal_gradients(name: str) -> None:
    """With dropout and SpecAugment on, drawn once; and it does run layers again."""
    options = {"dropout": 0.2, "time_masks": 2, "time_mask_width": 4, "time_mask_share": 0.5, "frequency_masks": 1}
    model, calls = MODELS[name](**options).train(), []
    for module in model.modules():
        if isinstance(module, TokenMixer):
            module.register_forward_hook(lambda *_: calls.append(1))
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        calls.clear()
        torch.manual_seed(3)
        model(**AUDIO, labels=LABELS).loss.backward()
        found.append(([parameter.grad.clone() for parameter in model.parameters()], len(calls)))
    for one, other in zip(found[0][0], found[1][0], strict=True):
        assert_close(one, other, 1e-6)
    assert found[1][1] == 2 * found[0][1] > 0


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch's, of float32 norms
@pytest.mark.parametrize("name", MODELS)
def test_autocast(name: str) -> None:
    model = MODELS[name]().train()
    whole = model(**AUDIO, labels=LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**AUDIO, labels=LABELS)
    output.loss.backward()
    assert output.loss.isfinite()
    assert output.loss.item() == pytest.approx(whole.loss.item(), rel=0.1)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_weights_of_16_bits(name: str, half: torch.dtype, tmp_path: Path) -> None:
    """Cast, and loaded so: near to float32, and the same either way; its front end is not rounded."""
    model = MODELS[name]()
    expected = model(**AUDIO, labels=LABELS)
    mel = model.encoder.front_end(AUDIO["input_values"])
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=half)
    for narrow in (model.to(half), loaded):
        assert narrow.dtype == half
        assert torch.equal(narrow.encoder.front_end(AUDIO["input_values"]), mel)
        output = narrow(**AUDIO, labels=LABELS)
        behind = expected.logits.abs() > 1e3
        assert (output.logits.float() - expected.logits)[~behind].abs().mean() < 0.05
        assert output.loss.item() == pytest.approx(expected.loss.item(), rel=0.1)
        if name != "ctc":
            samples = {**AUDIO, "input_values": AUDIO["input_values"].to(half)}
            assert narrow.generate(**samples, max_new_tokens=3, num_beams=2).shape[0] == 2


@torch.no_grad()
@pytest.mark.parametrize("kind", ["base", "ctc", "mamba", "attention", "tied"])
def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    """Through the Auto classes, to the bit; the normaliser that was measured is part of the weights."""
    auto: Any = {"base": AutoModel, "ctc": AutoModelForCTC}.get(kind, AutoModelForSpeechSeq2Seq)
    if kind == "base":
        model: Any = randomize(SpeechModel(speech_config("gam")))
    elif kind == "tied":
        model = samba_model(tie_word_embeddings=True)
        assert model.lm_head.weight is model.decoder.embed_tokens.weight
    else:
        model = MODELS[kind]()
    getattr(model, "encoder", model).fit_normaliser([AUDIO])
    model.save_pretrained(tmp_path)
    again, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is type(model)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tensors = dict(again.state_dict())
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    found, front_end = dict(again.named_buffers()), "front_end." if kind == "base" else "encoder.front_end."
    assert found[f"{front_end}mean"].abs().sum() > 1
    assert {name.rpartition(".")[2] for name in found if "front_end" in name} == {
        "window",
        "filters",
        "mean",
        "deviation",
    }
    given = AUDIO if kind in ("base", "ctc") else {**AUDIO, "decoder_input_ids": torch.tensor([[1, 4]] * 2)}
    one, other = model(**given), again.eval()(**given)
    assert torch.equal(one[0], other[0])
    if kind not in ("base", "ctc"):
        options = {"max_new_tokens": 6, "num_beams": 2}
        assert torch.equal(model.generate(**AUDIO, **options), again.generate(**AUDIO, **options))


@torch.no_grad()
def test_base_and_heads_share_checkpoints(tmp_path: Path) -> None:
    model = ctc_model()
    model.save_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tmp_path).eval()
    assert type(base) is SpeechModel
    assert torch.equal(base(**AUDIO).last_hidden_state, model.encoder(**AUDIO).last_hidden_state)
    base.save_pretrained(tmp_path / "base")
    headed, info = MixerForCTC.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert set(info["missing_keys"]) == {"ctc_head.weight", "ctc_head.bias"}
    assert torch.equal(headed.encoder.front_end.mean, model.encoder.front_end.mean)


@torch.no_grad()
def test_a_ctc_checkpoint_starts_a_decoder_model(tmp_path: Path) -> None:
    """Encoder, normaliser and CTC head are loaded, the rest is drawn and reported missing."""
    model = ctc_model()
    model.save_pretrained(tmp_path)
    started, info = SambaASRForConditionalGeneration.from_pretrained(
        tmp_path, config=samba_config(), output_loading_info=True
    )
    started.eval()
    names = set(model.state_dict())
    rest = set(started.state_dict()) - names
    assert names < set(started.state_dict())
    assert all(name.startswith(("decoder.", "lm_head.")) for name in rest)
    assert set(info["missing_keys"]) == rest
    assert not info["unexpected_keys"]
    assert torch.equal(started.ctc(**AUDIO), model(**AUDIO).logits)
    fresh = {name: started.state_dict()[name] for name in rest}
    assert all(tensor.isfinite().all() for tensor in fresh.values())
    assert fresh["decoder.embed_tokens.weight"].std() > 0.1
    labels = started(**AUDIO, labels=LABELS)
    assert labels.loss.isfinite()


def test_what_is_drawn_is_drawn_as_said() -> None:
    """Convolutions as torch draws them, also after loading part of a model; mixers as published; norms are 1."""
    torch.manual_seed(0)
    model = SambaASRForConditionalGeneration(samba_config(initializer_range=0.5, conv_size=64, vocab_size=200))
    for conv in model.encoder.subsampling.layers:
        bound = (conv.in_channels * conv.kernel_size[0]) ** -0.5
        assert 0.9 * bound < conv.weight.abs().max() <= bound
    assert model.decoder.embed_tokens.weight.std().item() == pytest.approx(0.5, rel=0.1)
    assert model.lm_head.weight.std().item() == pytest.approx(0.5, rel=0.1)
    mamba = model.encoder.stack.layers[0].mixer.forwards
    assert_close(mamba.A_log.exp()[0], torch.arange(1.0, MAMBA["state_size"] + 1))
    assert_close(model.decoder.layers[0].mixer.A_log.exp()[0], torch.arange(1.0, MAMBA["state_size"] + 1))
    assert (model.decoder.norm.weight == 1).all()


def test_settings_that_change_no_weight_change_no_name() -> None:
    """So that a checkpoint trained offline can be told to hide nothing, or to smooth nothing."""
    a = SambaASRForConditionalGeneration(samba_config())
    b = SambaASRForConditionalGeneration(samba_config(**settings(time_masks=5), label_smoothing=0.0, ctc_weight=0.9))
    assert list(a.state_dict()) == list(b.state_dict())
