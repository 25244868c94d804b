"""Every task: shapes, fields, determinism, a model that learns from it; and recall against its definition."""

import inspect
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from tokenmix.compare import ModelConfig, Task, TaskModel, build_task, list_tasks
from tokenmix.compare.task import IGNORED, SPLITS, Batch
from tokenmix.compare.tasks import Recall
from tokenmix.compare.tasks.arguments import check_counts

SMALL: dict[str, dict[str, Any]] = {
    "digits": {},
    "induction": {"lengths": [8, 12]},
    "listops": {"lengths": [16, 24]},
    "majority": {"lengths": [7, 9]},
    "parity": {"lengths": [7, 8]},
    "recall": {"lengths": [16, 32], "pairs": [2, 4], "vocabulary": 32},
    "regression": {"dim": 3, "examples": [4, 6]},
    "selective_copying": {"lengths": [12, 16], "content": 4},
    "sorting": {"lengths": [8, 12]},
    "text": {"lengths": [12, 16]},
}


def small(name: str) -> Task:
    return build_task({"task": name, **SMALL[name]})


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.inputs, b.inputs) and torch.equal(a.targets.nan_to_num(), b.targets.nan_to_num())


def questions(batch: Batch) -> list[tuple[int, int, Any]]:
    """(Row, place, answer) of all that is asked token by token."""
    known = ~batch.targets.isnan() if batch.targets.is_floating_point() else batch.targets != IGNORED
    return [(int(b), int(i), batch.targets[b, i].item()) for b, i in known.nonzero()]


def test_every_registered_task_is_tested_here():
    ours = {name for name, cls in list_tasks().items() if cls.__module__.startswith("tokenmix.")}
    assert ours == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_batches_are_what_the_task_declares(name):
    task = small(name)
    assert task.name == name
    assert task.source
    assert task.vary in task.cases[0]
    assert (task.vocab_size is None) != (task.features is None)
    for number, case in enumerate(task.cases):
        batch = task.batch("train", seed=0, number=number, rows=5)
        length = case["length"]
        if task.vocab_size is not None:
            assert batch.inputs.dtype == torch.int64
            assert batch.inputs.shape == (5, length)
            assert 0 <= int(batch.inputs.min()) <= int(batch.inputs.max()) < task.vocab_size
        else:
            assert batch.inputs.dtype == torch.float32
            assert batch.inputs.shape == (5, length, task.features)
            assert batch.inputs.isfinite().all()
        assert batch.targets.shape == ((5,) if task.per == "row" else (5, length))
        if batch.targets.is_floating_point():
            assert batch.targets.dtype == torch.float32
            assert task.outputs == 1
        else:
            assert batch.targets.dtype == torch.int64
            known = batch.targets[batch.targets != IGNORED]
            assert 0 <= int(known.min()) <= int(known.max()) < task.outputs
        batch.layout.validate(5, length, batch.inputs.device)
        assert set(batch.layout.fields()) == set(task.fields)
    assert task.max_length == max(case["length"] for case in task.cases)


