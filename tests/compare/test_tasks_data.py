"""The tasks on data that exists: text and digits."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenmix.compare.tasks import Digits, Text
from tokenmix.data import ngram_bits_per_byte


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("text")
    generator = np.random.default_rng(0)
    for split, size in (("train", 3000), ("valid", 1000), ("test", 1200)):
        (folder / f"{split}.txt").write_bytes(bytes(generator.integers(97, 105, size).tolist()))
    return {split: str(folder / f"{split}.txt") for split in ("train", "valid", "test")}


def starts(text: Text, split: str, number: int, rows: int) -> list[int]:
    """Where the windows of a batch stand in their split; each is found once, as the text is random."""
    data = text.corpus.split(split)
    batch = text.batch(split, seed=0, number=number, rows=rows)
    found = []
    for row, target in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        window = bytes([*row, target[-1]])
        assert data.count(window) == 1
        found.append(data.find(window))
    return found


def test_the_target_is_the_next_byte(files):
    text = Text(files=files, lengths=[16, 24])
    for split in ("train", "valid", "test"):
        for number in (0, 1):
            batch = text.batch(split, seed=0, number=number, rows=6)
            data = Path(files[split]).read_bytes()
            for row, target in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
                assert bytes([*row, target[-1]]) in data
                assert row[1:] == target[:-1]  # who reads the future copies it
    assert text.needs_causal


def test_training_windows_begin_anywhere_in_train(files):
    text = Text(files=files, lengths=[16])
    found = [start for number in range(20) for start in starts(text, "train", number, 100)]
    assert min(found) < 20
    assert max(found) > 2984 - 20
    assert len(set(found)) > 1300  # 2000 draws of 2984 places: 1457 different ones expected


@pytest.mark.parametrize("split", ["valid", "test"])
def test_windows_to_score_on_are_spread_evenly_and_ignore_the_seed(files, split):
    text = Text(files=files, lengths=[16, 24])
    size = len(text.corpus.split(split))
    assert torch.equal(text.batch(split, 0, 3, 8).inputs, text.batch(split, 9, 3, 8).inputs)
    for number in range(6):
        found = starts(text, split, number, 8)
        length = (16, 24)[number % 2]
        assert set(np.diff(found)) <= {(size - length) // 8, -(-(size - length) // 8)}
        assert found[0] < (size - length) / 8
    covered = np.sort([start for number in range(0, 20, 2) for start in starts(text, split, number, 8)])
    assert len(set(covered.tolist())) == 80
    # steps of the golden ratio leave gaps of at most 1.9 times the mean after any count (three distances)
    assert np.diff(covered).max() < 2 * (size - 16) / 80
    cases = starts(text, split, 0, 8), starts(text, split, 1, 8)
    assert max(abs(a - b) for a, b in zip(*cases, strict=True)) <= 8  # cases are of the same places


def test_windows_reach_both_ends(tmp_path):
    for split, count in (("train", 9), ("valid", 5), ("test", 6)):
        (tmp_path / f"{split}.txt").write_bytes(bytes(range(count)))
    text = Text(files={split: str(tmp_path / f"{split}.txt") for split in ("train", "valid", "test")}, lengths=[4])
    assert text.batch("valid", 0, 0, 3).inputs.tolist() == [[0, 1, 2, 3]] * 3
    assert text.batch("test", 0, 0, 2).targets.tolist() == [[1, 2, 3, 4], [2, 3, 4, 5]]
    assert {row[0] for row in text.batch("train", 0, 0, 100).inputs.tolist()} == {0, 1, 2, 3, 4}
    longer = Text(files={split: str(tmp_path / f"{split}.txt") for split in ("train", "valid", "test")}, lengths=[5])
    with pytest.raises(ValueError, match="lengths: expected at most 4 for the valid split of 5 bytes, found 5"):
        longer.batch("valid", 0, 0, 3)


def test_the_score_is_bits_of_each_byte(files):
    text = Text(files=files, lengths=[16])
    batch = text.batch("test", 0, 0, 4)
    predictions = torch.randn(4, 16, 256, generator=torch.Generator().manual_seed(0))
    total, count = text.score(predictions, batch.targets)
    expected = 0.0
    for row, target in zip(predictions.double().tolist(), batch.targets.tolist(), strict=True):
        for logits, byte in zip(row, target, strict=True):
            expected -= math.log2(math.exp(logits[byte]) / sum(map(math.exp, logits)))
    assert count == 64
    assert total == pytest.approx(expected, rel=1e-5)
    uniform, count = text.score(torch.zeros(4, 16, 256), batch.targets)
    assert uniform / count == pytest.approx(8)
    assert float(text.loss(predictions, batch.targets)) == pytest.approx(expected / 64 * math.log(2), rel=1e-5)


def test_references_of_text_are_ngram_models(files):
    train, test = Path(files["train"]).read_bytes(), Path(files["test"]).read_bytes()
    for count in (None, 500):
        references = Text(files=files, lengths=[16], baseline_bytes=count).references()
        expected = {
            name: ngram_bits_per_byte(train[:count], test, order)
            for name, order in (("unigram", 1), ("bigram", 2), ("3-gram", 3), ("6-gram", 6))
        }
        assert references == pytest.approx(expected)
    assert references["unigram"] == pytest.approx(3, abs=0.1)  # 8 letters, all alike


def test_text_is_read_at_the_first_batch_and_once(files, monkeypatch):
    import tokenmix.compare.tasks.text as module

    calls = []
    monkeypatch.setattr(module, "load_corpus", lambda name, files: calls.append((name, files)))
    module._load.cache_clear()
    try:
        one, other = Text(files=files, lengths=[16]), Text(files=Path(files["train"]))
        assert not calls
        assert one.corpus is one.corpus is Text(files=dict(files)).corpus
        assert calls == [("python_stdlib", files)]
        assert other.corpus is None
        assert calls[1:] == [("python_stdlib", files["train"])]
    finally:
        module._load.cache_clear()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"corpus": "bible"},
            ValueError,
            "corpus: expected one of python_stdlib, world_english_bible, or files, found",
        ),
        ({"baseline_bytes": 0}, ValueError, "baseline_bytes: expected a positive integer, found 0"),
        ({"files": {1, 2}}, TypeError, "files: expected paths"),
    ],
)
def test_text_refuses(options, error, message):
    with pytest.raises(error, match=message):
        Text(**options)


# ---------------------------------------------------------------------- digits


def keys(batch) -> list[tuple[int, ...]]:
    return [tuple(row) for row in batch.inputs.tolist()]


def test_rows_are_the_images_of_scikit_learn():
    from sklearn.datasets import load_digits

    data = load_digits()
    answers = {
        tuple(image.astype(int).ravel().tolist()): int(digit)
        for image, digit in zip(data.images, data.target, strict=True)
    }
    assert len(answers) == 1797
    seen = []
    for split, size in (("train", 1285), ("valid", 256), ("test", 256)):
        batch = Digits().batch(split, seed=0, number=0, rows=size)
        assert [answers[key] for key in keys(batch)] == batch.targets.tolist()
        assert batch.layout.grid == (8, 8)
        seen += keys(batch)
    assert set(seen) == set(answers)  # every image is in one split, once
    assert len(seen) == 1797


def test_an_epoch_draws_every_training_image_once():
    task = Digits()
    images = set(keys(task.batch("train", seed=0, number=0, rows=1285)))
    rows = [key for number in range(26) for key in keys(task.batch("train", seed=5, number=number, rows=100))]
    first, second = rows[:1285], rows[1285:2570]
    assert set(first) == set(second) == images
    assert first != second
    assert rows[:100] != keys(task.batch("train", seed=6, number=0, rows=100))


@pytest.mark.parametrize("split", ["valid", "test"])
def test_scoring_goes_through_the_split_in_order(split):
    task = Digits()
    whole = keys(task.batch(split, seed=0, number=0, rows=256))
    assert len(set(whole)) == 256
    parts = [key for number in range(3) for key in keys(task.batch(split, seed=number, number=number, rows=100))]
    assert parts == whole + whole[:44]


def test_references_of_digits():
    references = Digits().references()
    assert references["guessing"] == 0.1
    assert 0.93 < references["logistic regression"] < 0.98  # 0.953 with scikit-learn 1.9
    assert references == Digits().references()


def test_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r"task='digits': .*scikit-learn.*pip install 'tokenmix\[compare\]'"):
        Digits()
