"""The tokeniser of speech: padding that nothing knows of, lengths, the way from and to audio, what it refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tokeniser_cases import buffers, frames, same, speech_model
from torch import Tensor

from tokenmix.models.speech import SpeechConfig, SpeechModel
from tokenmix.models.tokenisers import SpeechTokeniser, SpeechTokeniserConfig

LENGTHS = [17, 4, 0, 9, 1]
NAN = float("nan")


def batch(garbage: float, longer: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of LENGTHS frames, and something else behind them."""
    rows, lengths = frames(5, 17 + longer, seed=4), torch.tensor(LENGTHS)
    rows[:, :17] = frames(5, 17, seed=4)
    behind = torch.arange(17 + longer) >= lengths[:, None]
    return rows.masked_fill(behind[..., None], garbage), lengths


def test_padding_changes_no_token_and_no_frame() -> None:
    model = speech_model()
    clean, lengths = batch(0.0)
    tokens, counts = model.encode(clean, lengths)
    assert counts.tolist() == [5, 1, 0, 3, 1]
    assert torch.equal(tokens >= 0, torch.arange(5) < counts[:, None])
    heard = model.decode(tokens)
    for garbage, longer in ((1e6, 0), (NAN, 0), (-float("inf"), 0), (NAN, 6)):
        dirty, _ = batch(garbage, longer)
        found, found_counts = model.encode(dirty, lengths)
        assert torch.equal(found[:, :5], tokens)
        assert (found[:, 5:] == -1).all()
        assert torch.equal(found_counts, counts)
        torch.testing.assert_close(model.decode(found)[:, :20], heard)
    for row, length in enumerate(LENGTHS):
        if length:
            alone, _ = model.encode(clean[row : row + 1, :length])
            assert torch.equal(alone[0], tokens[row, : counts[row]])
            torch.testing.assert_close(model.decode(alone)[0], heard[row, : 4 * counts[row]])
        assert not heard[row, 4 * counts[row] :].any()


def test_padding_changes_neither_loss_nor_gradient_nor_codebook() -> None:
    lengths = torch.tensor(LENGTHS)
    expected = None
    for garbage, longer in ((0.0, 0), (1e6, 0), (NAN, 0), (NAN, 6)):
        model = speech_model().train()
        torch.manual_seed(1)
        output = model(batch(garbage, longer)[0], lengths)
        output.loss.backward()
        found = [output.loss.detach(), output.perplexity, *buffers(model).values()]
        found += [parameter.grad for parameter in model.parameters()]
        expected = found if expected is None else expected
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert not same(buffers(speech_model()), buffers(model))


def test_the_loss_is_the_mean_over_real_frames() -> None:
    model, (features, lengths) = speech_model(), batch(NAN)
    output = model(features, lengths)
    squares, distances, count, tokens = 0.0, 0.0, 0, 0
    for row, length in enumerate(LENGTHS):
        if not length:
            continue
        alone = model(features[row : row + 1, :length])
        error = (alone.reconstruction - features[row, :length]) / model.scale.deviation
        assert error.square().mean().item() == pytest.approx(alone.reconstruction_loss.item(), rel=1e-4)
        squares += length * alone.reconstruction_loss.item()
        distances += alone.tokens.numel() * alone.commitment_loss.item()
        count, tokens = count + length, tokens + alone.tokens.numel()
        torch.testing.assert_close(output.reconstruction[row, :length], alone.reconstruction[0], rtol=1e-4, atol=1e-4)
    assert output.reconstruction_loss.item() == pytest.approx(squares / count, rel=1e-4)
    assert output.commitment_loss.item() == pytest.approx(distances / tokens, rel=1e-4)
    assert output.loss.item() == pytest.approx(squares / count + 0.25 * distances / tokens, rel=1e-4)
    assert output.token_lengths.tolist() == [5, 1, 0, 3, 1]


def test_the_scale_is_that_of_the_real_frames() -> None:
    model, (features, lengths) = speech_model(), batch(NAN)
    model.fit_scale(features, lengths)
    real = torch.cat([features[row, :length] for row, length in enumerate(LENGTHS)])
    torch.testing.assert_close(model.scale.mean, real.mean(0))
    torch.testing.assert_close(model.scale.deviation, real.std(0, correction=0))


def test_lengths_of_tokens_say_what_is_read() -> None:
    model = speech_model()
    tokens = torch.tensor([[3, 5, 7], [2, 4, 9999]])
    lengths = torch.tensor([3, 2])
    found = model.decode(tokens, lengths)
    assert torch.equal(found, model.decode(tokens.masked_fill(tokens > 12, -1)))
    torch.testing.assert_close(found[1, :8], model.decode(tokens[1:, :2])[0])


def test_evaluation_moves_nothing() -> None:
    model, (features, lengths) = speech_model(), batch(NAN)
    before = buffers(model)
    model(features, lengths)
    model.train().encode(features, lengths)
    assert same(buffers(model), before)
    model(features, lengths)
    assert not same(buffers(model), before)


def test_saved_and_loaded(tmp_path: Path) -> None:
    model, (features, lengths) = speech_model(), batch(0.0)
    model.save_pretrained(tmp_path)
    loaded = SpeechTokeniser.from_pretrained(tmp_path)
    assert same(buffers(loaded), buffers(model))
    assert torch.equal(loaded.encode(features, lengths)[0], model.encode(features, lengths)[0])


