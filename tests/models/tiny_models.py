"""Tiny models whose mistakes show: large random weights and biases, untied embeddings."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tokenmix.models import (
    MixerConfig,
    MixerForCausalLM,
    MixerForMaskedLM,
    MixerForQuestionAnswering,
    MixerForSequenceClassification,
    MixerForTokenClassification,
)

VOCABULARY = 61
ATTENTION = {"mixer": "attention", "heads": 4, "kv_heads": 2, "rope": True, "bias": True}
MAMBA = {"mixer": "mamba", "state_size": 4}
MAMBA2 = {"mixer": "mamba2", "state_size": 8, "head_dim": 8, "groups": 2, "chunk": 4}
STACKS: dict[str, tuple[dict[str, Any], str]] = {
    "attention": ({"a": ATTENTION}, "aa"),
    "sliding_window": ({"s": {"mixer": "sliding_window", "heads": 4, "window": 4, "rope": True}}, "ss"),
    "ls_attention": ({"l": {"mixer": "ls_attention", "heads": 4, "long_heads": 1, "window": 3, "bias": True}}, "ll"),
    "gam": ({"g": {"mixer": "gam", "slots": 8}}, "gg"),
    "gam_written": ({"g": {"mixer": "gam", "slots": 8, "memory": "written"}}, "gg"),
    "linear_attention": ({"k": {"mixer": "linear_attention", "heads": 4}}, "kk"),
    "mamba": ({"m": MAMBA}, "mm"),
    "mamba2": ({"m": MAMBA2}, "mm"),
    "hybrid": ({"m": MAMBA2, "a": ATTENTION}, "mma"),
}
BOTH_WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "bi_attention": ({"a": {**ATTENTION, "causal": False}}, "aa"),
    "bi_window": ({"s": {"mixer": "sliding_window", "heads": 4, "window": 3, "rope": True, "causal": False}}, "ss"),
    "bi_ls": ({"l": {"mixer": "ls_attention", "heads": 4, "long_heads": 1, "window": 3, "causal": False}}, "ll"),
    "bi_linear": ({"k": {"mixer": "linear_attention", "heads": 4, "causal": False}}, "kk"),
    "bi_hybrid": ({"g": {"mixer": "gam", "slots": 8, "causal": False}, "a": {**ATTENTION, "causal": False}}, "ga"),
}
MIXED = {"half_causal": ({"m": MAMBA2, "a": {**ATTENTION, "causal": False}}, "mam")}  # reads the future, if not at once
HEADS: dict[str, Any] = {
    "causal_lm": MixerForCausalLM,
    "masked_lm": MixerForMaskedLM,
    "rows": MixerForSequenceClassification,
    "tokens": MixerForTokenClassification,
    "spans": MixerForQuestionAnswering,
}


def build(name: str = "hybrid", model: type[PreTrainedModel] = MixerForCausalLM, **options: Any) -> Any:
    """A model in eval mode with weights far from those at the start."""
    mixers, pattern = {**STACKS, **BOTH_WAYS, **MIXED}[name]
    settings = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "tie_word_embeddings": False}
    torch.manual_seed(0)
    return randomize(model(MixerConfig(mixers=mixers, pattern=pattern, **{**settings, **options}))).eval()


def randomize(model: torch.nn.Module) -> Any:
    """Every parameter normal with standard deviation 0.3, norms around 1, decays long enough to matter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name else -2.0 if name.endswith("A_log") else 0.0
            parameter.normal_(centre, 0.3)
    return model


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    """(batch, length) random tokens, never 0, from which `generate` would infer padding."""
    return torch.randint(1, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def left_padded(lengths: list[int], seed: int = 1) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Rows padded on the left with junk tokens, their attention mask, and the rows alone."""
    longest = max(lengths)
    padded = tokens(len(lengths), longest, seed)
    mask = (torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]).long()
    return padded, mask, [row[longest - length :][None] for row, length in zip(padded, lengths, strict=True)]


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Equal up to a tolerance that is absolute and relative."""
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
