"""They learn: eight utterances of tones to no error at all; the Trainer trains, evaluates and resumes each model."""

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from speech_cases import CAUSAL, STACKS, batch_of, samba_config, speech_config
from speech_tones import labels_of, texts, tone_batch, utterance
from torch import Tensor, nn

from tokenmix.models.speech import MixerForCTC, SambaASRForConditionalGeneration
from tokenmix.training import MixerTrainer, TrainingConfig, train_or_resume

TEXTS = texts()
BIGGER: dict[str, Any] = {"hidden_size": 32, "conv_size": 32, "intermediate_size": 64, "num_mel_bins": 20}


def spelled(logits: Tensor) -> list[list[int]]:
    return [[symbol for symbol, _ in groupby(row) if symbol] for row in logits.argmax(-1).tolist()]


def written(ids: Tensor) -> list[list[int]]:
    rows = []
    for row in ids[:, 1:].tolist():
        rows.append(row[: row.index(2)] if 2 in row else row)
    return rows


def steps_until(model: Any, right: Any, most: int, rate: float = 1e-2) -> int:
    """Steps of AdamW on all eight utterances until `right(model)`, asked every ten; most + 10 if never."""
    batch = tone_batch(TEXTS)
    model.encoder.fit_normaliser([batch])
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in range(0, most + 1, 10):
        model.eval()
        with torch.no_grad():
            if right(model):
                return step
        model.train()
        for _ in range(10):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return most + 10


@pytest.mark.parametrize("mixer", ["mamba2", "attention"])
def test_ctc_learns_eight_utterances(mixer: str) -> None:
    torch.manual_seed(0)
    model = MixerForCTC(speech_config(mixer, **BIGGER))
    audio = batch_of([utterance(text, seed) for seed, text in enumerate(TEXTS)])
    steps = steps_until(model, lambda m: spelled(m(**audio).logits) == TEXTS, 100)
    assert 0 < steps <= 100


@pytest.mark.parametrize("cross", ["mamba", "attention"])
def test_a_decoder_learns_eight_utterances(cross: str) -> None:
    """Written by `generate` from audio alone."""
    torch.manual_seed(0)
    options = {**BIGGER, "decoder_mixers": {"m": CAUSAL["mamba2"]}, "decoder_pattern": "m", "label_smoothing": 0.0}
    model = SambaASRForConditionalGeneration(samba_config(cross, mixers={"x": STACKS["mamba2"]}, **options))
    audio = batch_of([utterance(text, seed) for seed, text in enumerate(TEXTS)])
    steps = steps_until(model, lambda m: written(m.generate(**audio, max_new_tokens=7)) == TEXTS, 100)
    assert 0 < steps <= 100
    with torch.no_grad():  # beams and the CTC head agree, and the audio is what is written from
        assert written(model.generate(**audio, max_new_tokens=7, num_beams=3)) == TEXTS
        swapped = {name: value.flip(0) for name, value in audio.items()}
        assert written(model.generate(**swapped, max_new_tokens=7)) == TEXTS[::-1]


class Utterances(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Rows of samples and labels."""

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input_values": utterance(TEXTS[row], row), "labels": torch.tensor(TEXTS[row])}


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    labels = labels_of([row["labels"].tolist() for row in rows])
    return {**batch_of([row["input_values"] for row in rows]), "labels": labels}


def train(model: Any, folder: Path, steps: int = 2, **options: Any) -> list[dict[str, Any]]:
    config = TrainingConfig(steps=steps, batch_size=4, warmup_steps=0, log_steps=1, save_steps=1, **options)
    config.trainer = {"disable_tqdm": True, "eval_strategy": "steps", "eval_steps": 1, "use_cpu": True,
                      "gradient_checkpointing": True, "label_names": ["labels"]}  # fmt: skip
    data = Utterances()
    return train_or_resume(model, config, folder, train_dataset=data, eval_dataset=data, data_collator=collate).history


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")  # gradient_checkpointing: the name users know
@pytest.mark.parametrize("kind", ["ctc", "mamba", "attention"])
def test_the_trainer_trains(kind: str, tmp_path: Path) -> None:
    """Two steps with SpecAugment, dropout and checkpointing; stopped after one, the second is the same to the bit."""
    options: dict[str, Any] = {"dropout": 0.1, "time_masks": 1, "frequency_masks": 1, "frequency_mask_width": 3}

    def fresh() -> Any:
        torch.manual_seed(0)
        if kind == "ctc":
            return MixerForCTC(speech_config("mamba2", **options))
        return SambaASRForConditionalGeneration(samba_config(kind, **options))

    model = fresh()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    history = train(model, tmp_path / "whole")
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert len([line for line in history if "eval_loss" in line]) == 2
    losses = [line["loss"] for line in history if "loss" in line]
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)
    (tmp_path / "part").mkdir()
    (tmp_path / "whole" / "checkpoint-1").rename(tmp_path / "part" / "checkpoint-1")
    again = fresh()
    resumed = train(again, tmp_path / "part")
    assert [line["loss"] for line in resumed if "loss" in line] == losses
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name


def test_evaluation_keeps_no_cache(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SambaASRForConditionalGeneration(samba_config())
    arguments = TrainingConfig(steps=1, batch_size=4).arguments(tmp_path)
    trainer = MixerTrainer(model=model, args=arguments, data_collator=collate)
    found = trainer.predict(Utterances())
    logits = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
    assert logits.shape == (8, max(map(len, TEXTS)) + 1, model.config.vocab_size)
