"""The tokeniser of pictures: its loss and gradients, what moves its codebook, what it refuses, its life on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokeniser_cases import buffers, image_model, pictures, same
from torch import Tensor
from transformers import Trainer, TrainingArguments

from tokenmix.models.tokenisers import ImageTokeniser, ImageTokeniserConfig, code_perplexity


def test_loss_and_gradients_equal_the_equations() -> None:
    """In float64, from the public layers: the decoder's gradient is handed to the encoder as it is."""
    model, x = image_model().double(), pictures(3, seed=1).double()
    output = model(x)
    output.loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(found) == len(list(model.parameters()))
    model.zero_grad()
    mean, deviation = model.scale.mean[:, None, None], model.scale.deviation[:, None, None]
    scaled = (x - mean) / deviation
    q = model.code_in(model.encoder(model.patch_in(scaled)))
    codes = model.quantiser.codebook()[output.tokens].unflatten(1, (4, 4)).movedim(-1, 1).requires_grad_()
    y = model.patch_out(model.decoder(model.code_out(codes)))
    error = (y - scaled).square().mean()
    error.backward()
    commitment = (q.detach() - codes.detach()).square().mean()
    q.backward(codes.grad + 0.25 * 2 * (q.detach() - codes.detach()) / q.numel())
    assert output.loss.item() == pytest.approx((error + 0.25 * commitment).item(), rel=1e-10)
    assert output.reconstruction_loss.item() == pytest.approx(error.item(), rel=1e-10)
    assert output.commitment_loss.item() == pytest.approx(commitment.item(), rel=1e-10)
    torch.testing.assert_close(output.reconstruction, (y * deviation + mean).clamp(0, 1))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-8, atol=1e-12)


def test_tokens_pixels_and_their_shapes() -> None:
    model, x = image_model(), pictures(5)
    tokens, output = model.encode(x), model(x)
    assert (tokens.shape, tokens.dtype) == ((5, 16), torch.int64)
    assert torch.equal(output.tokens, tokens)
    assert output.perplexity.item() == code_perplexity(tokens, 12).item()
    pixels = model.decode(tokens)
    assert pixels.shape == x.shape
    assert pixels.aminmax().min >= 0
    assert pixels.aminmax().max <= 1
    torch.testing.assert_close(pixels, output.reconstruction)
    assert torch.equal(model.encode(x[2:3])[0], tokens[2])  # a picture does not know its batch
    assert model.encode(pixels).shape == tokens.shape


def test_tokens_stand_row_by_row() -> None:
    """Without layers between, a token is of its own patch alone."""
    model, x = image_model(), pictures(1)
    model.encoder = torch.nn.Sequential()  # type: ignore[assignment]
    other = x.clone()
    other[:, :, 2:4, 6:8] = 1 - other[:, :, 2:4, 6:8]  # row 1, column 3
    first, second = (model._vectors(model._scaled(value)).flatten(1, 2) for value in (x, other))
    assert (first != second).any(-1)[0].nonzero().flatten().tolist() == [7]


def test_only_a_forward_in_training_moves_the_codebook() -> None:
    model, x = image_model(), pictures(4, seed=3)
    before = buffers(model)
    model(x)
    model.encode(x)
    model.train()
    model.encode(x)
    model.decode(model.encode(x))
    assert same(buffers(model), before)
    model(x)
    assert not same(buffers(model), before)


def test_evaluation_by_the_trainer(tmp_path: Path) -> None:
    model, rows = image_model(), [{"pixels": x} for x in pictures(5, seed=3)]
    before = buffers(model)
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, per_device_eval_batch_size=2)
    trainer = Trainer(model.train(), arguments)
    losses = [model.eval()(pictures(5, seed=3)[i : i + 2]).loss.item() for i in (0, 2, 4)]
    expected = (2 * losses[0] + 2 * losses[1] + losses[2]) / 5
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert same(buffers(model), before)
    reconstruction, tokens = trainer.predict(rows).predictions
    assert (reconstruction.shape, tokens.shape) == ((5, 2, 8, 8), (5, 16))


