"""Weight decay on matrices alone, and the largest logits in the log."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenmix.mixers.attention import HeadGroupAttention
from tokenmix.models import MixerConfig, MixerForCausalLM
from tokenmix.training import MixerTrainer, Trained, TrainingConfig, train_or_resume

MIXERS = {
    "a": {"mixer": "attention", "heads": 2, "bias": True, "monitor": True},
    "l": {"mixer": "ls_attention", "heads": 2, "long_heads": 1, "window": 4, "monitor": True},
    "g": {"mixer": "gam", "slots": 4, "memory": "written"},
    "m": {"mixer": "mamba", "state_size": 4},
    "n": {"mixer": "mamba2", "state_size": 4, "head_dim": 8},
}


def build(pattern: str, **options: Any) -> MixerForCausalLM:
    torch.manual_seed(0)
    mixers = {letter: MIXERS[letter] for letter in sorted(set(pattern))}
    return MixerForCausalLM(MixerConfig(vocab_size=11, hidden_size=16, mixers=mixers, pattern=pattern, **options))


def rows(count: int) -> list[dict[str, Tensor]]:
    ids = torch.randint(0, 11, (count, 12), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in ids]


def train(model: MixerForCausalLM, folder: Path, **options: Any) -> Trained:
    trainer = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    config = TrainingConfig(**{"steps": 6, "batch_size": 4, "warmup_steps": 0, "trainer": trainer, **options})
    return train_or_resume(model, config, folder, train_dataset=rows(64))


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_only_matrices_decay(tmp_path: Path, norm: str) -> None:
    model = build("alngm", norm=norm, feed_forward="gelu", feed_forward_bias=True, tie_word_embeddings=False)
    config = TrainingConfig(weight_decay=0.25, trainer={"use_cpu": True})
    optimizer = MixerTrainer(model=model, args=config.arguments(tmp_path)).create_optimizer()
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    names = {name: decay.pop(id(parameter)) for name, parameter in model.named_parameters()}
    assert decay == {}
    assert set(names.values()) == {0.0, 0.25}

    def ends(decays: bool) -> set[str]:
        return {".".join(name.split(".")[-2:]) for name, value in names.items() if (value > 0) == decays}

    norms = {"mixer_norm.weight", "feed_forward_norm.weight", "norm.weight"}
    norms |= {name.replace("weight", "bias") for name in norms} if norm == "layernorm" else set()
    inside = {"mixer.A_log", "mixer.D", "mixer.dt_bias", "mixer.log_prior", "conv1d.bias", "dt_proj.bias"}
    biases = {f"{name}_proj.bias" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    assert ends(decays=False) == norms | inside | biases
    projections = ("q", "k", "v", "o", "gate", "value", "up", "down", "in", "x", "dt", "out")
    matrices = {f"{name}_proj.weight" for name in projections} | {"mixer.memory", "conv1d.weight"}
    assert {name for name in ends(decays=True) if "embed" not in name and "head" not in name} == matrices


def test_decay_reaches_the_weights(tmp_path: Path) -> None:
    """With a learning rate of 0.5 and almost no gradient, a matrix shrinks by 1 - 0.5 * 0.25 and a norm stays."""
    model = build("a")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    options: Any = {"weight_decay": 0.25, "learning_rate": 0.5, "schedule": "constant", "steps": 1}
    trainer = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "adam_epsilon": 1e9}  # no gradient step
    train(model, tmp_path, trainer=trainer, **options)
    after = dict(model.named_parameters())
    weight, norm = "model.stack.layers.0.mixer.q_proj.weight", "model.stack.layers.0.mixer_norm.weight"
    torch.testing.assert_close(after[weight], before[weight] * 0.875, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(after[norm], before[norm], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_max_logits_in_the_log(tmp_path: Path, accumulation: int) -> None:
    """Each line holds the largest of all forwards since the line before, under the number of the layer."""
    model = build("naln")
    calls: list[dict[str, float]] = []

    def keep(layer: int, mixer: HeadGroupAttention) -> None:
        values = {f"max_logit/{layer}/{kind}": value for kind, value in mixer.max_logit_by_window().items()}
        calls.append(values)

    for layer, mixer in enumerate(model.stack.mixers):
        if isinstance(mixer, HeadGroupAttention):
            mixer.register_forward_hook(lambda module, *_, layer=layer: keep(layer, module))
    run = train(model, tmp_path, accumulation=accumulation, log_steps=3, learning_rate=0.02)
    forwards = [a | b for a, b in zip(calls[::2], calls[1::2], strict=True)]  # two monitored layers
    assert len(forwards) == 6 * accumulation
    lines = [line for line in run.history if "loss" in line]
    assert [line["step"] for line in lines] == [3, 6]
    for line, since in zip(lines, (forwards[: len(forwards) // 2], forwards[len(forwards) // 2 :]), strict=True):
        found = {key: value for key, value in line.items() if key.startswith("max_logit/")}
        keys = ["max_logit/1/all", "max_logit/2/4", "max_logit/2/all"]
        assert found == {key: max(call[key] for call in since) for key in keys}
    assert not any(key.startswith("max_logit/") for line in run.history if "loss" not in line for key in line)


def test_no_logits_without_monitors(tmp_path: Path) -> None:
    run = train(build("n"), tmp_path, steps=2, log_steps=1)
    assert len([line for line in run.history if "loss" in line]) == 2
    assert not any(key.startswith("max_logit/") for line in run.history for key in line)
