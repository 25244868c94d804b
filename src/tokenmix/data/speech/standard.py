"""Data sets in their standard folders: LibriSpeech, Speech Commands, and a manifest of files."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from tokenmix.data.speech.clip import file_clip
from tokenmix.data.speech.missing import require_folder
from tokenmix.data.speech.splits import Splits, by_split
from tokenmix.data.speech.texts import normalise_text

_COLUMNS = ("file", "text", "lang", "split")


def load_manifest(
    folder: str | Path | None, *, languages: Sequence[str] | None = None, sources: Sequence[str] | None = None
) -> Splits:
    """Files named by a `manifest.tsv` with the columns file, text, lang and split, and speaker or source where known.

    Args:
        folder: that holds the manifest; files are relative to it.
        languages: only these; None for all.
        sources: only rows of these in the column source; None for all.

    Raises:
        FileNotFoundError: no manifest. ValueError: a column is missing, or a line is not whole.
    """
    root = require_folder("manifest", folder, "make one with a manifest.tsv")
    path = root / "manifest.tsv"
    if not path.is_file():
        raise FileNotFoundError(f"folder: manifest expected {path}, found nothing there")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    missing = [name for name in _COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise ValueError(
            f"manifest: expected the columns {', '.join(_COLUMNS)} in {path}, found no {', '.join(missing)}"
        )
    found = []
    for line, row in enumerate(rows, start=2):
        if None in (row[name] for name in _COLUMNS) or not re.fullmatch(r"train|valid|test\w*", row["split"]):
            raise ValueError(
                f"manifest: expected file, text, lang and a split (train, valid or test) in line {line} of {path},"
                f" found {[row[name] for name in _COLUMNS]}"
            )
        text = normalise_text(row["text"], row["lang"])
        wanted = (languages is None or row["lang"] in languages) and (sources is None or row.get("source") in sources)
        if wanted and text:
            speaker = row.get("speaker") or row.get("source") or "unknown"
            found.append((row["split"], file_clip(root / row["file"], text, speaker, row["lang"])))
    return by_split(found)


def load_librispeech(
    folder: str | Path | None,
    *,
    train: Sequence[str] = ("train-clean-100", "train-clean-360", "train-other-500"),
    valid: Sequence[str] = ("dev-clean",),
    test: Sequence[str] = ("test-clean", "test-other"),
) -> Splits:
    """LibriSpeech: <subset>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac, and a .trans.txt a chapter.

    Args:
        folder: LibriSpeech's own, or the one above it; subsets that are not there are left out.
        train, valid: subsets.
        test: subsets; the first is the split "test", each other one "test_<subset>".

    Raises:
        FileNotFoundError: none of the subsets is there.

    Source:
        Panayotov et al. 2015, openslr.org/12, CC BY 4.0.
    """
    remedy = "download and unpack train-clean-100, dev-clean and test-clean of https://www.openslr.org/12"
    root = require_folder("librispeech", folder, remedy)
    if (root / "LibriSpeech").is_dir():
        root = root / "LibriSpeech"
    splits = dict.fromkeys(train, "train") | dict.fromkeys(valid, "valid")
    splits |= {subset: "test" if place == 0 else f"test_{subset}" for place, subset in enumerate(test)}
    found = []
    for subset, split in splits.items():
        for chapter in sorted((root / subset).glob("*/*/*.trans.txt")):
            for line in chapter.read_text(encoding="utf-8").splitlines():
                name, _, said = line.partition(" ")
                text = normalise_text(said)
                if text:
                    found.append((split, file_clip(chapter.with_name(f"{name}.flac"), text, name.split("-")[0], "en")))
    if not found:
        raise FileNotFoundError(f"folder: librispeech expected {sorted(splits)} in {root}, found none; {remedy}")
    return by_split(found)


def load_speech_commands(folder: str | Path | None) -> Splits:
    """Speech Commands: <word>/<speaker>_nohash_<number>.wav, testing_list.txt and validation_list.txt.

    Args:
        folder: the data set's, or the one that torchaudio keeps it in.

    Raises:
        FileNotFoundError: no such folder, or one without the two lists.

    Source:
        Warden 2018, arXiv 1804.03209, CC BY 4.0.
    """
    remedy = "download and unpack speech_commands_v0.02.tar.gz"
    root = require_folder("speech_commands", folder, remedy)
    below = root / "SpeechCommands" / "speech_commands_v0.02"
    root = below if below.is_dir() else root
    lists = {"test": root / "testing_list.txt", "valid": root / "validation_list.txt"}
    if missing := [path.name for path in lists.values() if not path.is_file()]:
        raise FileNotFoundError(
            f"folder: speech_commands expected {', '.join(missing)} in {root}, found none; {remedy}"
        )
    splits = {line: split for split, path in lists.items() for line in path.read_text().split()}
    found = []
    for path in sorted(root.glob("*/*_nohash_*.wav")):
        word = path.parent.name
        if not word.startswith("_"):  # _background_noise_
            split = splits.get(f"{word}/{path.name}", "train")
            found.append((split, file_clip(path, word, path.name.partition("_")[0], "en")))
    return by_split(found)