def test_saved_and_loaded(tmp_path: Path) -> None:
    model, x = image_model(), pictures(4)
    model.save_pretrained(tmp_path)
    loaded = ImageTokeniser.from_pretrained(tmp_path)
    assert same(buffers(loaded), buffers(model))
    assert torch.equal(loaded.encode(x), model.encode(x))
    assert torch.equal(loaded.decode(model.encode(x)), model.decode(model.encode(x)))
    half = ImageTokeniser.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.patch_in.weight.dtype == torch.bfloat16
    assert same(buffers(half), buffers(model))  # in float32 all of them
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="expected safetensors weights"):
        ImageTokeniser.from_pretrained(tmp_path)


def test_bfloat16_is_near() -> None:
    model, x = image_model(), pictures(20)
    wide, tokens = model(x), model.encode(x)
    half = model.bfloat16()
    output = half(x)
    assert (output.tokens == tokens).float().mean() > 0.9
    assert output.reconstruction.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(wide.loss.item(), rel=0.02)
    assert model.quantiser.code.dtype == torch.float32
    half.train()(x).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in half.parameters())


def test_default_sizes() -> None:
    config = ImageTokeniserConfig()
    assert (config.num_tokens, config.codes, config.commitment_weight) == (64, 256, 0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 3}, "patch_size: expected a divisor of image_size=8, found 3"),
        ({"codes": 0}, "codes: expected a positive integer, found 0"),
        ({"num_channels": 0}, "num_channels: expected a positive integer, found 0"),
        ({"vq_decay": 1.0}, "vq_decay: expected at least 0 and below 1, found 1.0"),
        ({"vq_restart": 2.0}, "vq_restart: expected a share from 0 to 1, or None, found 2.0"),
        ({"commitment_weight": -1.0}, "commitment_weight: expected 0 or more, found -1.0"),
        ({"code_sizes": 4}, "code_sizes: not a field of ImageTokeniserConfig; did you mean 'code"),
    ],
)
def test_mistakes_in_the_config(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_model(**options)


@pytest.mark.parametrize(
    ("pixels", "error", "message"),
    [
        (pictures(1)[0], ValueError, r"pixels: expected shape \(B, num_channels=2, image_size=8, 8\), found \(2, 8, 8"),
        (pictures(1)[:, :1], ValueError, r"found \(1, 1, 8, 8\)"),
        (pictures(1)[..., 1:], ValueError, r"found \(1, 2, 8, 7\)"),
        (pictures(0), ValueError, "pixels: expected at least one picture, found none"),
        (255 * pictures(1), ValueError, "pixels: expected numbers from 0 to 1, found"),
        (pictures(1) / 0, ValueError, "pixels: expected numbers from 0 to 1, found inf"),
        (pictures(1) * float("nan"), ValueError, "pixels: expected numbers from 0 to 1, found nan"),
        ((255 * pictures(1)).byte(), TypeError, "pixels: expected floats from 0 to 1, found torch.uint8"),
    ],
)
def test_mistakes_in_the_pixels(pixels: Tensor, error: type[Exception], message: str) -> None:
    model = image_model()
    for call in (model, model.encode, model.fit_scale):
        with pytest.raises(error, match=message):
            call(pixels)


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (torch.zeros(1, 15).long(), ValueError, "tokens: expected num_tokens=16 a row, found 15"),
        (torch.zeros(16).long(), ValueError, r"tokens: expected shape \(B, T\)"),
        (torch.zeros(0, 16).long(), ValueError, r"tokens: expected shape \(B, T\)"),
        (torch.zeros(1, 16), TypeError, "tokens: expected integers, found torch.float32"),
        (torch.full((1, 16), 12), ValueError, "tokens: expected 0 to codes - 1 = 11, found 12"),
        (torch.full((1, 16), -1), ValueError, "tokens: expected 0 to codes - 1 = 11, found -1"),
    ],
)
def test_mistakes_in_the_tokens(tokens: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        image_model().decode(tokens)
