"""Vectors to tokens and back, with the gradient passed through."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmix.mixers.vector_quantiser import VectorQuantiser
from tokenmix.ops.precision import at_least_float32


@dataclass(frozen=True, eq=False)
class Quantised:
    """Vectors, each replaced by a code.

    Attributes:
        vectors: (..., dim), the codes; their gradient goes to the vectors that they replace. 0 where masked.
        tokens: (...) int64, numbers of the codes; -1 where masked.
        commitment: mean squared distance of the vectors from their codes, whose gradient reaches the vectors alone.
        perplexity: of the tokens, see `code_perplexity`.
    """

    vectors: Tensor
    tokens: Tensor
    commitment: Tensor
    perplexity: Tensor


def quantise(quantiser: VectorQuantiser, q: Tensor, mask: Tensor | None = None) -> Quantised:
    """Replace vectors by their codes; in training the codes follow them.

        c = the code nearest to q,   y = q + stop(c - q),   commitment = mean |q - stop(c)|^2

    Codes are read before they move, but the first batch, which makes them, reads them after.

    Args:
        quantiser: the codebook; in training it is updated, in evaluation it is left alone.
        q: (..., dim).
        mask: (...) bool, True for real vectors; the others change nothing.

    Raises:
        ValueError: NaN or infinity among the real vectors in training, another width or mask.

    Example:
        >>> q = torch.tensor([[0.1], [3.9]], requires_grad=True)
        >>> found = quantise(VectorQuantiser(codes=2, dim=1), q)
        >>> (2 * found.vectors).sum().backward()
        >>> q.grad.tolist(), found.tokens[0] == found.tokens[1]
        ([[2.0], [2.0]], tensor(False))

    Source:
        van den Oord et al. 2017, arXiv 1711.00937.
    """
    fresh = quantiser.training and not quantiser.initialised
    book = quantiser.codebook()
    tokens = quantiser.update(q, mask)
    if fresh:
        book = quantiser.codebook()
    codes = F.embedding(tokens.clamp(min=0), book).to(q.dtype)
    distance = at_least_float32(q - codes).square().mean(-1)
    vectors = q + (codes - q).detach()
    if mask is None:
        return Quantised(vectors, tokens, distance.mean(), code_perplexity(tokens, quantiser.codes))
    distance = distance.masked_fill(~mask, 0)
    commitment = distance.sum() / mask.sum().clamp(min=1)
    vectors = vectors.masked_fill(~mask[..., None], 0)
    return Quantised(vectors, tokens, commitment, code_perplexity(tokens, quantiser.codes))


def code_perplexity(tokens: Tensor, codes: int) -> Tensor:
    """How many codes tokens use: exp of the entropy of their shares, from 1 (one code) to `codes` (all alike).

    Args:
        tokens: integers of any shape; negative ones do not count.
        codes: M.

    Returns:
        A float32 scalar; 0 where there are no tokens.

    Example:
        >>> code_perplexity(torch.tensor([0, 0, 3, 3, -1]), codes=4).item()
        2.0
    """
    counts = torch.bincount(tokens[tokens >= 0].flatten(), minlength=codes).float()
    share = counts / counts.sum().clamp(min=1)
    return torch.special.entr(share).sum().exp() * (counts.sum() > 0)
