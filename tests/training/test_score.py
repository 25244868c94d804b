"""Scores of a text equal a computation by hand, each token counted once."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tokenmix.data import TokenBlocks
from tokenmix.training import score_text

VOCABULARY = 7
TOKENS = torch.tensor([3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 0, 2, 6, 4, 1])


class Bigram(nn.Module):
    """Logits are a table's row at the last token, so no cut into blocks may change a score."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0)))
        self.calls: list[dict[str, Any]] = []

    def forward(self, input_ids: Tensor, **options: Any) -> SimpleNamespace:
        self.calls.append({"training": self.training, "grad": torch.is_grad_enabled(), **options})
        return SimpleNamespace(logits=self.table[input_ids])


def nats_by_hand(model: Bigram) -> float:
    table = model.table.detach().double()
    nats = 0.0
    for before, token in zip(TOKENS[:-1].tolist(), TOKENS[1:].tolist(), strict=True):
        weights = [math.exp(float(logit)) for logit in table[before]]
        nats -= math.log(weights[token] / sum(weights))
    return nats


@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize(("context", "overlap"), [(4, 1), (6, 1), (6, 4), (15, 1), (2, 1)])
def test_equals_a_computation_by_hand(context: int, overlap: int, batch_size: int) -> None:
    """Blocks that end early, overlap, or are the whole text; 1e-6 relative, for float32 logits."""
    model = Bigram()
    scores = score_text(model, TokenBlocks(TOKENS, context, overlap=overlap), batch_size)
    nats = nats_by_hand(model)
    assert scores["bits_per_byte"] == pytest.approx(nats / 14 / math.log(2), rel=1e-6)
    assert scores["perplexity"] == pytest.approx(math.exp(nats / 14), rel=1e-6)


def test_tokens_of_several_bytes() -> None:
    """Bits go by bytes, perplexity by tokens; the first token is context and its bytes do not count."""
    model = Bigram()
    lengths = torch.tensor([1, 2, 3, 10, 5, 6, 7])
    scores = score_text(model, TokenBlocks(TOKENS, 4, byte_lengths=lengths))
    size = sum(int(lengths[token]) for token in TOKENS[1:])
    assert scores["bits_per_byte"] == pytest.approx(nats_by_hand(model) / size / math.log(2), rel=1e-6)
    assert scores["perplexity"] == pytest.approx(math.exp(nats_by_hand(model) / 14), rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_mode_and_back(training: bool) -> None:
    model = Bigram().train(training)
    score_text(model, TokenBlocks(TOKENS, 4), batch_size=2)
    assert model.training is training
    assert model.calls == [{"training": False, "grad": False, "use_cache": False}] * 3
    assert model.table.grad is None


def test_packed_documents_reach_the_model() -> None:
    model = Bigram()
    segments = (torch.arange(15) >= 6).long()
    score_text(model, TokenBlocks(TOKENS, 15, segments=segments))
    assert torch.equal(model.calls[0]["segment_ids"], segments[None])
