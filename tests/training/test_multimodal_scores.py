"""Scores and costs of the multimodal recipe."""

import math
from typing import Any

import pytest
import torch

from tokenmix.data.modality_rows import TEXT_TOKENS, ModalityRows, PairTokens
from tokenmix.models import MixtureOfTransformersConfig, MixtureOfTransformersForCausalLM
from tokenmix.training import RunResult, TrainingConfig, train_or_resume
from tokenmix.training.multimodal_data import from_patches, to_patches
from tokenmix.training.multimodal_report import curve, plot_modalities, plot_pictures, shares
from tokenmix.training.multimodal_score import (
    ModalityTrainer,
    collate_modalities,
    draw_pictures,
    first_words,
    flops_per_token,
    losses_by_modality,
    nearest_caption,
    share_to_reach,
    unigram_losses,
)


def pairs(count: int = 12) -> PairTokens:
    generator = torch.Generator().manual_seed(0)
    return PairTokens([f"sign {i % 3}" for i in range(count)], torch.randint(4, (count, 3), generator=generator), 4)


def model(tokens: PairTokens, **fields: Any) -> MixtureOfTransformersForCausalLM:
    torch.manual_seed(0)
    mixers = {"a": {"mixer": "attention", "heads": 2, "rope": True}}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "mixers": mixers, "num_hidden_layers": 1}
    return MixtureOfTransformersForCausalLM(
        MixtureOfTransformersConfig(modalities=tokens.modalities, **{**sizes, **fields})
    )


def test_share_to_reach() -> None:
    costs, losses = [1.0, 2.0, 3.0], [4.0, 2.0, 1.0]
    assert share_to_reach(costs, losses, 3.0, 3.0) == pytest.approx(0.5)
    assert share_to_reach(costs, losses, 1.0, 3.0) == pytest.approx(1.0)
    assert share_to_reach(costs, losses, 5.0, 3.0) == pytest.approx(1 / 3)
    assert math.isnan(share_to_reach(costs, losses, 0.5, 3.0))
    assert share_to_reach([1.0, 2.0, 3.0], [2.0, 3.0, 1.0], 2.0, 4.0) == 0.25  # where it first is there


def result(name: str, losses: list[float], seconds: float) -> RunResult:
    lines = [
        {"step": 10 * (i + 1), "seconds": seconds * (i + 1), "eval_text_loss": loss} for i, loss in enumerate(losses)
    ]
    return RunResult(name, {"tokens_per_step": 5.0, "flops_per_token": 2.0}, [{"step": 1, "loss": 9.0}, *lines])


def test_shares_of_the_dense_models_cost(tmp_path: Any) -> None:
    dense, mixture = result("dense", [3.0, 2.0], 1.0), result("mot", [2.0, 1.0], 1.5)
    assert curve(dense, "text", "flops") == ([100.0, 200.0], [3.0, 2.0])
    found = shares([dense, mixture], ["text"], "dense")
    assert found == {"mot": {"text_flops": 0.5, "text_seconds": 0.75}}
    plot_modalities(tmp_path / "losses.png", [dense, mixture], ["text"])
    plot_pictures(tmp_path / "pictures.png", ["a long caption of many words"] * 2, {"true": torch.rand(2, 1, 8, 8)})
    assert all((tmp_path / name).stat().st_size > 3000 for name in ("losses.png", "pictures.png"))


def test_frequencies_equal_counting() -> None:
    tokens = pairs()
    train, test = torch.arange(8), torch.arange(8, 12)
    spoken = PairTokens(tokens.captions, tokens.images, 4, [torch.tensor([i % 5]) for i in range(12)], 200)
    for given, names in ((tokens, ["text", "image"]), (spoken, ["text", "image", "speech"])):
        found = unigram_losses(given, train, test)
        assert list(found) == names
        counts = torch.bincount(tokens.images[train].flatten(), minlength=4) + 1.0
        expected = -(counts / counts.sum()).log()[tokens.images[test].flatten()].mean()
        assert found["image"] == pytest.approx(float(expected))
        rows = [given.row(i, names)[1:] for i in range(12)]
        seen, asked = (torch.cat(part) for part in (rows[:8], rows[8:]))
        counts = torch.bincount(seen[seen < TEXT_TOKENS], minlength=TEXT_TOKENS) + 1.0
        expected = -(counts / counts.sum()).log()[asked[asked < TEXT_TOKENS]].mean()
        assert found["text"] == pytest.approx(float(expected), rel=1e-5)


