"""Training a tokeniser: it learns, it goes on where it was killed, and its score is that of a loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokeniser_cases import frames, image_model, pictures, speech_model
from torch import Tensor

from tokenmix.models.tokenisers import (
    ImageTokeniser,
    ImageTokeniserConfig,
    SpeechTokeniser,
    SpeechTokeniserConfig,
    code_perplexity,
)
from tokenmix.training import MixerTrainer
from tokenmix.training.tokeniser import _Rows, score_tokeniser, train_tokeniser

QUIET = {"disable_tqdm": True, "use_cpu": True, "logging_strategy": "no"}


def new_image_model(**options: Any) -> ImageTokeniser:
    torch.manual_seed(0)
    sizes = {"image_size": 8, "hidden_size": 16, "codes": 16, "code_size": 4}
    return ImageTokeniser(ImageTokeniserConfig(**{**sizes, **options}))


def mosaics(count: int) -> Tensor:
    """(count, 1, 8, 8): four patches, each one of five patterns, faintly noisy."""
    generator = torch.Generator().manual_seed(count)
    patterns = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0)).round()
    chosen = patterns[torch.randint(5, (count, 2, 2), generator=generator)]  # (count, 2, 2, 4, 4)
    noise = 0.05 * torch.rand(count, 8, 8, generator=generator)
    return (0.9 * chosen.transpose(2, 3).reshape(count, 8, 8) + noise)[:, None]


def test_pictures_are_learnt(tmp_path: Path) -> None:
    model, data, unseen = new_image_model(), mosaics(256), mosaics(64)
    run = train_tokeniser(model, data, folder=tmp_path, steps=60, batch_size=16, learning_rate=1e-2, trainer=QUIET)
    assert run.steps == 60
    assert not model.training
    mean_picture = (unseen - data.mean(0)).square().mean()
    error = (model.decode(model.encode(unseen)) - unseen).square().mean()
    assert error < 0.2 * mean_picture
    assert model(unseen).reconstruction_loss < 0.2
    assert model(unseen).perplexity > 4


def test_speech_is_learnt(tmp_path: Path) -> None:
    """Rows of unlike lengths, of vowels that last two tokens each."""
    torch.manual_seed(0)
    sizes = {"num_mel_bins": 5, "frames_per_token": 4, "hidden_size": 16, "codes": 8, "code_size": 4}
    model = SpeechTokeniser(SpeechTokeniserConfig(**sizes))
    vowels, generator = frames(1, 4, seed=7)[0], torch.Generator().manual_seed(0)
    data = [
        vowels[torch.randint(4, (length,), generator=generator)].repeat_interleave(8, 0)[: 8 * length - 1]
        + 0.1 * torch.randn(8 * length - 1, 5, generator=generator)
        for length in (2, 5, 3, 1, 4, 6) * 8
    ]
    train_tokeniser(model, data, folder=tmp_path, steps=60, batch_size=16, learning_rate=1e-2, trainer=QUIET)
    assert model.encode(data[1][None])[1].tolist() == [10]
    output = model(data[1][None])
    assert output.reconstruction_loss < 0.2  # the mean frame's is 1


class Killed(Exception):
    pass


@pytest.mark.parametrize("kind", ["image", "speech"])
def test_a_killed_training_goes_on_bit_for_bit(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes restart all the time, at random: random numbers and codebook must be those of the checkpoint."""
    step, steps = MixerTrainer.training_step, []

    def die_at_eight(self: MixerTrainer, *args: Any, **kwargs: Any) -> Tensor:
        if self.state.global_step == 8 and len(steps) == 8:
            raise Killed
        steps.append(self.state.global_step)
        return step(self, *args, **kwargs)

    def train(folder: str) -> dict[str, Tensor]:
        model = image_model(vq_restart=0.5) if kind == "image" else speech_model(vq_restart=0.5)
        model.quantiser.reset_parameters()
        data = pictures(20) if kind == "image" else [frames(1, 5 + i, seed=i)[0] for i in range(20)]
        options: Any = {"steps": 12, "batch_size": 4, "save_steps": 5, "trainer": QUIET}
        train_tokeniser(model, data, folder=tmp_path / folder, **options)
        return model.state_dict()

    whole = train("whole")
    monkeypatch.setattr(MixerTrainer, "training_step", die_at_eight)
    with pytest.raises(Killed):
        train("killed")
    again = train("killed")
    assert steps == [*range(8), *range(5, 12)]
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name


