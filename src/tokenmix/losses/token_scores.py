"""How well two token sequences fit: each token's best match on the other side, averaged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmix.ops.common import check_axes, check_positive, check_tensor, without_autocast
from tokenmix.ops.precision import at_least_float32

HELD_PRODUCTS = 2**22  # 16 MB in float32


def late_interaction_scores(
    text: Tensor,
    image: Tensor,
    text_mask: Tensor | None = None,
    image_mask: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores of every text with every image, by FILIP's late interaction.

    With tokens t_i1 .. t_iT of text i and r_j1 .. r_jR of image j, scaled to length 1, and padding left out on both
    sides:

        t2i[i, j] = mean over t of max over r of <t_it, r_jr>
        i2t[j, i] = mean over r of max over t of <t_it, r_jr>

    The two differ: a short caption may find all its words in an image, most of whose patches are background. The
    products of all pairs, (B, C, T, R), are never held at once: a block of pairs is multiplied, and of it stay the two
    scores and, where gradients are wanted, the place of each maximum. Where several tokens are equally near, one of
    them gets the gradient. There are no gradients of gradients.

    Args:
        text: (B, T, d) tokens, of any length but 0.
        image: (C, R, d) tokens; both sides may be anything, and their order is free.
        text_mask: (B, T) bool, True where a token is real; None where all are. What stands elsewhere, even NaN, has no
            influence and gets the gradient 0.
        image_mask: (C, R) bool, likewise.
        chunk: the most pairs (i, j) whose products are held at once; by default as many as fit in 16 MB.

    Returns:
        t2i (B, C) and i2t (C, B), in float32, or in float64 for float64 tokens. Products are never in less.

    Raises:
        TypeError: tokens that are no floats, a mask that is not bool. ValueError: shapes that do not fit, no rows, a
            row without a real token.

    Example:
        >>> text = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
        >>> image = torch.tensor([[[0.0, 1.0], [0.0, 3.0]]])
        >>> late_interaction_scores(text, image)
        (tensor([[0.5000]]), tensor([[1.]]))

    Source:
        Yao et al. 2021, FILIP, arXiv 2111.07783, equations 3 to 5. The paper also drops three quarters of the tokens
        before the comparison to save memory; here none is dropped.
    """
    t2i, i2t = score_sides(text, image, text_mask, image_mask, chunk)
    return t2i, i2t


