"""Folders in the layouts of the hub: bytes in parquet, files beside a table; nothing is decoded by `datasets`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from clip_cases import TOKENIZER, tone, write

from tokenmix.data.speech import AudioError, ClipDataset, load_speech


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` prepares goes nowhere else, and it reaches no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def parquet(folder: Path, texts: str = "text") -> Path:
    """A copy of a data set as the hub keeps it: data/<split>-00000-of-00001.parquet with {"bytes", "path"}."""
    audio = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    for split, count in (("train", 3), ("validation", 1), ("test", 2)):
        rows: dict[str, list[Any]] = {"audio": [], texts: [], "speaker_id": []}
        for i in range(count):
            path = write(folder / "made" / f"{split}{i}.flac", tone(16000, 0.2 + 0.1 * i), 16000)
            rows["audio"].append({"bytes": path.read_bytes(), "path": path.name})
            rows[texts].append(("ONE", "Don’t!", "50 %")[i])
            rows["speaker_id"].append(100 + i)
        table = pyarrow.table({"audio": pyarrow.array(rows.pop("audio"), audio), **rows})
        (folder / "set" / "data").mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table, folder / "set" / "data" / f"{split}-00000-of-00001.parquet")
    return folder / "set"


def test_bytes_in_parquet(tmp_path: Path) -> None:
    found = load_speech("hub", parquet(tmp_path), speaker_column="speaker_id")
    assert {split: [(clip.text, clip.speaker) for clip in clips] for split, clips in found.items()} == {
        "train": [("one", "100"), ("don't", "101")],  # the third text has a symbol
        "valid": [("one", "100")],
        "test": [("one", "100"), ("don't", "101")],
    }
    clip = found["train"][1]
    assert clip.seconds == pytest.approx(0.3)
    np.testing.assert_allclose(clip.read(16000), tone(16000, 0.3), atol=1e-4)
    assert len(clip.read(8000)) == 2400


def test_columns_and_splits_have_other_names(tmp_path: Path) -> None:
    root = parquet(tmp_path, "sentence")
    found = load_speech("hub", root, text_column="sentence", splits={"train": "validation", "test_far": "test"})
    assert {split: len(clips) for split, clips in found.items()} == {"train": 1, "valid": 0, "test": 0, "test_far": 2}
    with pytest.raises(ValueError, match=r"text_column: expected one of \[.*'sentence'.*\], found 'text'|text_column"):
        load_speech("hub", root)
    with pytest.raises(ValueError, match=r"splits: expected some of \['test', 'train', 'validation'\].*\['dev'\]"):
        load_speech("hub", root, text_column="sentence", splits={"valid": "dev"})


def test_a_bad_row_is_named_and_left_out(tmp_path: Path) -> None:
    audio = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    good = write(tmp_path / "good.wav").read_bytes()
    contents = [good, b"no audio", b"", good[: len(good) // 2]]
    rows = [*({"bytes": content, "path": "x.wav"} for content in contents), None, {"bytes": None, "path": None}]
    (tmp_path / "set" / "data").mkdir(parents=True)
    table = pyarrow.table({"audio": pyarrow.array(rows, audio), "text": ["one"] * 6})
    pyarrow.parquet.write_table(table, tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
    dataset = ClipDataset(load_speech("hub", tmp_path / "set")["train"], TOKENIZER, rate=8000)
    assert len(dataset) == 6
    bad = dataset.check(full=True)
    assert [name.rpartition(" ")[2] for name in bad] == ["1", "2", "3", "4", "5"]
    assert all("train row" in reason for reason in bad.values())
    assert len(dataset) == 1


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_beside_files(kind: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        rows = [{"file_name": f"{split}{i}.wav", "text": ("one, two", "SIX")[i], "who": f"p{i}"} for i in range(2)]
        for row in rows:
            write(tmp_path / "set" / split / row["file_name"], tone(8000, 0.2))
        if kind == "csv":
            lines = ["file_name,text,who", *(f'{row["file_name"]},"{row["text"]}",{row["who"]}' for row in rows)]
        else:
            lines = [json.dumps(row) for row in rows]
        (tmp_path / "set" / split / f"metadata.{kind}").write_text("\n".join(lines) + "\n")
    found = load_speech("hub", tmp_path / "set", speaker_column="who")
    assert [(clip.text, clip.speaker) for clip in found["train"]] == [("one two", "p0"), ("six", "p1")]
    assert found["valid"] == []
    assert found["test"][0].read(8000).shape == (1600,)
    (tmp_path / "set" / "test" / "test0.wav").unlink()
    (lost, _) = load_speech("hub", tmp_path / "set")["test"]
    with pytest.raises(AudioError, match=r"test0\.wav: expected a file, found nothing"):
        lost.read(8000)
    with pytest.raises(ValueError, match=r"text_column.*'sentence'"):
        load_speech("hub", tmp_path / "set", text_column="sentence")
    with pytest.raises(ValueError, match=r"splits: expected some of \['test', 'train'\], found \['nothing'\]"):
        load_speech("hub", tmp_path / "set", splits={"train": "nothing"})


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"folder: hub expected the name of a data set"):
        load_speech("hub")
    with pytest.raises(FileNotFoundError, match=r"found .* for nobody/nothing; .*hf download --repo-type dataset"):
        load_speech("hub", "nobody/nothing")
    with pytest.raises(FileNotFoundError, match=r"hub expected a folder or a data set of the hub") as error:
        load_speech("hub", tmp_path / "none")
    assert str(tmp_path / "none") in str(error.value)
