"""Contrastive training of two towers whose tokens meet late (FILIP); with one token a side, CLIP's loss."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from tokenmix.losses.gather import gather_ids, gather_tokens, processes, row_range
from tokenmix.losses.token_scores import late_interaction_scores, score_sides
from tokenmix.ops.common import check_axes, check_tensor


def late_interaction(
    text: Tensor,
    image: Tensor,
    text_mask: Tensor | None = None,
    image_mask: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.07,
    groups: Tensor | None = None,
    same: Tensor | None = None,
    gather: bool = False,
    process_group: dist.ProcessGroup | None = None,
    chunk: int | None = None,
) -> Tensor:
    """FILIP's loss: among the batch, a text is to find its image, and an image its text.

    With the scores of `late_interaction_scores` and the temperature tau, over B pairs:

        loss = 1/2 [mean_i -log softmax_j(t2i[i, j] / tau)[i]  +  mean_j -log softmax_i(i2t[j, i] / tau)[j]]

    Args:
        text: (B, T, d) tokens; row i belongs to row i of `image`.
        image: (B, R, d) tokens.
        text_mask: (B, T) bool, True where a token is real; None where all are.
        image_mask: (B, R) bool, likewise.
        temperature: tau, above 0; a tensor with one number may be learned.
        groups: (B,) integers. Pairs of equal number hold the same (a caption that occurs twice): neither counts as a
            wrong answer for the other.
        same: (B, B) bool, in place of `groups`: True where image j is no wrong answer for text i. Not with `gather`.
        gather: compare with the rows of all processes (torch.distributed), whose batches and lengths may differ. Every
            process returns the loss of the joined batch. Gradients are such that their mean over the processes, which
            DistributedDataParallel takes, is the gradient of that loss. With one process nothing changes.
        process_group: the processes for `gather`; by default all.
        chunk: pairs whose products are held at once, see `late_interaction_scores`.

    Returns:
        A number, in float32, or in float64 for float64 tokens.

    Raises:
        TypeError: tokens that are no floats, other kinds of masks or groups. ValueError: shapes that do not fit, sides
            with unequal rows, a row without a real token, a temperature that is not above 0, both groups and same.

    Example:
        >>> tokens = torch.eye(2)[:, None]  # two pairs, one token a side
        >>> late_interaction(tokens, tokens, temperature=1.0)
        tensor(0.3133)

    Source:
        Yao et al. 2021, FILIP, arXiv 2111.07783, equations 1 to 5; Radford et al. 2021, CLIP, arXiv 2103.00020.
    """
    for name, side in (("text", text), ("image", image)):
        check_axes(name, side, "(B, length, d)", 3)
    if len(image) != len(text):
        raise ValueError(f"image: expected as many rows as text, {len(text)}, found {len(image)}")
    if not isinstance(temperature, Tensor) and not 0 < temperature < math.inf:
        raise ValueError(f"temperature: expected a number above 0, found {temperature}")
    check_same(groups, same, text, gather)
    if gather and processes(process_group) > 1:
        return _joined(text, image, text_mask, image_mask, temperature, groups, process_group, chunk)
    t2i, i2t = late_interaction_scores(text, image, text_mask, image_mask, chunk)
    if groups is not None:
        same = groups[:, None] == groups
    found = answer(t2i / temperature, same) + answer(i2t / temperature, None if same is None else same.T)
    return found / (2 * len(text))


def answer(logits: Tensor, same: Tensor | None = None, first: int = 0) -> Tensor:
    """Cross entropies of rows whose right answers are columns first, first + 1, ..., summed.

    Args:
        logits: (n, m).
        same: (n, m) bool, True where a column is no wrong answer.
        first: column that answers row 0.

    Example:
        >>> answer(torch.zeros(1, 4), torch.tensor([[True, True, False, False]]))
        tensor(1.0986)
    """
    own = torch.arange(first, first + len(logits), device=logits.device)
    if same is not None:
        logits = logits.masked_fill(same.scatter(1, own[:, None], False), -math.inf)
    return F.cross_entropy(logits, own, reduction="sum")


def check_same(groups: Tensor | None, same: Tensor | None, text: Tensor, gather: bool) -> None:
    """Refuse what `late_interaction` cannot take as groups or same."""
    rows = len(text)
    if groups is not None:
        check_tensor("groups", groups, "(B,)", (rows,), text.device, kind="integer")
        if same is not None:
            raise ValueError("same: expected None beside groups, found both")
    if same is not None:
        check_tensor("same", same, "(B, B)", (rows, rows), text.device, kind="bool")
        if gather:
            raise ValueError("same: expected groups instead with gather=True, found a matrix of this process alone")


def _joined(
    text: Tensor,
    image: Tensor,
    text_mask: Tensor | None,
    image_mask: Tensor | None,
    temperature: float | Tensor,
    groups: Tensor | None,
    group: dist.ProcessGroup | None,
    chunk: int | None,
) -> Tensor:
    """The loss over all processes: each answers for its own rows, among the columns of all."""
    first, total = row_range(len(text), text.device, group)
    texts, images = gather_tokens(text, text_mask, group), gather_tokens(image, image_mask, group)
    (t2i,) = score_sides(text, images.tokens, text_mask, images.mask, chunk, both=False)
    (i2t,) = score_sides(image, texts.tokens, image_mask, texts.mask, chunk, both=False)
    same = None if groups is None else groups[:, None] == gather_ids(groups, group)
    loss = (answer(t2i / temperature, same, first) + answer(i2t / temperature, same, first)) / (2 * total)
    joined = loss.detach().clone()
    dist.all_reduce(joined, group=group)
    loss = loss * processes(group)  # so that the mean over processes is the joined loss
    return loss + (joined - loss).detach()
