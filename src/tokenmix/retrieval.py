"""Recall among the first k, for retrieval in one direction or both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenmix.ops.common import check_axes, check_tensor

COUNTS = (1, 5, 10)


def recall(scores: Tensor, k: Sequence[int] = COUNTS, relevant: Tensor | None = None) -> dict[str, float]:
    """Share of the queries with a relevant candidate among the k that score best.

    Candidates of equal score stand in random order: a query counts with the chance that one of its relevant candidates
    is then among the first k. So constant scores give what guessing gives, never 1, and `recall(torch.zeros(...))` is
    the recall by chance.

    Args:
        scores: (queries, candidates), higher is better.
        k: how many of the best are looked at. With as many as there are candidates the recall is 1.
        relevant: (queries, candidates) bool; None where candidate i alone is relevant for query i.

    Returns:
        {"R@1": ..., "R@5": ..., "R@10": ...}, from 0 to 1.

    Raises:
        TypeError: scores that are no floats, a `relevant` that is not bool, a k that is no integer. ValueError: NaN
            among the scores, shapes that do not fit, a query without a relevant candidate, no k or one below 1.

    Example:
        >>> recall(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), k=(1, 2))
        {'R@1': 0.5, 'R@2': 1.0}
        >>> recall(torch.zeros(4, 4), k=[1])
        {'R@1': 0.25}
    """
    check_axes("scores", scores, "(queries, candidates)", 2)
    queries, candidates = scores.shape
    for count in k:
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"k: expected integers, found {count!r}")
    if not k or min(k) < 1:
        raise ValueError(f"k: expected integers of at least 1, found {tuple(k)}")
    if bool(scores.isnan().any()):
        raise ValueError(f"scores: expected numbers, found NaN in {int(scores.isnan().sum())} places")
    if relevant is None:
        if queries != candidates:
            raise ValueError(
                f"relevant: expected a matrix where queries and candidates differ, found {queries} queries"
                f" and {candidates} candidates"
            )
        relevant = torch.eye(queries, dtype=torch.bool, device=scores.device)
    check_tensor("relevant", relevant, "(queries, candidates)", (queries, candidates), scores.device, kind="bool")
    if not bool(relevant.any(1).all()):
        row = int((~relevant.any(1)).int().argmax())
        raise ValueError(f"relevant: expected a relevant candidate for every query, found none for query {row}")
    best = scores.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)
    better = (scores > best).sum(1).double()
    equal = (scores == best).sum(1).double()
    right = ((scores == best) & relevant).sum(1).double()
    missed = {count: _chance_of_none(equal, right, count - better) for count in k}
    return {f"R@{count}": float(1 - missed[count].mean()) for count in k}


def retrieval(t2i: Tensor, i2t: Tensor, k: Sequence[int] = COUNTS, relevant: Tensor | None = None) -> dict[str, float]:
    """Recall in both directions.

    Args:
        t2i: (texts, images) scores with which texts look for images.
        i2t: (images, texts) scores with which images look for texts; often `t2i.T`.
        k: as in `recall`.
        relevant: (texts, images) bool; None where text i belongs to image i alone.

    Returns:
        {"t2i_R@1": ..., ..., "i2t_R@1": ..., ...}.

    Raises:
        ValueError, TypeError: as `recall`.

    Example:
        >>> scores = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
        >>> retrieval(scores, scores.T, k=[1])
        {'t2i_R@1': 0.5, 'i2t_R@1': 1.0}
    """
    check_axes("i2t", i2t, "(images, texts)", 2)
    check_tensor("t2i", t2i, "(texts, images)", (i2t.shape[1], i2t.shape[0]), i2t.device)
    forward, backward = recall(t2i, k, relevant), recall(i2t, k, None if relevant is None else relevant.T)
    return {f"t2i_{key}": x for key, x in forward.items()} | {f"i2t_{key}": x for key, x in backward.items()}


def _chance_of_none(equal: Tensor, right: Tensor, drawn: Tensor) -> Tensor:
    """Chance that none of the right is among so many drawn of the equal, each (queries,)."""
    chance = torch.ones_like(equal)
    for step in range(int(torch.minimum(drawn, equal).max().clamp(min=0))):
        left = (equal - right - step).clamp(min=0) / (equal - step).clamp(min=1)
        chance = torch.where(step < drawn, chance * left, chance)
    return chance
