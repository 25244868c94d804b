"""Training with the Hugging Face Trainer: it learns, resumes exactly, and accumulates gradients exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import MAMBA2, VOCABULARY, assert_close, tokens
from torch import Tensor
from transformers import Trainer, TrainingArguments

from tokenmix.models import MixerConfig, MixerForCausalLM

MIXERS = {"m": MAMBA2, "a": {"mixer": "attention", "heads": 4}}


def rows(count: int) -> list[dict[str, Tensor]]:
    """Rows that repeat four tokens, with a varying number of labels."""
    data = []
    for i in range(count):
        ids = tokens(1, 4, seed=i % 3)[0].repeat(4)
        data.append({"input_ids": ids, "labels": torch.where(torch.arange(16) < 4 + 3 * (i % 4), ids, -100)})
    return data


def train(folder: Path, resume: str | None = None, **options: Any) -> tuple[MixerForCausalLM, Trainer]:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48}
    model = MixerForCausalLM(MixerConfig(mixers=MIXERS, pattern="ma", dropout=options.pop("dropout", 0.1), **sizes))
    settings: dict[str, Any] = {
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 3e-3,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    arguments = TrainingArguments(output_dir=str(folder), **{**settings, **options})
    trainer = Trainer(model=model, args=arguments, train_dataset=rows(32))
    trainer.train(resume_from_checkpoint=resume)
    return model, trainer


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")  # gradient_checkpointing: the name users know
def test_resume_is_exact(tmp_path: Path) -> None:
    """Dropout, gradient checkpointing and accumulation on: the second half again gives the same weights, bit by bit."""
    options = {"save_strategy": "steps", "save_steps": 3, "gradient_checkpointing": True}
    options |= {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    whole, trainer = train(tmp_path, **options)
    assert losses(trainer)[-1] < losses(trainer)[0] - 0.1
    again, _ = train(tmp_path, resume=str(tmp_path / "checkpoint-3"), **options)
    for (name, a), b in zip(whole.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_gradient_accumulation_is_exact(tmp_path: Path) -> None:
    """Rows have different numbers of labels: averages of averages would differ."""
    options = {"optim": "sgd", "learning_rate": 0.5, "max_steps": 3, "dropout": 0.0}
    whole, trainer = train(tmp_path, **options)
    parts, other = train(tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=4, **options)
    assert losses(other) == pytest.approx(losses(trainer), abs=2e-4)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert_close(a, b, 1e-5)


def test_evaluation_returns_no_cache(tmp_path: Path) -> None:
    _, trainer = train(tmp_path, max_steps=1)
    metrics = trainer.evaluate(rows(4))
    assert 0 < metrics["eval_loss"] < 10
    assert trainer.predict(rows(4)).predictions.shape == (4, 16, VOCABULARY)


def test_label_smoothing_shifts_the_labels(tmp_path: Path) -> None:
    """Trainer shifts them for the language models it knows; unshifted, a model learns to copy its input."""
    torch.manual_seed(0)
    config = MixerConfig(hidden_size=32, mixers={"a": {"mixer": "attention", "heads": 4}}, pattern="a", vocab_size=16)
    model = MixerForCausalLM(config)
    rows = torch.randint(16, (64, 12))
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=60,
        learning_rate=1e-2,
        label_smoothing_factor=0.1,
        report_to="none",
        save_strategy="no",
    )
    Trainer(model, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in rows]).train()
    copied = (model(rows).logits.argmax(-1) == rows).float().mean()
    assert copied < 0.3


def test_generation_under_autocast() -> None:
    """The cache is narrower than the parameters; it must be read as it was written."""
    torch.manual_seed(0)
    for name in ("attention", "ls_attention"):
        config = MixerConfig(hidden_size=32, mixers={"a": {"mixer": name, "heads": 4}}, pattern="aa", vocab_size=16)
        model = MixerForCausalLM(config).eval()
        with torch.autocast("cpu", torch.bfloat16):
            assert model.generate(torch.randint(1, 16, (2, 5)), max_new_tokens=6, do_sample=False).shape == (2, 11)
