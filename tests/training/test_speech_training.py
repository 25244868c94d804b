"""Training on speech: order of clips, settings of tasks, processes."""

import pytest

from tokenmix.training import TrainingConfig
from tokenmix.training.speech_config import SpeechDataConfig, changed, read_tasks
from tokenmix.training.speech_report import write_examples
from tokenmix.training.speech_trainer import LengthBuckets

LENGTHS = [(i * 37) % 101 for i in range(103)]


def test_buckets_hold_every_row_once_and_like_lengths_together():
    sampler = LengthBuckets(LENGTHS, batch_size=4, seed=1)
    rows = list(sampler)
    assert sorted(rows) == list(range(103))
    assert len(sampler) == 103
    batches = [[LENGTHS[row] for row in rows[i : i + 4]] for i in range(0, 100, 4)]
    spans = [max(batch) - min(batch) for batch in batches]
    assert sum(spans) / len(spans) < 12  # of a shuffle: 60
    means = [sum(batch) for batch in batches]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)


def test_buckets_are_a_function_of_seed_and_epoch():
    first, second = LengthBuckets(LENGTHS, 4, seed=1), LengthBuckets(LENGTHS, 4, seed=1)
    list(first)
    first.set_epoch(3)
    second.set_epoch(3)
    assert list(first) == list(first) == list(second)
    second.set_epoch(4)
    assert list(first) != list(second)
    assert list(LengthBuckets(LENGTHS, 4, seed=1)) != list(LengthBuckets(LENGTHS, 4, seed=2))


def test_the_data_set_is_told_the_epoch():
    told = []
    LengthBuckets(LENGTHS, 4, seed=1, on_epoch=told.append).set_epoch(5)
    assert told == [5]


def test_tasks_change_what_is_shared():
    shared = TrainingConfig(steps=100, learning_rate=0.5)
    tasks = read_tasks(
        {"a": {"data": {"name": "fsdd"}}, "b": {"training": {"steps": 3}, "start_from": "a"}},
        SpeechDataConfig(),
        shared,
    )
    assert [tasks["a"].data.name, tasks["b"].data.name] == ["fsdd", "espeak"]
    assert [tasks["a"].training.steps, tasks["b"].training.steps] == [100, 3]
    assert tasks["b"].training.learning_rate == 0.5
    assert tasks["b"].start_from == "a"


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({}, "tasks: expected at least one"),
        ({"a": {"dta": {}}}, r"tasks.a.dta: not a key here; did you mean 'data'\?"),
        ({"a": {"data": {"nmae": "fsdd"}}}, r"tasks.a.data.nmae: not a key here; did you mean 'name'"),
        ({"a": {"training": {"step": 3}}}, r"tasks.a.step: not a key here; did you mean 'steps'"),
        (
            {"a": {"start_from": "b"}, "b": {}},
            r"tasks.a.start_from: expected one of the tasks before it",
        ),
    ],
)
def test_tasks_that_are_refused(tasks, message):
    with pytest.raises(ValueError, match=message):
        read_tasks(tasks, SpeechDataConfig(), TrainingConfig())


def test_changed_leaves_the_shared_settings_alone():
    shared = SpeechDataConfig()
    assert changed(shared, {"max_seconds": 3.0}, "data").max_seconds == 3.0
    assert shared.max_seconds == 15.0


def test_examples():
    assert write_examples([("a", "b"), ("c", "d")], count=1) == "said:    a\nwritten: b"
