"""The separator: rows that depend on nothing but themselves, what it refuses, and its life in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import AutoModel, Trainer, TrainingArguments

from tokenmix.data.mixtures import collate_mixtures
from tokenmix.models.separation import (
    MixerForSpeechSeparation,
    SeparatorConfig,
    si_sdr,
    write_sounds,
)
from tokenmix.models.separation.parts import FilterBank, GlobalNorm

MOSSFORMER = {"mixer": "mossformer", "group": 16, "key_size": 16, "kernel": 5}
STACKS: dict[str, dict[str, Any]] = {
    "mossformer": {"mixers": {"m": MOSSFORMER}, "pattern": "mm"},
    "hybrid": {
        "mixers": {
            "m": MOSSFORMER,
            "b": {"mixer": "bidirectional", "inner": {"mixer": "mamba", "state_size": 4}},
            "a": {"mixer": "attention", "heads": 2, "causal": False, "rope": True},
        },
        "pattern": "mba",
        "feed_forward": {"a": "swiglu", "b": None, "m": None},
    },
}


def build(name: str = "mossformer", **options: Any) -> MixerForSpeechSeparation:
    torch.manual_seed(0)
    sizes = {"encoder_size": 12, "encoder_kernel": 8, "hidden_size": 16}
    return MixerForSpeechSeparation(SeparatorConfig(**{**sizes, **STACKS[name], **options})).eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", STACKS)
def test_a_row_does_not_know_its_batch(name: str) -> None:
    """Alone, and padded beside a longer row, whatever stands in the padding; its loss is its own too."""
    model, lengths = build(name), [301, 77, 5, 160]
    rows = [noise(n, seed=n) for n in lengths]
    labels = [noise(2, n, seed=n + 1) for n in lengths]
    mask = torch.arange(301) < torch.tensor(lengths)[:, None]
    batch = torch.full((4, 301), 1e3)
    targets = torch.full((4, 2, 301), -1e3)
    for b, n in enumerate(lengths):
        batch[b, :n], targets[b, :, :n] = rows[b], labels[b]
    with torch.no_grad():
        together = model(batch, mask.long(), targets)
        alone = [model(row[None], labels=label[None]) for row, label in zip(rows, labels, strict=True)]
    for b, n in enumerate(lengths):
        torch.testing.assert_close(together.sources[b, :, :n], alone[b].sources[0], rtol=1e-4, atol=1e-5)
        assert not together.sources[b, :, n:].any()
        assert alone[b].sources.shape == (1, 2, n)
    assert together.loss.item() == pytest.approx(sum(float(x.loss) for x in alone) / 4, abs=1e-2)


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 9, 12, 13, 100])
def test_every_sample_lies_in_a_frame_and_lengths_are_kept(length: int) -> None:
    model = build()
    frames = model.config.frames(length)
    assert (frames - 1) * 4 + 8 >= length > (frames - 2) * 4 + 8 or frames == 1
    assert model.config.frames(torch.tensor([0, length])).tolist() == [0, frames]
    samples = noise(1, length).requires_grad_()
    sources = model(samples).sources
    assert sources.shape == (1, 2, length)
    model.bank.encode(samples, frames).square().sum().backward()
    assert samples.grad is not None
    assert (samples.grad != 0).all()


def test_the_filter_bank_inverts_itself_where_its_filters_do() -> None:
    """With half of a window's samples in each of two frames, encoder and decoder of +- unit filters give x back."""
    bank = FilterBank(16, 8)
    with torch.no_grad():
        eye = torch.cat([torch.eye(8), -torch.eye(8)])[:, None]
        bank.encoder.weight.copy_(eye)
        bank.decoder.weight.copy_(0.5 * eye)
    x = noise(2, 40)
    found = bank.decode(bank.encode(x, 9))
    torch.testing.assert_close(found[:, 4:36], x[:, 4:36])
    torch.testing.assert_close(found[:, :4], 0.5 * x[:, :4])  # the ends lie in one frame


def test_global_norm_is_group_norm_of_the_real_frames() -> None:
    norm, group = GlobalNorm(6), nn.GroupNorm(1, 6, eps=1e-8)
    with torch.no_grad():
        for module in (norm, group):
            module.weight.copy_(noise(6, seed=1))
            module.bias.copy_(noise(6, seed=2))
    x, lengths = noise(2, 9, 6), [9, 4]
    found = norm(x, torch.arange(9) < torch.tensor(lengths)[:, None])
    for b, n in enumerate(lengths):
        torch.testing.assert_close(found[b, :n], group(x[b : b + 1, :n].transpose(1, 2))[0].T)
        assert not found[b, n:].any()


def test_a_mixer_that_norms_its_input_has_no_norm_before_it() -> None:
    norms = [type(block.mixer_norm).__name__ for block in build("hybrid").stack.layers]
    assert norms == ["Identity", "LayerNorm", "LayerNorm"]


def test_the_default_has_the_size_of_the_large_model() -> None:
    """Tables of others count 42.1 million parameters for MossFormer (L)."""
    with torch.device("meta"):
        model = MixerForSpeechSeparation(SeparatorConfig())
    assert model.num_parameters() == 42_101_834