def score_sides(
    text: Tensor,
    image: Tensor,
    text_mask: Tensor | None = None,
    image_mask: Tensor | None = None,
    chunk: int | None = None,
    *,
    both: bool = True,
) -> tuple[Tensor, ...]:
    """As `late_interaction_scores`; without `both`, the first of the two alone."""
    check_axes("text", text, "(B, T, d)", 3)
    check_axes("image", image, "(C, R, d)", 3)
    check_tensor("image", image, "(C, R, d)", (image.shape[0], image.shape[1], text.shape[2]), text.device)
    pairs = max(1, HELD_PRODUCTS // (text.shape[1] * image.shape[1])) if chunk is None else chunk
    check_positive("chunk", pairs)
    text, text_weights = prepare("text", text, text_mask)
    image, image_weights = prepare("image", image, image_mask)
    if text.dtype != image.dtype:
        text, image = text.double(), image.double()
    scores = _Scores.apply(text, image, text_weights.to(text), image_weights.to(image), pairs, both)
    return scores if both else (scores,)


def prepare(name: str, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Tokens of length 1 with each padded place filled by a real token of its row, and their weights in a mean.

    A token that is there twice never changes a maximum, so that what follows needs no mask.

    Args:
        name: of the argument, for messages.
        tokens: (B, T, d).
        mask: (B, T) bool, or None.

    Returns:
        (B, T, d) in float32 or float64; (B, T), 0 at padded places, whose rows sum to 1.
    """
    rows, length = tokens.shape[:2]
    if mask is None:
        weights = torch.full((rows, length), 1 / length, dtype=at_least_float32(tokens).dtype, device=tokens.device)
        return F.normalize(at_least_float32(tokens), dim=-1), weights
    check_tensor(f"{name}_mask", mask, f"{name}.shape[:2]", (rows, length), tokens.device, kind="bool")
    counts = mask.sum(1, keepdim=True)
    if bool((counts == 0).any()):
        row = int((counts == 0).int().argmax())
        raise ValueError(f"{name}_mask: expected a real token in every row, found none in row {row}")
    tokens = at_least_float32(tokens)
    real = tokens[torch.arange(rows, device=tokens.device), mask.int().argmax(1)]
    tokens = torch.where(mask[..., None], tokens, real[:, None])
    return F.normalize(tokens, dim=-1), mask.to(tokens.dtype) / counts


class _Scores(torch.autograd.Function):
    """Blocks of products, of which the scores and the places of the maxima stay."""

    @staticmethod
    def forward(
        ctx: Any, text: Tensor, image: Tensor, text_weights: Tensor, image_weights: Tensor, pairs: int, both: bool
    ) -> Tensor | tuple[Tensor, Tensor]:
        (B, T, _), (C, R, _) = text.shape, image.shape
        t2i, i2t = text.new_empty(B, C), text.new_empty(C, B)
        keep = any(ctx.needs_input_grad[:2])
        regions = torch.empty((B, T, C) if keep else 0, dtype=_smallest_integer(R), device=text.device)
        words = torch.empty((B, C, R) if keep and both else 0, dtype=_smallest_integer(T), device=text.device)
        with without_autocast(text.device):
            for i, j in _blocks(B, C, pairs):
                products = text[i].flatten(0, 1) @ image[j].flatten(0, 1).T
                products = products.view(len(text[i]), T, len(image[j]), R)
                if keep:
                    nearest, regions[i, :, j] = _max(products, 3)
                else:
                    nearest = products.amax(3)
                t2i[i, j] = (nearest * text_weights[i, :, None]).sum(1)
                if both:
                    if keep:
                        nearest, words[i, j] = _max(products, 1)
                    else:
                        nearest = products.amax(1)
                    i2t[j, i] = (nearest * image_weights[j]).sum(2).T
        ctx.save_for_backward(text, image, text_weights, image_weights, regions, words)
        ctx.pairs, ctx.both = pairs, both
        return (t2i, i2t) if both else t2i

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError("late interaction: expected a first gradient, found create_graph=True")
        text, image, text_weights, image_weights, regions, words = ctx.saved_tensors
        (B, T, d), (C, R, _) = text.shape, image.shape
        need_text, need_image = ctx.needs_input_grad[:2]
        text_grad = torch.zeros_like(text) if need_text else None
        image_grad = torch.zeros_like(image) if need_image else None
        with without_autocast(text.device):
            for i, j in _blocks(B, C, ctx.pairs):
                b, c = len(text[i]), len(image[j])
                weights = text.new_zeros(b, T, c, R)  # the gradient of the products: 0 but at the maxima
                share = text_weights[i, :, None] * grads[0][i, None, j]
                weights.scatter_(3, regions[i, :, j, None].long(), share[..., None])
                if ctx.both:
                    share = image_weights[j] * grads[1].T[i, j, None]
                    weights.scatter_add_(1, words[i, None, j].long(), share[:, None])
                weights = weights.view(b * T, c * R)
                if text_grad is not None:
                    text_grad[i] += (weights @ image[j].flatten(0, 1)).view(b, T, d)
                if image_grad is not None:
                    image_grad[j] += (weights.T @ text[i].flatten(0, 1)).view(c, R, d)
        return text_grad, image_grad, None, None, None, None


def _max(products: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    found = products.max(axis)
    return found.values, found.indices


def _blocks(rows: int, columns: int, pairs: int) -> Iterator[tuple[slice, slice]]:
    """Slices that cover (rows, columns), none with more than so many pairs, and near squares where they can be."""
    width = min(columns, max(math.isqrt(pairs), pairs // rows))
    height = min(rows, pairs // width)
    for i in range(0, rows, height):
        for j in range(0, columns, width):
            yield slice(i, i + height), slice(j, j + width)


def _smallest_integer(size: int) -> torch.dtype:
    return torch.uint8 if size <= 2**8 else torch.int16 if size <= 2**15 else torch.int32