@pytest.mark.parametrize("name", SMALL)
def test_batches_are_a_function_of_their_arguments(name):
    task, again = small(name), small(name)
    for split in SPLITS:
        assert same(task.batch(split, 3, 2, 6), again.batch(split, 3, 2, 6))
        assert not same(task.batch(split, 3, 0, 6), task.batch(split, 3, len(task.cases), 6))  # the same case
    assert not same(task.batch("train", 3, 2, 6), task.batch("train", 4, 2, 6))
    batches = [task.batch(split, 3, 0, 6) for split in SPLITS]
    assert not any(same(batches[i], batches[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("mixer", [{"mixer": "gam", "slots": 4}, {"mixer": "linear_attention", "heads": 2}])
def test_a_model_gets_a_finite_loss_and_gradients(name, mixer):
    torch.manual_seed(0)
    task = small(name)
    model = TaskModel(task, {"m": mixer}, "m", ModelConfig(hidden_size=8, num_hidden_layers=1))
    batch = task.batch("train", seed=0, number=1, rows=4)
    predictions = model(batch.inputs, batch.layout)
    assert predictions.shape == (*batch.targets.shape, task.outputs)
    loss = task.loss(predictions, batch.targets)
    loss.backward()
    assert loss.isfinite()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    assert model.embed.weight.grad.abs().sum() > 0
    total, count = task.score(predictions.detach(), batch.targets)
    assert math.isfinite(total)
    assert count == (len(batch.targets) if task.per == "row" else len(questions(batch)))


@pytest.mark.parametrize("name", [name for name in SMALL if name not in ("regression", "text")])
def test_the_score_counts_right_answers(name):
    task = small(name)
    batch = task.batch("test", seed=0, number=0, rows=4)
    right = torch.nn.functional.one_hot(batch.targets.clamp(min=0), task.outputs).float()
    count = int((batch.targets != IGNORED).sum())
    assert task.score(right, batch.targets) == (count, count)
    wrong = right.roll(1, dims=-1)
    assert task.score(wrong, batch.targets) == (0, count)


@pytest.mark.parametrize("name", [name for name in SMALL if "lengths" in SMALL[name] and name != "recall"])
@pytest.mark.parametrize(
    ("lengths", "error"), [([], ValueError), ([-16], ValueError), ([16.0], TypeError), ([True], TypeError)]
)
def test_lengths_that_are_none_are_refused(name, lengths, error):
    with pytest.raises(error, match="lengths"):
        build_task({"task": name, **SMALL[name], "lengths": lengths})


@pytest.mark.parametrize(
    ("values", "error"), [("64", TypeError), (64, TypeError), ([3], ValueError), ([8, 8], ValueError)]
)
def test_counts_are_lists_of_different_integers(values, error):
    with pytest.raises(error, match="lengths: expected"):
        check_counts("lengths", values, at_least=4)


@pytest.mark.parametrize("name", SMALL)
def test_every_argument_has_a_default_and_a_description(name):
    cls = list_tasks()[name]
    documented = inspect.getdoc(cls)
    for key, parameter in inspect.signature(cls).parameters.items():
        assert parameter.default is not inspect.Parameter.empty
        assert f"{key}:" in documented
    build_task(name)


# ---------------------------------------------------------------------- recall


def recall_answer(row: list[int], place: int, pairs: int) -> int | None:
    """By the definition, from what stands up to `place` only."""
    table = dict(zip(row[0 : 2 * pairs : 2], row[1 : 2 * pairs : 2], strict=True))
    return table.get(row[place]) if place >= 2 * pairs else None


@pytest.fixture(scope="module")
def recall() -> tuple[Recall, Batch]:
    task = Recall(lengths=[64], pairs=[6], vocabulary=40)
    return task, task.batch("train", seed=1, number=0, rows=300)


def test_recall_rows_have_the_structure_of_the_definition(recall):
    _, batch = recall
    for row, target in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        keys, values = row[0:12:2], row[1:12:2]
        assert len(set(keys)) == len(set(values)) == 6
        assert all(1 <= key < 20 for key in keys)
        assert all(20 <= value < 40 for value in values)
        asked = [place for place, answer in enumerate(target) if answer != IGNORED]
        assert sorted(row[place] for place in asked) == sorted(keys)  # each once
        assert all(place >= 12 and place % 2 == 0 for place in asked)
        assert all(not (set(row[place : place + 1]) & set(keys)) for place in range(12, 64) if place not in asked)
        assert 0 not in row


def test_a_naive_solver_of_recall_is_always_right_and_answers_nothing_else(recall):
    _, batch = recall
    for row, target in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        found = [recall_answer(row[: place + 1], place, 6) if place >= 12 else None for place in range(64)]
        assert [IGNORED if answer is None else answer for answer in found] == target


def test_recall_fillers_are_all_other_tokens_alike(recall):
    _, batch = recall
    fillers: Counter[int] = Counter()
    for row, target in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        fillers.update(row[place] for place in range(12, 64) if target[place] == IGNORED)
    counts = np.array([fillers[token] for token in range(1, 40)])
    # keys are fillers where they are no key of the row, 13 rows in 19; values are fillers always
    expected = np.where(np.arange(1, 40) < 20, 13 / 19, 1.0)
    expected *= counts.sum() / expected.sum()
    assert np.abs(counts / expected - 1).max() < 0.2
    assert fillers[0] == 0


@pytest.mark.parametrize("power", [0.01, 1.0])
def test_recall_distances_follow_the_closed_form(power):
    rows = 20_000
    batch = Recall(lengths=[24], pairs=[2], vocabulary=16, power=power).batch("train", seed=0, number=0, rows=rows)
    weights = np.arange(1, 11) ** (power - 1)
    weights = weights / weights.sum()
    # one place is drawn for the first key by the weights, then one of the others for the second
    second = sum(weights[a] * np.where(np.arange(10) == a, 0, weights) / (1 - weights[a]) for a in range(10))
    for pair, expected in enumerate((weights, second)):
        asked = (batch.inputs[:, 4:] == batch.inputs[:, 2 * pair, None]).nonzero()  # fillers are never a key
        assert asked[:, 0].tolist() == list(range(rows))
        assert (asked[:, 1] % 2 == 0).all()
        found = np.bincount(asked[:, 1] // 2, minlength=10) / rows
        assert np.abs(found - expected).max() < 4 * 0.5 / math.sqrt(rows)  # four standard errors


def test_recall_spans_and_references():
    task = Recall(lengths=[64], pairs=[4, 8], vocabulary=64)
    batch = task.batch("train", seed=0, number=0, rows=200)
    nearest = [
        place - row.index(row[place])
        for row, place in ((batch.inputs[b].tolist(), i) for b, i, _ in questions(batch))
        if row.index(row[place]) == 0
    ]
    assert min(nearest) - 1 == task.span(task.cases[0]) == 7  # from the first value to its query
    assert sorted(task.references().values()) == [1 / 32, (1 / 4 + 1 / 8) / 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": [15], "pairs": [2]}, "lengths: expected an even number"),
        ({"lengths": [16], "pairs": [5]}, "at least 4"),
        ({"lengths": [16, 32], "pairs": [2]}, "lengths: expected one"),
        ({"lengths": [64], "pairs": [8], "vocabulary": 16}, "vocabulary: expected more than 17"),
        ({"power": 0.0}, "power: expected a positive number"),
        ({"lengths": [64], "pairs": [0]}, "pairs: expected a positive integer"),
    ],
)
def test_recall_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        Recall(**options)