def test_it_learns_to_part_two_tones() -> None:
    """Gradients reach every parameter, and the loss falls from below the mixture's to far above it."""
    model = build(encoder_kernel=16, num_hidden_layers=2).train()
    time = torch.arange(800) / 8000
    phases = torch.rand(4, 2, 1, generator=torch.Generator().manual_seed(0)) * 6
    sources = torch.sin(2 * torch.pi * torch.tensor([[350.0], [1900.0]]) * time + phases)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for step in range(60):
        loss = model(sources.sum(1), labels=sources.flip(1)).loss
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            untouched = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
            assert not untouched
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < -10
    assert losses[0] > 0


def test_saved_loaded_and_known_to_auto_model(tmp_path: Path) -> None:
    model, x = build("hybrid"), noise(2, 200)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is MixerForSpeechSeparation
    assert torch.equal(loaded(x).sources, model(x).sources)
    assert torch.equal(MixerForSpeechSeparation.from_pretrained(tmp_path)(x).sources, model(x).sources)


def test_what_a_checkpoint_lacks_is_drawn_and_the_rest_is_left(tmp_path: Path) -> None:
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.3)
    model.save_pretrained(tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    lacking = ["norm.weight", "places.scale", "prelu.weight", "gate_proj.weight"]
    for name in lacking:
        del weights[name]
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    found = dict(MixerForSpeechSeparation.from_pretrained(tmp_path).named_parameters())
    assert (found["norm.weight"] == 1).all()
    assert found["places.scale"].item() == 1
    assert found["prelu.weight"].item() == 0.25
    assert found["gate_proj.weight"].std() > 0.05
    assert all((p == 0.3).all() for name, p in found.items() if name not in lacking)


def test_trainer_and_gradient_checkpointing(tmp_path: Path) -> None:
    rows = [{"input_values": noise(n), "labels": noise(2, n, seed=n)} for n in (90, 120, 100, 80)]
    options = {"use_cpu": True, "report_to": "none", "max_steps": 2, "logging_steps": 1, "save_strategy": "no"}
    losses = []
    for recompute in (False, True):
        arguments = TrainingArguments(str(tmp_path), gradient_checkpointing=recompute, seed=3, **options)
        model = build(mixers={"m": {**MOSSFORMER, "dropout": 0.0}})
        trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collate_mixtures)
        trainer.train()
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
        trainer.save_model(str(tmp_path / "saved"))
        again = MixerForSpeechSeparation.from_pretrained(tmp_path / "saved")
        assert torch.equal(
            again(rows[0]["input_values"][None]).sources, model.eval()(rows[0]["input_values"][None]).sources
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[0]) == 2


def test_bfloat16_and_an_empty_row() -> None:
    model, x = build(), noise(2, 200)
    mask = torch.ones(2, 200, dtype=torch.long)
    mask[1] = 0
    whole = model(x, mask, noise(2, 2, 200, seed=1))
    assert not whole.sources[1].any()
    assert whole.loss.isfinite()
    half = model.to(torch.bfloat16)(x).sources.float()
    assert (si_sdr(half[0], whole.sources[0]) > 20).all()


def test_sounds_are_written(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    files = write_sounds(tmp_path / "sounds", build(), {"one": noise(400)}, 8000)
    assert [path.name for path in files] == ["one_mixture.wav", "one_speaker_1.wav", "one_speaker_2.wav"]
    for path in files:
        samples, rate = soundfile.read(path)
        assert (len(samples), rate) == (400, 8000)
        assert abs(samples).max() == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_kernel": 7}, "encoder_kernel: expected an even number of samples, found 7"),
        ({"speakers": 0}, "speakers: expected a positive integer, found 0"),
        ({"hidden_size": 15}, "hidden_size: expected an even number, found 15"),
        ({"encoder_sizes": 4}, "encoder_sizes: not a field of SeparatorConfig; did you mean 'encoder_size'"),
        ({"pattern": "mz"}, r"pattern: expected letters of mixers \['m'\], found \['z'\]"),
        ({"initializer_range": -1.0}, "initializer_range: expected a positive number, found -1.0"),
    ],
)
def test_mistakes_in_the_config(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ((noise(5),), ValueError, r"input_values: expected shape \(B, N\), one channel, found \(5,\)"),
        ((noise(1, 5).long(),), TypeError, "input_values: expected floating point samples"),
        ((noise(1, 0),), ValueError, "input_values: expected at least one sample, found none"),
        ((noise(1, 5), torch.tensor([[0, 1, 1, 1, 1]])), ValueError, "attention_mask: expected padding behind the end"),
        ((noise(1, 5), None, noise(1, 3, 5)), ValueError, r"labels: expected shape \(B, speakers, N\) = \(1, 2, 5\)"),
        ((noise(1, 5), None, torch.ones(1, 2, 5).long()), TypeError, "labels: expected floating point samples"),
        ((noise(1, 5) / 0,), ValueError, "input_values: expected finite samples, found NaN or infinity in row 0"),
    ],
)
def test_mistakes_in_the_input(inputs: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()(*inputs)
