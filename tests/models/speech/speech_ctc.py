"""CTC by enumeration: every path there is, in float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor


def spelled(path: tuple[int, ...], blank: int) -> list[int]:
    """A path's text: repeated symbols as one, then without blanks."""
    return [symbol for symbol, _ in itertools.groupby(path) if symbol != blank]


def naive_loss(logits: Tensor, length: int, text: list[int], blank: int) -> float:
    """-log sum over all paths that spell the text, a label; 0 where there is none. Float64, (T, V) logits."""
    chances = logits[:length].detach().double().softmax(-1)
    total = 0.0
    for path in itertools.product(range(logits.shape[1]), repeat=length):
        if spelled(path, blank) == text:
            total += math.prod(float(chances[t, symbol]) for t, symbol in enumerate(path))
    return -math.log(total) / max(len(text), 1) if total > 0 else 0.0


def padded(texts: list[list[int]]) -> Tensor:
    longest = max(map(len, texts))
    return torch.tensor([text + [-100] * (longest - len(text)) for text in texts])


def check_ctc_loss(loss_of: Any, blank: int) -> None:
    """The loss of nine rows, and of each alone, equals that over all paths; rows that fit nowhere count as 0."""
    torch.manual_seed(blank)
    a, b, c = (symbol for symbol in range(4) if symbol != blank)
    texts = [[a, b], [a, a], [a, b, c, b], [], [b, b, b], [c], [], [a], [a, b, a]]
    lengths = torch.tensor([5, 3, 4, 4, 4, 1, 1, 0, 5])  # "bbb" needs five tokens, and "a" needs one
    logits = 2 * torch.randn(len(texts), 5, 4)
    expected = [
        naive_loss(row, int(length), text, blank) for row, length, text in zip(logits, lengths, texts, strict=True)
    ]
    assert expected[4] == expected[7] == 0
    loss = loss_of(logits, lengths, padded(texts), blank)
    assert loss.item() == pytest.approx(sum(expected) / len(texts), rel=1e-5)
    for row, value in enumerate(expected):
        alone = loss_of(logits[row : row + 1], lengths[row : row + 1], padded([texts[row], [a]])[:1], blank)
        assert alone.item() == pytest.approx(value, rel=1e-5, abs=1e-6)
