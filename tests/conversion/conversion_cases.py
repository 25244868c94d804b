"""A tiny Llama, its text, and settings of a few steps, that the tests of conversion share."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tokenmix.conversion import ConversionConfig, StageConfig
from tokenmix.data import Corpus

LAYERS = {"0": {"mixer": "mamba2"}, "2": {"mixer": "ls_attention", "window": 4}}
SIZES = {
    "vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "tie_word_embeddings": False, "attention_bias": True, "max_position_embeddings": 256,
}  # fmt: skip


def build(config: Any = None, model: Any = LlamaForCausalLM) -> Any:
    """A model in eval mode whose weights and biases are all far from their start."""
    torch.manual_seed(0)
    made = model(config or LlamaConfig(**SIZES))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            norm = "norm" in name.lower() and name.endswith("weight")
            parameter.normal_(1.0 if norm else 0.0, 0.3 if norm else 0.15)
    return made.eval()


def numbers() -> Corpus:
    """The numbers up to 2,000, in words that repeat."""
    lines = "".join(f"the number {i} and then {i + 1}\n" for i in range(2000)).encode()
    return Corpus("numbers", lines[:40000], lines[40000:42000], lines[42000:44000], b"", "counted")


def tokens(batch: int = 2, length: int = 24, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (batch, length), generator=torch.Generator().manual_seed(seed))


def settings(output: Path | str, steps: tuple[int, int, int] = (3, 3, 3), **options: Any) -> ConversionConfig:
    """A conversion of few steps."""
    shared: dict[str, Any] = {
        "batch_size": 4, "context": 32, "warmup_steps": 1, "log_steps": 1, "save_steps": 100,
        "trainer": {"disable_tqdm": True},
    }  # fmt: skip
    hidden, logits, finetune = (StageConfig(**{**shared, "steps": n}) for n in steps)
    finetune.train = "all"
    measures = {"eval_context": 32, "eval_overlap": 4, "state_context": 40, "decode_tokens": 2, "decode_repeats": 1}
    return ConversionConfig(hidden, logits, finetune, output=str(output), **{**measures, **options})


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def run_cli(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tokenmix.cli", "convert", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
