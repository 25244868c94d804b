"""Small mixtures for the tests."""

from typing import Any

import torch
from torch import Tensor

from tokenmix.models import MixtureOfTransformersConfig, MixtureOfTransformersForCausalLM

TEXT, IMAGE, SPEECH = 20, 16, 8
DISCRETE = {"text": {"vocab_size": TEXT}, "image": {"vocab_size": IMAGE}, "speech": {"vocab_size": SPEECH}}
ATTENTION = {"a": {"mixer": "attention", "heads": 4, "rope": True}}
MAMBA = {"m": {"mixer": "mamba2", "head_dim": 8, "state_size": 8}}
STACKS: dict[str, dict[str, Any]] = {
    "attention": {"mixers": ATTENTION, "pattern": "aa"},
    "mamba2": {"mixers": MAMBA, "pattern": "mm"},
    "hybrid": {"mixers": ATTENTION | MAMBA, "pattern": "ma"},
}


def settings(**fields: Any) -> MixtureOfTransformersConfig:
    common = {"hidden_size": 16, "intermediate_size": 24, "modalities": DISCRETE, **STACKS["attention"]}
    return MixtureOfTransformersConfig(**{**common, **fields})


def build(seed: int = 0, **fields: Any) -> MixtureOfTransformersForCausalLM:
    """In float64, moved a little from its start."""
    torch.manual_seed(seed)
    model = MixtureOfTransformersForCausalLM(settings(**fields)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tokens(rows: int = 2, length: int = 12, seed: int = 0, vocabulary: int = TEXT + IMAGE + SPEECH) -> Tensor:
    return torch.randint(vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))
