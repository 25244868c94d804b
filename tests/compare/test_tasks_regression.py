"""In-context regression: its rows, and its references against Monte Carlo."""

import math

import numpy as np
import pytest
import torch

from tokenmix.compare.tasks import Regression
from tokenmix.compare.tasks.regression import gradient_descent_error, ridge_error

ROWS = 40_000


def draw(task: Regression, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """X (B, n, d), y (B, n), x_q (B, d) and y_q (B,)."""
    batch = task.batch("train", seed=0, number=0, rows=rows)
    tokens = batch.inputs.double().numpy()
    return tokens[:, :-1, :-1], tokens[:, :-1, -1], tokens[:, -1, :-1], batch.targets[:, -1].double().numpy()


def mean_and_error(squares: np.ndarray) -> tuple[float, float]:
    return float(squares.mean()), float(squares.std() / math.sqrt(len(squares)))


def test_rows_without_noise_are_of_one_linear_function():
    x, y, query, answer = draw(Regression(dim=3, examples=[6], noise=0.0), rows=50)
    for i in range(50):
        weights = np.linalg.lstsq(x[i], y[i], rcond=None)[0]
        np.testing.assert_allclose(x[i] @ weights, y[i], atol=1e-5)
        assert query[i] @ weights == pytest.approx(answer[i], abs=1e-4)


def test_only_the_query_is_asked_and_it_does_not_show_its_value():
    batch = Regression(dim=3, examples=[6]).batch("train", seed=0, number=0, rows=50)
    assert batch.targets[:, :-1].isnan().all()
    assert not batch.targets[:, -1].isnan().any()
    assert (batch.inputs[:, -1, -1] == 0).all()
    assert (batch.inputs[:, :-1, -1] != 0).all()
    assert (batch.targets[:, -1:, None] != batch.inputs).all()


def test_the_noise_is_in_the_examples_and_in_the_target():
    # residuals of least squares: (n - d) s^2 in sum; the query's: s^2 (1 + d / (n - d - 1)) for x ~ N(0, I)
    x, y, query, answer = draw(Regression(dim=2, examples=[12], noise=0.7))
    gram = x.swapaxes(1, 2) @ x
    weights = np.linalg.solve(gram, np.einsum("bnd,bn->bd", x, y)[..., None])[..., 0]
    residual, error = mean_and_error(((y - np.einsum("bnd,bd->bn", x, weights)) ** 2).sum(1) / 10)
    assert abs(residual - 0.49) < 4 * error
    ahead, error = mean_and_error((answer - (query * weights).sum(1)) ** 2)
    assert abs(ahead - 0.49 * (1 + 2 / 9)) < 4 * error


@pytest.mark.parametrize(("dim", "examples", "noise"), [(5, 20, 0.5), (3, 4, 0.0), (4, 2, 1.0)])
def test_references_are_what_the_predictors_score(dim, examples, noise):
    task = Regression(dim=dim, examples=[examples], noise=noise)
    x, y, query, answer = draw(task)
    step = np.einsum("bn,bnd,bd->b", y, x, query)
    best = 1 / (examples + dim + 1 + noise**2)
    penalty = max(noise**2, 1e-9) * np.eye(dim)
    ridge = np.linalg.solve(x.swapaxes(1, 2) @ x + penalty, np.einsum("bnd,bn->bd", x, y)[..., None])[..., 0]
    predictions = {
        "zero": np.zeros(ROWS),
        "one step of gradient descent": best * step,
        "ridge regression": (ridge * query).sum(1),
    }
    references = task.references()
    assert list(references) == list(predictions)
    for name, prediction in predictions.items():
        total, count = task.score(torch.tensor(prediction)[:, None, None], torch.tensor(answer)[:, None])
        _, error = mean_and_error((prediction - answer) ** 2)
        assert count == ROWS
        assert abs(total / count - references[name]) < 4 * error + 1e-4, name
    # the step size is the best one: least squares of the answer on the step finds it
    assert (step @ answer) / (step @ step) == pytest.approx(best, rel=0.03)


def test_no_step_size_is_better():
    def error(size: float, n: int = 7, d: int = 3, s: float = 0.6) -> float:
        return d - 2 * size * n * d + size**2 * (n * d * (n + d + 1) + s**2 * n * d) + s**2

    sizes = np.linspace(0, 0.3, 30_001)
    assert gradient_descent_error(7, 3, 0.6) == pytest.approx(min(map(error, sizes)), abs=1e-6)


def test_references_are_ordered_and_bounded_by_the_noise():
    references = Regression(dim=4, examples=[3, 9], noise=0.8).references()
    assert 0.64 < references["ridge regression"] < references["one step of gradient descent"] < references["zero"]
    assert references["zero"] == pytest.approx(4.64)
    each = [ridge_error(examples, 4, 0.8) for examples in (3, 9)]
    assert references["ridge regression"] == pytest.approx(sum(each) / 2)
    assert each[1] < each[0]


def test_ridge_regression_where_the_expectation_is_known():
    # n = 1, d = 2: the one eigenvalue r = |x|^2 of X^T X is chi squared, with density e^(-r/2) / 2
    r = np.linspace(0, 80, 800_001)
    inside = np.trapezoid(0.5 * np.exp(-r / 2) * 0.25 / (r + 0.25), r)
    assert ridge_error(1, 2, 0.5) == pytest.approx(0.25 + 1 + inside, abs=0.008)
    assert ridge_error(6, 3, 0.0) == 0
    assert ridge_error(2, 3, 0.0) == 1


def test_the_loss_is_half_the_squared_error_of_the_query():
    task = Regression(dim=2, examples=[3])
    batch = task.batch("train", seed=0, number=0, rows=8)
    predictions = torch.randn(8, 4, 1, generator=torch.Generator().manual_seed(0))
    total, count = task.score(predictions, batch.targets)
    assert float(task.loss(predictions, batch.targets)) == pytest.approx(0.5 * total / count, rel=1e-5)
    assert total == pytest.approx(float(((predictions[:, -1, 0] - batch.targets[:, -1]) ** 2).sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dim": 0}, ValueError, "dim: expected a positive integer"),
        ({"examples": []}, ValueError, "examples: expected at least one integer"),
        ({"examples": 10}, TypeError, "examples: expected a list of integers, found 10"),
        ({"noise": -0.1}, ValueError, "noise: expected a number of at least 0, found -0.1"),
        ({"noise": float("nan")}, ValueError, "noise"),
        ({"noise": "0.5"}, TypeError, "noise: expected a number of at least 0, found '0.5'"),
    ],
)
def test_refusals(options, error, message):
    with pytest.raises(error, match=message):
        Regression(**options)