def test_bfloat16_is_near() -> None:
    model, features = speech_model(), frames(20, 40)
    wide = model(features)
    output = copy.deepcopy(model).bfloat16()(features)
    assert (output.tokens == wide.tokens).float().mean() > 0.9
    assert output.loss.item() == pytest.approx(wide.loss.item(), rel=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(features).loss.item() == pytest.approx(wide.loss.item(), rel=0.02)


# ---------------------------------------------------------------------- audio


def tones(count: int) -> Tensor:
    """(1, count) samples at 8 kHz of two tones that come and go."""
    time = torch.arange(count) / 8000
    return (0.3 * torch.sin(2764 * time) * (1 + torch.sin(30 * time)) + 0.1 * torch.sin(9000 * time))[None]


def test_frames_are_those_of_the_speech_encoder() -> None:
    pytest.importorskip("torchaudio", reason="log-Mel filters need torchaudio")
    model = SpeechTokeniser(SpeechTokeniserConfig(hidden_size=8))
    mixers = {"a": {"mixer": "attention", "heads": 2, "causal": False}}
    config = SpeechConfig(
        sampling_rate=8000, num_mel_bins=40, normalise="none", hidden_size=8, mixers=mixers, pattern="a"
    )
    samples = torch.cat([tones(8000), tones(8000).flip(1)])
    mask = torch.arange(8000) < torch.tensor([[8000], [4050]])
    features, lengths = model.features(samples, mask.long())
    assert lengths.tolist() == [100, 50]
    front_end = SpeechModel(config).front_end
    torch.testing.assert_close(features, front_end(samples.masked_fill(~mask, 0), lengths))
    torch.testing.assert_close(model.features(samples[:1])[0], features[:1])


def test_griffin_lim_gives_back_the_frames() -> None:
    pytest.importorskip("torchaudio", reason="Griffin-Lim is torchaudio's")
    model, samples = SpeechTokeniser(SpeechTokeniserConfig(hidden_size=8)), tones(8000)
    features, _ = model.features(samples)
    heard = model.waveform(features)
    assert heard.shape == (1, 8000)
    again, _ = model.features(heard.clamp(-1, 1))
    loud = features > features.max() - 5
    error = (again - features)[loud].square().mean().sqrt()
    assert error < 0.25 * features[loud].std()
    late = [(again[:, shift:] - features[:, : 100 - shift])[loud[:, : 100 - shift]].square().mean() for shift in (1, 2)]
    assert min(late) > 4 * error**2  # in its place
    with pytest.raises(ValueError, match=r"features: expected shape \(B, T, num_mel_bins=40\), found \(1, 100, 39\)"):
        model.waveform(features[..., 1:])


# ---------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames_per_token": 0}, "frames_per_token: expected a positive integer, found 0"),
        ({"hop_ms": 0.3}, "hop_ms: expected a whole number of samples at sampling_rate=8000"),
        ({"window_ms": 5}, "window_ms: expected at least hop_ms=10, found 5"),
        ({"log_floor": 0.0}, "log_floor: expected a positive number, found 0.0"),
        ({"patch_size": 4}, "patch_size: not a field of SpeechTokeniserConfig"),
    ],
)
def test_mistakes_in_the_config(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        speech_model(**options)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ((frames(1, 8)[0],), ValueError, r"features: expected shape \(B, T, num_mel_bins=5\), found \(8, 5\)"),
        ((frames(1, 8)[..., 1:],), ValueError, r"found \(1, 8, 4\)"),
        ((frames(1, 0),), ValueError, r"features: expected at least one row and frame, found \(1, 0, 5\)"),
        ((frames(1, 8).long(),), TypeError, "features: expected floats, found torch.int64"),
        ((frames(1, 8) / 0,), ValueError, "features: expected finite numbers, found NaN or infinity in a real frame"),
        ((frames(2, 8), torch.tensor([8])), ValueError, r"lengths: expected shape \(2,\), found \(1,\)"),
        ((frames(2, 8), torch.tensor([8, 9])), ValueError, "lengths: expected 0 to 8, found 9"),
        ((frames(2, 8), torch.tensor([8, -1])), ValueError, "lengths: expected 0 to 8, found -1"),
        ((frames(2, 8), torch.tensor([8.0, 1.0])), TypeError, "lengths: expected integers, found torch.float32"),
    ],
)
def test_mistakes_in_the_input(inputs: tuple[Any, ...], error: type[Exception], message: str) -> None:
    model = speech_model()
    for call in (model, model.encode, model.fit_scale):
        with pytest.raises(error, match=message):
            call(*inputs)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ((torch.tensor([[1, -1, 2]]),), ValueError, "tokens: expected -1 behind each row's end alone"),
        ((torch.tensor([[1, -1]]), torch.tensor([2])), ValueError, "tokens: expected -1 behind each row's end alone"),
        ((torch.tensor([[1, 12]]),), ValueError, "tokens: expected -1 to codes - 1 = 11, found 12"),
        ((torch.tensor([[1, -2]]),), ValueError, "tokens: expected -1 to codes - 1 = 11, found -2"),
        ((torch.tensor([1, 2]),), ValueError, r"tokens: expected shape \(B, T\)"),
        ((torch.tensor([[1.0]]),), TypeError, "tokens: expected integers, found torch.float32"),
        ((torch.tensor([[1, 2]]), torch.tensor([3])), ValueError, "token_lengths: expected 0 to 2, found 3"),
    ],
)
def test_mistakes_in_the_tokens(inputs: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        speech_model().decode(*inputs)
