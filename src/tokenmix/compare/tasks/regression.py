"""In-context linear regression: examples of an unknown linear function, then a question to it."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch

from tokenmix.compare.task import Batch, Case, Split, Task, register_task
from tokenmix.compare.tasks.arguments import check_counts
from tokenmix.mixer import check_positive

SIMULATIONS = 20_000  # rows for the error of ridge regression


@register_task("regression")
class Regression(Task):
    """In-context linear regression: from n examples of a linear function, its value at a new point.

    Each row draws its own weights w ~ N(0, I) of d numbers. With x ~ N(0, I) and noise e ~ N(0, s^2), independent,

        tokens   (x_1, y_1)  ...  (x_n, y_n)  (x_q, 0),    y_i = w.x_i + e_i
        targets      -       ...      -          y_q

    The target y_q = w.x_q + e_q carries noise as the examples do, so s^2 is a bound that no score goes below. Scores
    are squared errors of the one prediction at the query.

    Args:
        dim: d, width of x.
        examples: n, of each case.
        noise: s, its standard deviation.

    Raises:
        TypeError, ValueError: arguments of another type, no positive integers, or a negative noise.

    Example:
        >>> batch = Regression(dim=2, examples=[3]).batch("train", seed=0, number=0, rows=1)
        >>> batch.inputs.shape, batch.targets.isnan().tolist()
        (torch.Size([1, 4, 3]), [[True, True, True, False]])

    Source:
        Garg et al. 2022, arXiv 2208.01066; the prompt as tokens (x, y) and the optimum of one linear attention layer:
        Mahankali et al. 2023, arXiv 2307.03576.
    """

    source = "Mahankali et al. 2023, arXiv 2307.03576; Garg et al. 2022, arXiv 2208.01066"
    vary = "examples"
    needs_causal = False
    metric = "squared error"
    higher_is_better = False
    solved = enough = None

    def __init__(self, dim: int = 5, examples: Sequence[int] = (10, 20, 40), noise: float = 0.5) -> None:
        check_positive("dim", dim)
        examples = check_counts("examples", examples)
        if isinstance(noise, bool) or not isinstance(noise, (int, float)):
            raise TypeError(f"noise: expected a number of at least 0, found {noise!r}")
        if not 0 <= noise < float("inf"):
            raise ValueError(f"noise: expected a number of at least 0, found {noise}")
        self.dim, self.noise = dim, float(noise)
        self.features = dim + 1
        self.cases = tuple({"length": count + 1, "examples": count} for count in examples)

    def draw(self, case: Case, rows: int, split: Split, generator: np.random.Generator) -> Batch:
        """See `Task.draw`."""
        count = case["examples"]
        weights = generator.standard_normal((rows, self.dim))
        x = generator.standard_normal((rows, count + 1, self.dim))
        y = np.einsum("bld,bd->bl", x, weights) + self.noise * generator.standard_normal((rows, count + 1))
        targets = np.full((rows, count + 1), np.nan)
        targets[:, -1] = y[:, -1]
        y[:, -1] = 0  # the query does not show its value
        inputs = np.concatenate([x, y[..., None]], axis=2)
        return Batch(torch.from_numpy(inputs).float(), torch.from_numpy(targets).float())

    def references(self) -> dict[str, float]:
        """Expected squared errors, each the mean over the cases.

        - "zero": of predicting 0, d + s^2.
        - "one step of gradient descent": see `gradient_descent_error`; the least that one layer of linear attention
          reaches.
        - "ridge regression": see `ridge_error`; the least that anything reaches.
        """
        counts = [case["examples"] for case in self.cases]
        steps = [gradient_descent_error(count, self.dim, self.noise) for count in counts]
        ridges = [ridge_error(count, self.dim, self.noise) for count in counts]
        return {
            "zero": self.dim + self.noise**2,
            "one step of gradient descent": sum(steps) / len(steps),
            "ridge regression": sum(ridges) / len(ridges),
        }


def gradient_descent_error(examples: int, dim: int, noise: float) -> float:
    """Expected squared error of one step of gradient descent from w = 0, with the best step size.

    With the rows x_i in X, one step on 1/2 ||y - X w||^2 predicts h (X^T y).x_q. As x_q ~ N(0, I), its error is

        E(h) = E||w - h X^T y||^2 + s^2 = d - 2 h E[w^T X^T y] + h^2 E||X^T y||^2 + s^2,   y = X w + e.

    With w ~ N(0, I), E[w^T X^T y] = E tr(X^T X) = n d, and E||X^T y||^2 = E tr((X^T X)^2) + s^2 E tr(X^T X)
    = n d (n + d + 1) + s^2 n d, since E[(X^T X)^2] = n (n + d + 1) I for x ~ N(0, I). The parabola is lowest at

        h* = 1 / (n + d + 1 + s^2),    E(h*) = s^2 + d - n d / (n + d + 1 + s^2).

    Args:
        examples: n.
        dim: d.
        noise: s, a standard deviation.

    Example:
        >>> gradient_descent_error(examples=2, dim=1, noise=0.0)
        0.5

    Source:
        Mahankali et al. 2023, arXiv 2307.03576: the optimum of one layer of linear self-attention is this step.
    """
    return noise**2 + dim - examples * dim / (examples + dim + 1 + noise**2)


@functools.lru_cache
def ridge_error(examples: int, dim: int, noise: float) -> float:
    """Expected squared error of ridge regression with penalty s^2, which is the mean of w given the examples.

    Given X, the weights have covariance s^2 (X^T X + s^2 I)^-1, so that with the eigenvalues l_j of X^T X

        error = s^2 + E sum_j s^2 / (l_j + s^2),    each term 1 where l_j = 0, also without noise.

    The expectation over X is a mean over 20,000 simulated ones, with a fixed seed.

    Args:
        examples: n.
        dim: d.
        noise: s, a standard deviation.

    Example:
        >>> ridge_error(examples=3, dim=5, noise=0.0)  # two of five directions are not seen
        2.0
    """
    generator = np.random.default_rng(0)
    total, rows = 0.0, max(1, min(SIMULATIONS, 4_000_000 // (examples * dim)))
    for start in range(0, SIMULATIONS, rows):
        x = generator.standard_normal((min(rows, SIMULATIONS - start), examples, dim))
        gram = x.swapaxes(1, 2) @ x if examples >= dim else x @ x.swapaxes(1, 2)
        total += float((noise**2 / (np.linalg.eigvalsh(gram) + noise**2)).sum())
    return noise**2 + max(dim - examples, 0) + total / SIMULATIONS
