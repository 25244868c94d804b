"""Speech from Hugging Face's hub, or from a local folder in a layout that `datasets` reads."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenmix.data.speech.audio import AudioError, Samples, audio_seconds, read_audio
from tokenmix.data.speech.clip import Clip, file_clip
from tokenmix.data.speech.splits import Splits, by_split
from tokenmix.data.speech.texts import normalise_text


@dataclass(frozen=True)
class RowAudio:
    """The audio of one row of a data set of `datasets`, which stays on disk until it is read.

    Args:
        rows: the data set, with audio that is not decoded.
        place: of the row.
        column: that holds {"bytes", "path"}.
        name: what messages call it.
    """

    rows: Any = field(repr=False)
    place: int
    column: str
    name: str

    def read(self, rate: int) -> Samples:
        """See `read_audio`."""
        return read_audio(self.stored(), rate, self.name)

    def stored(self) -> bytes | str:
        """The file's bytes, or its path where the row holds none.

        Raises:
            AudioError: the row holds neither.
        """
        audio = self.rows[self.place][self.column]
        if audio is None or (audio["bytes"] is None and not audio["path"]):
            raise AudioError(f"{self.name}: expected audio, found none")
        return str(audio["path"]) if audio["bytes"] is None else bytes(audio["bytes"])


def load_hub(
    folder: str | Path | None,
    *,
    config: str | None = None,
    splits: Mapping[str, str] | None = None,
    audio_column: str = "audio",
    text_column: str = "text",
    speaker_column: str | None = None,
    language: str = "en",
) -> Splits:
    """A data set of the hub by its name, such as "openslr/librispeech_asr", or a folder in one of its layouts.

    Audio is taken as bytes or paths and read by soundfile: `datasets` itself would need torchcodec. So a folder in the
    layout "audiofolder", of <split>/metadata.csv or .jsonl with a column file_name, is read without it.

    Args:
        folder: name or folder.
        config: which part, such as "clean".
        splits: the hub's names of the splits train, valid and test; default train, validation and test.
        audio_column, text_column, speaker_column: names of columns.
        language: of the texts.

    Raises:
        FileNotFoundError: neither a folder nor a data set that can be had; the message says what would mend it.
        ModuleNotFoundError: datasets is missing. ValueError: no name, a column or a split that is not there.
    """
    try:
        from datasets import Audio, load_dataset
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("hub: reading it needs datasets: pip install 'tokenmix[recipes]'") from error
    if folder is None:
        raise ValueError("folder: hub expected the name of a data set, such as openslr/librispeech_asr, found none")
    names = dict(splits or {"train": "train", "valid": "validation", "test": "test"})
    if (root := Path(folder)).is_dir() and (listed := sorted(root.glob("*/metadata.*"))):
        return _audio_folder(listed, names, text_column, speaker_column, language)
    try:
        loaded = load_dataset(str(folder), config)
    except (OSError, ValueError) as error:  # what datasets raises without a network, and for names that are none
        remedy = (
            f"a network, or the folder that `hf download --repo-type dataset {folder}` made elsewhere, would mend it"
        )
        raise FileNotFoundError(
            f"folder: hub expected a folder or a data set of the hub, found {str(error).splitlines()[0]} for {folder}"
            + (f"; {remedy}" if str(folder).count("/") < 2 else "")
        ) from error
    missing = [name for name in names.values() if name not in loaded]
    if missing and (splits is not None or len(missing) == len(names)):
        raise ValueError(f"splits: expected some of {sorted(loaded)} of {folder}, found {missing}")
    found: list[tuple[str, Clip]] = []
    for split, name in names.items():
        if name in missing:
            continue
        columns = loaded[name].column_names
        for option, column in (
            ("audio_column", audio_column),
            ("text_column", text_column),
            ("speaker_column", speaker_column),
        ):
            if column is not None and column not in columns:
                raise ValueError(f"{option}: expected one of {columns} of {folder}, found {column!r}")
        rows = loaded[name].cast_column(audio_column, Audio(decode=False))
        speakers = rows[speaker_column] if speaker_column else ["unknown"] * len(rows)
        for place, (text, speaker) in enumerate(zip(rows[text_column], speakers, strict=True)):
            said = normalise_text(text or "", language)
            if said:
                source = RowAudio(rows, place, audio_column, f"{folder} {name} row {place}")
                found.append((split, Clip(said, str(speaker), language, source.name, _seconds(source), source)))
    return by_split(found)


def _seconds(source: RowAudio) -> float:
    try:
        return audio_seconds(source.stored(), source.name)
    except AudioError:
        return 0.0


def _audio_folder(
    listed: Sequence[Path], names: Mapping[str, str], text_column: str, speaker_column: str | None, language: str
) -> Splits:
    """The clips of each <split>/metadata.csv or metadata.jsonl."""
    found: list[tuple[str, Clip]] = []
    for split, name in names.items():
        for path in (path for path in listed if path.parent.name == name):
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file)) if path.suffix == ".csv" else [json.loads(line) for line in file]
            for row in rows:
                for column in filter(None, ("file_name", text_column, speaker_column)):
                    if column not in row:
                        raise ValueError(
                            f"text_column, speaker_column: expected columns of {path}, found no {column!r}"
                        )
                said = normalise_text(row[text_column] or "", language)
                if said:
                    speaker = str(row[speaker_column]) if speaker_column else "unknown"
                    found.append((split, file_clip(path.parent / row["file_name"], said, speaker, language)))
    if not found:
        raise ValueError(
            f"splits: expected some of {sorted({path.parent.name for path in listed})}, found {list(names.values())}"
        )
    return by_split(found)
