"""Labels of Hugging Face models: which are refused, and which count."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from tokenmix.layout import Layout
from tokenmix.models.inputs import can_look, check_token_shape

IGNORED = -100  # transformers' mark of a token without a label


def check_labels(labels: Tensor, shape: tuple[int, int], classes: int, of: str, name: str = "labels") -> None:
    """Refuse labels of tokens that are no classes.

    Args:
        labels: (B, L), a class or -100.
        shape: (B, L) of the tokens.
        classes: number of classes.
        of: name of that number, for the message.
        name: of the argument, for the message.

    Raises:
        ValueError, TypeError: another shape, type or value (values are looked at on the CPU, outside torch.compile).

    Example:
        >>> check_labels(torch.tensor([[3]]), (1, 1), 3, "num_labels")
        Traceback (most recent call last):
        ...
        ValueError: labels: expected -100 or 0 to num_labels - 1 = 2, found 3
    """
    check_token_shape(name, labels)
    if tuple(labels.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, found {tuple(labels.shape)}")
    if not can_look(labels):
        return
    wrong = ((labels < 0) & (labels != IGNORED)) | (labels >= classes)
    if bool(wrong.any()):
        raise ValueError(
            f"{name}: expected {IGNORED} or 0 to {of} - 1 = {classes - 1}, found {labels[wrong][0].item()}"
        )


def predictable(labels: Tensor, layout: Layout) -> Tensor:
    """Labels with -100 at padding, after padding, and at the first token of a document.

    Example:
        >>> predictable(torch.tensor([[5, 6, 7]]), Layout(segments=torch.tensor([[0, 0, 1]]))).tolist()
        [[5, 6, -100]]
    """
    hidden = torch.zeros_like(labels, dtype=torch.bool)
    if layout.segments is not None:
        hidden[:, 1:] = layout.segments.diff(dim=1) != 0
    if layout.mask is not None:
        hidden |= ~layout.mask
        hidden[:, 1:] |= ~layout.mask[:, :-1]
    return labels.long().masked_fill(hidden, IGNORED)


def check_next_labels(labels: Tensor, shape: tuple[int, int], vocab_size: int, logits_to_keep: int | Tensor) -> None:
    """Refuse labels of next tokens that are no tokens, or that come where not all logits are asked for.

    Raises:
        ValueError, TypeError: as `check_labels`, or `logits_to_keep` that is not 0.
    """
    if not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
        raise ValueError(f"logits_to_keep: expected 0 where labels are given, found {logits_to_keep}")
    check_labels(labels, shape, vocab_size, "vocab_size")


def next_token_loss(
    model: PreTrainedModel, logits: Tensor, labels: Tensor, kept: Tensor, others: dict[str, Any]
) -> Tensor:
    """The loss of a language model, shifted, over the labels that have a term.

    Args:
        model: whose `loss_function` it is.
        logits: (B, L, vocabulary).
        labels: (B, L) as they came.
        kept: (B, L) those that have a term.
        others: keywords of the model's forward, of which `num_items_in_batch` is read.
    """
    loss: Tensor = model.loss_function(
        logits=logits, labels=kept, vocab_size=model.config.vocab_size, **counted(others, labels, kept)
    )
    return loss


def counted(others: dict[str, Any], given: Tensor, kept: Tensor) -> dict[str, Any]:
    """The keywords of a loss, with `num_items_in_batch` counting the labels that have a term.

    Trainer divides the summed loss of an update by the number of its labels after the first of each row. Where some
    of them have no term (a first block, a first token of a packed document), that would make the loss too small.

    Args:
        others: keywords of a model's forward.
        given: (B, L) labels as they came.
        kept: (B, L) those that have a term.

    Example:
        >>> given = torch.tensor([[1, 2, 3, 4, 5]])
        >>> kept = given.masked_fill(given < 3, IGNORED)
        >>> counted({"num_items_in_batch": 8}, given, kept)
        {'num_items_in_batch': tensor(6.)}
    """
    items = others.get("num_items_in_batch")
    if items is None:
        return others
    before, after = ((labels[:, 1:] != IGNORED).sum() for labels in (given, kept))
    share = torch.where(after > 0, after / before.clamp(min=1), 1.0)  # without a term the sum is 0
    return others | {"num_items_in_batch": items * share}


def at_real_tokens(labels: Tensor, layout: Layout) -> Tensor:
    """Labels with -100 at padding.

    Example:
        >>> at_real_tokens(torch.tensor([[5, 6]]), Layout(mask=torch.tensor([[True, False]]))).tolist()
        [[5, -100]]
    """
    return labels if layout.mask is None else labels.masked_fill(~layout.mask, IGNORED)


def label_count(config: PreTrainedConfig) -> int:
    """`config.num_labels`, which transformers keeps as the length of `id2label`.

    Example:
        >>> label_count(PreTrainedConfig(num_labels=3))
        3
    """
    count = config.num_labels
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"num_labels: expected a positive integer, found {count!r}")
    return count