def test_a_trained_model_keeps_its_scale(tmp_path: Path) -> None:
    model = image_model(num_channels=1)
    mean = model.scale.mean.clone()
    train_tokeniser(model, mosaics(8), folder=tmp_path, steps=1, batch_size=4, trainer=QUIET)
    assert torch.equal(model.scale.mean, mean)


def test_scores_of_pictures_equal_a_loop() -> None:
    model, data = image_model(), pictures(7, seed=5)
    squares, scaled, tokens = [], [], []
    for picture in data:
        tokens.append(model.encode(picture[None])[0])
        error = model.decode(tokens[-1][None])[0] - picture
        squares.append(error.square().mean().item())
        scaled.append((error / model.scale.deviation[:, None, None]).square().mean().item())
    for batch_size in (3, 100):
        found = score_tokeniser(model, data, batch_size=batch_size)
        assert found.error == pytest.approx(sum(squares) / 7, rel=1e-5)
        assert found.scaled_error == pytest.approx(sum(scaled) / 7, rel=1e-5)
        assert found.used == len(torch.cat(tokens).unique())
        assert found.perplexity == pytest.approx(code_perplexity(torch.cat(tokens), 12).item())


def test_scores_of_speech_equal_a_loop() -> None:
    model, data = speech_model(), [frames(1, length, seed=length)[0] for length in (9, 1, 4, 17)]
    squares, count, tokens = 0.0, 0, []
    for row in data:
        tokens.append(model.encode(row[None])[0][0])
        squares += (model.decode(tokens[-1][None])[0, : len(row)] - row).square().sum().item()
        count += row.numel()
    for batch_size in (3, 100):
        found = score_tokeniser(model, data, batch_size=batch_size)
        assert found.error == pytest.approx(squares / count, rel=1e-5)
        assert found.used == len(torch.cat(tokens).unique())


def test_spectrograms_start_elsewhere_in_each_epoch() -> None:
    data = [torch.arange(float(length))[:, None] for length in (20, 3, 1)]
    rows, starts = _Rows(data, spread=4, seed=0), []
    for epoch in range(40):
        rows.set_epoch(epoch)
        starts.append([int(rows[i][0]) for i in range(3)])
        assert starts[-1] == [int(rows[i][0]) for i in range(3)]
        assert all(torch.equal(rows[i], data[i][starts[-1][i] :]) for i in range(3))
    assert [set(column) for column in zip(*starts, strict=True)] == [{0, 1, 2, 3}, {0, 1, 2}, {0}]
    whole = _Rows(data, spread=1, seed=0)
    assert all(whole[i] is data[i] for i in range(3))


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data: expected at least one row, found none"):
        train_tokeniser(new_image_model(), torch.zeros(0, 1, 8, 8), folder=tmp_path)
    with pytest.raises(ValueError, match=r"pixels: expected shape \(B, num_channels=1, image_size=8, 8\)"):
        train_tokeniser(new_image_model(), torch.zeros(4, 1, 9, 9), folder=tmp_path, trainer=QUIET)
    with pytest.raises(ValueError, match=r"data: expected pictures of one shape, found \[\(1, 8, 8\), \(1, 9, 9\)\]"):
        train_tokeniser(new_image_model(), [torch.zeros(1, 8, 8), torch.zeros(1, 9, 9)], folder=tmp_path)
    with pytest.raises(ValueError, match=r"data: expected rows of shape \(T, num_mel_bins=5\), found \(4, 6\)"):
        score_tokeniser(speech_model(), [torch.zeros(4, 5), torch.zeros(4, 6)])
    with pytest.raises(ValueError, match="data: expected at least one row, found none"):
        score_tokeniser(speech_model(), [])
