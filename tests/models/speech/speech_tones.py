"""Utterances of tones: each symbol of a text is a pitch, said for a random time, with a little silence behind."""

from __future__ import annotations

import math

import torch
from speech_cases import RATE, batch_of
from torch import Tensor

SYMBOLS = 8  # 3 to 10; 0 is the blank, 1 and 2 begin and end texts


def utterance(text: list[int], seed: int) -> Tensor:
    """(N,) samples of a text of symbols 3 to 10."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for symbol in text:
        length = int(torch.randint(480, 801, (1,), generator=generator))
        time = torch.arange(length) / RATE
        parts += [0.4 * torch.sin(2 * math.pi * (200 + 350 * (symbol - 3)) * time), torch.zeros(320)]
    samples = torch.cat(parts)
    return samples + 0.01 * torch.randn(len(samples), generator=generator)


def texts(count: int = 8, seed: int = 0) -> list[list[int]]:
    """Of 2 to 5 symbols, no two alike, some with a symbol twice in a row."""
    generator = torch.Generator().manual_seed(seed)
    found: list[list[int]] = [[4, 4, 9], [7, 3, 3, 5]]
    while len(found) < count:
        length = int(torch.randint(2, 6, (1,), generator=generator))
        text = torch.randint(3, 3 + SYMBOLS, (length,), generator=generator).tolist()
        if text not in found:
            found.append(text)
    return found


def labels_of(rows: list[list[int]]) -> Tensor:
    """(B, S), -100 behind each row's end."""
    longest = max(map(len, rows))
    return torch.tensor([row + [-100] * (longest - len(row)) for row in rows])


def tone_batch(rows: list[list[int]]) -> dict[str, Tensor]:
    """Audio, its mask, and labels."""
    return {**batch_of([utterance(row, seed) for seed, row in enumerate(rows)]), "labels": labels_of(rows)}
