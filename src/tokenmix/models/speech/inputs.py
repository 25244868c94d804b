"""What speech models accept: samples, masks of samples, and labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenmix.models.inputs import can_look
from tokenmix.models.labels import IGNORED


def check_audio(samples: Tensor, attention_mask: Tensor | None, least: int) -> tuple[Tensor, Tensor | None]:
    """Refuse what is no audio, and bring the rest into one form.

    Args:
        samples: (B, N) floating point.
        attention_mask: (B, N), 1 for samples and 0 for the padding behind them.
        least: samples that a batch is padded to, so that its longest row has a token.

    Returns:
        The samples, zero behind each row's end, and (B,) samples of each row, or None where all are.

    Raises:
        TypeError, ValueError: another shape or type, numbers that are not finite, padding that is not at the end.

    Example:
        >>> samples, counts = check_audio(torch.ones(1, 3), torch.tensor([[1, 1, 0]]), 0)
        >>> samples.tolist(), counts.tolist()
        ([[1.0, 1.0, 0.0]], [2])
    """
    if not isinstance(samples, Tensor) or not samples.is_floating_point():
        found = samples.dtype if isinstance(samples, Tensor) else type(samples).__name__
        raise TypeError(f"input_values: expected floating point samples in [-1, 1], found {found}")
    if samples.dim() != 2:
        raise ValueError(f"input_values: expected shape (B, N), one channel, found {tuple(samples.shape)}")
    counts = None
    if attention_mask is not None:
        if attention_mask.shape != samples.shape:
            raise ValueError(
                f"attention_mask: expected the shape of input_values {tuple(samples.shape)}, found "
                f"{tuple(attention_mask.shape)}"
            )
        real = attention_mask.bool()
        if can_look(real) and bool((real[:, 1:] & ~real[:, :-1]).any()):
            raise ValueError("attention_mask: expected padding behind the end of each row only, found some before it")
        samples, counts = samples.masked_fill(~real, 0), real.sum(1)
    if can_look(samples) and not bool(samples.isfinite().all()):
        row = int((~samples.isfinite()).any(1).nonzero()[0, 0])
        raise ValueError(f"input_values: expected finite samples, found NaN or infinity in row {row}")
    if samples.shape[1] < least:
        if counts is None:
            counts = torch.full((samples.shape[0],), samples.shape[1], device=samples.device)
        samples = F.pad(samples, (0, least - samples.shape[1]))
    return samples, counts


def check_speech_labels(labels: Tensor, rows: int, vocab_size: int, blank: int | None = None) -> None:
    """Refuse labels that are no characters of the vocabulary.

    Args:
        labels: (B, S) integers, -100 behind each row's end.
        rows: B of the audio.
        vocab_size: their number.
        blank: CTC's symbol of no label, which is none; None where there is no such symbol.

    Raises:
        TypeError, ValueError: another shape, type or value, the blank, or -100 before a label.

    Example:
        >>> check_speech_labels(torch.tensor([[1, 5]]), 1, 4)
        Traceback (most recent call last):
        ...
        ValueError: labels: expected -100 or 0 to vocab_size - 1 = 3, found 5
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        found = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels: expected integers, found {found}")
    if labels.dim() != 2 or labels.shape[0] != rows:
        raise ValueError(f"labels: expected shape (B={rows}, S), found {tuple(labels.shape)}")
    if not can_look(labels):
        return
    real = labels != IGNORED
    wrong = real & ((labels < 0) | (labels >= vocab_size))
    if bool(wrong.any()):
        raise ValueError(
            f"labels: expected {IGNORED} or 0 to vocab_size - 1 = {vocab_size - 1}, found {labels[wrong][0].item()}"
        )
    if blank is not None and bool((labels == blank).any()):
        raise ValueError(f"labels: expected {IGNORED} as padding, found the blank, pad_token_id={blank}")
    if bool((real[:, 1:] & ~real[:, :-1]).any()):
        raise ValueError(f"labels: expected {IGNORED} behind the labels of each row only, found it before some")
