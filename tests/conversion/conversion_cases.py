"""Tiny models with tokenizers on disk, and a text, as a user would have them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.utils import logging

from tokenmix.data import byte_tokenizer, train_bpe

logging.set_verbosity_error()  # untrained weights are no news here
logging.disable_progress_bar()

TEXT = "".join(f"{i} and {i * i} make {i + i * i}.\n" for i in range(700))
SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 256, "tie_word_embeddings": False,
}  # fmt: skip
FAMILIES = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {"num_key_value_heads": 2}),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {"rotary_pct": 0.5}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {"num_key_value_heads": 2}),
}


def write_text(folder: Path) -> Path:
    """A text file in a folder."""
    path = folder / "text.txt"
    path.write_text(TEXT)
    return path


def write_model(folder: Path, family: str = "llama") -> Path:
    """A model and its tokenizer: bytes for Llama, byte-pair encoding for the others."""
    tokenizer = byte_tokenizer() if family == "llama" else train_bpe(TEXT.encode(), 300)
    # room for the special tokens that a family's own tokenizer class adds
    build(family, len(tokenizer) + 8).save_pretrained(folder / family)
    tokenizer.save_pretrained(folder / family)
    return folder / family


def build(family: str = "llama", vocabulary: int = 300) -> PreTrainedModel:
    """A model whose predictions are far from uniform."""
    model_class, config_class, options = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(vocab_size=vocabulary, **SIZES, **options)
    model = getattr(transformers, model_class)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.15)
    return model
