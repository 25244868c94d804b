"""Corpora from files and from the hub: standard layouts, documents, and the one error without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from tokenmix.data.corpus import SEPARATOR, SPLITS, cut
from tokenmix.data.text import load_corpus
from tokenmix.data.text_files import STORY_SEPARATOR, hub_text, join_rows, text_files

WIKITEXT = Path(__file__).resolve().parents[3] / "shared/data/wikitext2"
needs_wikitext = pytest.mark.skipif(
    not (WIKITEXT / "valid.txt").is_file(),
    reason="WikiText-2's valid.txt and test.txt are not in ../shared/data/wikitext2",
)
WIKITEXT_ROWS = ["", " = Title = \n", "", " Some words of an article . \n"]
WIKITEXT_BYTES = b" \n = Title = \n \n Some words of an article . \n"


def write(folder, **texts):
    """Files of the folder by their name, with __ for a dot."""
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8", newline="\n")
    return folder


class TestFiles:
    def test_one_file_is_cut_by_position_at_lines(self, tmp_path):
        lines = [f"line number {i:04}\n" for i in range(1000)]
        write(tmp_path, book__txt="".join(lines))
        corpus = text_files(tmp_path / "book.txt")
        assert corpus.train + corpus.valid + corpus.test == "".join(lines).encode()
        assert [corpus.split(split).count(b"\n") for split in SPLITS] == pytest.approx([900, 50, 50], abs=1)
        assert all(corpus.split(split).endswith(b"\n") for split in SPLITS)
        assert "cut 90/5/5" in corpus.description

    def test_several_files_are_documents(self, tmp_path):
        write(tmp_path, a__txt="first", b__txt="second", c__txt="held out", d__txt="scored")
        corpus = text_files(str(tmp_path / "[ab].txt"), valid=str(tmp_path / "c.txt"), test=[tmp_path / "d.txt"])
        assert corpus.train == b"first" + SEPARATOR + b"second"
        assert (corpus.valid, corpus.test) == (b"held out", b"scored")
        assert corpus.documents == {"train": 2, "valid": 1, "test": 1}

    def test_bytes_come_as_they_are(self, tmp_path):
        content = bytes(range(256)) * 8
        (tmp_path / "any.bin").write_bytes(content)
        corpus = text_files(tmp_path / "any.bin", valid=tmp_path / "any.bin", test=tmp_path / "any.bin")
        assert corpus.train == corpus.test == content

    @pytest.mark.parametrize("names", [("wiki.{}.tokens", "valid"), ("wiki.{}.raw", "valid"), ("{}.txt", "valid")])
    def test_standard_folders(self, tmp_path, names):
        pattern, valid = names
        for split, name in zip(SPLITS, ("train", valid, "test"), strict=True):
            (tmp_path / pattern.format(name)).write_text(f"the {split} split\n")
        corpus = load_corpus(files=tmp_path)
        assert (corpus.train, corpus.valid, corpus.test) == (
            b"the train split\n",
            b"the valid split\n",
            b"the test split\n",
        )

    def test_tiny_stories_have_documents_and_a_test_split(self, tmp_path):
        stories = "\n<|endoftext|>\n".join(f"Story {i}." for i in range(10))
        for split in ("train", "valid"):
            (tmp_path / f"TinyStoriesV2-GPT4-{split}.txt").write_text(stories, newline="\n")
        corpus = load_corpus(files=str(tmp_path))
        assert corpus.separator == STORY_SEPARATOR
        assert corpus.documents["train"] == 10
        assert (corpus.valid + corpus.test).decode() == stories
        assert "second half of valid" in corpus.description

    def test_parquet_shards_of_the_hub_are_one_text(self, tmp_path):
        for name, rows in (("train-00000-of-00002", WIKITEXT_ROWS), ("train-00001-of-00002", WIKITEXT_ROWS)):
            datasets.Dataset.from_dict({"text": rows}).to_parquet(tmp_path / f"{name}.parquet")
        for name in ("validation", "test"):
            datasets.Dataset.from_dict({"text": WIKITEXT_ROWS}).to_parquet(tmp_path / f"{name}-00000-of-00001.parquet")
        corpus = load_corpus(files=tmp_path)
        assert corpus.train == 2 * WIKITEXT_BYTES
        assert corpus.test == WIKITEXT_BYTES

    def test_json_lines(self, tmp_path):
        rows = [{"text": "first\u2028line"}, {"text": "second"}]
        write(
            tmp_path, rows__jsonl="".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), t__txt="x\ny\n"
        )
        corpus = load_corpus(files={"train": tmp_path / "rows.jsonl", "valid": tmp_path / "t.txt"})
        assert corpus.train.decode() == "first\u2028line\n\x00\nsecond"
        assert (corpus.valid, corpus.test) == (b"x\n", b"y\n")

    @needs_wikitext
    def test_train_on_wikitext_valid_and_test_on_test(self):
        corpus = load_corpus(files={"train": WIKITEXT / "valid.txt", "test": WIKITEXT / "test.txt"})
        assert len(corpus.train) + len(corpus.valid) == 1_121_681
        assert len(corpus.test) == 1_256_449
        with pytest.raises(FileNotFoundError, match=r"train=.*valid.txt test=.*test.txt"):
            load_corpus(files=WIKITEXT)


class TestHub:
    def test_offline_there_is_one_error_that_says_what_to_do(self, tmp_path):
        program = """if True:
            import sys
            import tokenmix.data
            assert not {"datasets", "transformers", "pyarrow"} & set(sys.modules)  # loaded when needed
            from tokenmix.data.text_files import hub_text
            try:
                hub_text("wikitext-2")
            except ConnectionError as error:
                print(error)
        """
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)}
        ran = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | offline,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert ran.stdout.count("\n") == 1
        for part in (
            "hub='wikitext-2'",
            "Salesforce/wikitext",
            "hf download",
            "--data.files",
            "train.txt + valid.txt + test.txt",
        ):
            assert part in ran.stdout

    def test_rows_become_the_bytes_of_the_files(self, monkeypatch):
        rows = {name: datasets.Dataset.from_dict({"text": WIKITEXT_ROWS}) for name in ("train", "validation", "test")}
        asked = []
        monkeypatch.setattr(datasets, "load_dataset", lambda *args: asked.append(args) or datasets.DatasetDict(rows))
        corpus = load_corpus(hub="wikitext-103")
        assert asked == [("Salesforce/wikitext", "wikitext-103-raw-v1")]
        assert corpus.train == corpus.valid == corpus.test == WIKITEXT_BYTES

    def test_stories(self, monkeypatch):
        stories = datasets.Dataset.from_dict({"text": [f"Story {i}." for i in range(6)]})
        monkeypatch.setattr(
            datasets, "load_dataset", lambda *args: datasets.DatasetDict({"train": stories, "validation": stories})
        )
        corpus = hub_text("tinystories")
        assert corpus.documents["train"] == 6
        assert corpus.valid + corpus.test == corpus.train == join_rows(stories["text"])


def test_cut_never_splits_a_character():
    text = "日本語" * 100
    parts = cut(text.encode(), [0.335, 0.669])
    assert "".join(part.decode() for part in parts) == text
    assert all(abs(len(part) - 300) <= 6 for part in parts)