def test_losses_by_modality_do_not_depend_on_batches() -> None:
    tokens = pairs()
    net, rows = model(tokens), ModalityRows(tokens, torch.arange(12))
    whole, parts = losses_by_modality(net, rows, 12), losses_by_modality(net, rows, 5)
    assert whole == pytest.approx(parts, rel=1e-5)
    assert set(whole) == {"text", "image"}


def test_flops_are_equal_and_counted_by_token() -> None:
    tokens = pairs()
    rows = ModalityRows(tokens, torch.arange(4))
    batch = collate_modalities([rows[i] for i in range(4)])
    dense, mixture = flops_per_token(model(tokens, untied=False), batch), flops_per_token(model(tokens), batch)
    assert dense == mixture > 0
    net = model(tokens)
    linear = sum(p[0].numel() for p in net.parameters() if p.dim() == 3) + net.config.vocab_size * 16
    padded = batch["input_ids"].numel() / int(batch["attention_mask"].sum())
    assert 6 * linear < mixture / padded < 9 * linear  # twice forward, four times backward, attention beside


def test_evaluation_tells_each_modality(tmp_path: Any) -> None:
    tokens = pairs()
    net, rows = model(tokens), ModalityRows(tokens, torch.arange(12))
    config = TrainingConfig(
        steps=2, batch_size=4, warmup_steps=1, log_steps=1,
        trainer={"eval_strategy": "steps", "eval_steps": 2, "remove_unused_columns": False, "disable_tqdm": True},
    )  # fmt: skip
    run = train_or_resume(
        net, config, tmp_path, trainer_class=ModalityTrainer, train_dataset=rows, eval_dataset=rows,
        data_collator=collate_modalities,
    )  # fmt: skip
    line = next(line for line in run.history if "eval_text_loss" in line)
    expected = losses_by_modality(net, ModalityRows(tokens, torch.arange(12)))
    assert line["eval_text_loss"] == pytest.approx(expected["text"], rel=1e-5)
    assert line["eval_image_loss"] == pytest.approx(expected["image"], rel=1e-5)


@pytest.mark.parametrize("patches", [False, True])
def test_learns_pictures_of_captions_and_captions_of_pictures(patches: bool) -> None:
    """Three signs with a picture each: after training, captions draw theirs, and pictures say theirs."""
    torch.manual_seed(0)
    codes = torch.tensor([[0, 1, 2], [3, 3, 0], [1, 0, 3]])
    images = codes.float()[..., None].expand(-1, -1, 2) / 2 - 0.75 if patches else codes
    names = ["alpha x", "beta x", "gamma x"]
    tokens = PairTokens(names * 4, images.repeat(4, *[1] * (images.dim() - 1)), 1 if patches else 4)
    net, rows = model(tokens, hidden_size=32, num_hidden_layers=2), ModalityRows(tokens, torch.arange(12))
    optimiser = torch.optim.AdamW(net.train().parameters(), lr=5e-3)
    for epoch in range(400 if patches else 160):
        rows.set_epoch(epoch)
        optimiser.zero_grad()
        net(**collate_modalities([rows[i] for i in range(12)])).loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    assert first_words(net, tokens, [0, 1, 2]) == ["alpha", "beta", "gamma"]
    drawn = draw_pictures(net, tokens, [0, 1, 2], steps=12)
    assert drawn.shape == images.shape
    if patches:
        away = torch.cdist(drawn.flatten(1), images.flatten(1))
        assert away.argmin(1).tolist() == [0, 1, 2]
    else:
        assert (drawn == codes).float().mean() > 0.8
    assert nearest_caption(tokens.captions, torch.arange(3), 10) == 1


def test_patches_and_back() -> None:
    pictures = torch.rand(2, 3, 12, 12)
    patches = to_patches(pictures, 4)
    assert patches.shape == (2, 9, 48)
    assert patches.min() >= -1
    torch.testing.assert_close(from_patches(patches, 3, 12), pictures)
    torch.testing.assert_close(patches[:, 1], to_patches(pictures[..., :4, 4:8], 4)[:, 0])  # row by row of the grid
    assert from_patches(torch.full((1, 9, 48), 9.0), 3, 12).max() == 1


def test_patch_tokens_stand_behind_text() -> None:
    assert MixtureOfTransformersConfig(modalities=pairs().modalities).first_token("image") == TEXT_TOKENS
