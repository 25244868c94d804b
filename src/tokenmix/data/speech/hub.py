"""Speech from Hugging Face's hub, or from a local folder in a layout that `datasets` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenmix.data.speech.audio import AudioError, audio_seconds
from tokenmix.data.speech.clip import AudioSource, BytesAudio, Clip, FileAudio
from tokenmix.data.speech.splits import Splits, by_split
from tokenmix.data.speech.texts import normalise_text


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

    Audio is taken as bytes or paths and read by soundfile: `datasets` itself would need torchcodec.

    Args:
        folder: name or folder.
        config: which part, such as "clean".
        splits: the hub's names of the splits train, valid and test; default train, validation and test.
        audio_column, text_column, speaker_column: names of columns.
        language: of the texts.

    Raises:
        ModuleNotFoundError: datasets is missing. ValueError: no name, or a column that is not there.
    """
    try:
        from datasets import Audio, load_dataset
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("hub: reading it needs datasets: pip install 'tokenmix[recipes]'") from error
    if folder is None:
        raise ValueError("folder: hub expected the name of a data set, such as openslr/librispeech_asr, found none")
    names = splits or {"train": "train", "valid": "validation", "test": "test"}
    loaded = load_dataset(str(folder), config)
    found = []
    for split, name in names.items():
        if name not in loaded:
            continue
        columns = loaded[name].column_names
        for column in filter(None, (audio_column, text_column, speaker_column)):
            if column not in columns:
                raise ValueError(f"{column}: not a column of {folder}; it has {', '.join(columns)}")
        for place, row in enumerate(loaded[name].cast_column(audio_column, Audio(decode=False))):
            text = normalise_text(row[text_column] or "", language)
            if text:
                speaker = str(row[speaker_column]) if speaker_column else "unknown"
                found.append((split, _clip(row[audio_column], text, speaker, language, f"{folder} {name} {place}")))
    return by_split(found)


def _clip(audio: Any, text: str, speaker: str, language: str, name: str) -> Clip:
    source: AudioSource
    if audio.get("bytes") is not None:
        source, given = BytesAudio(audio["bytes"], name), audio["bytes"]
    else:
        name = str(audio["path"])
        source, given = FileAudio(Path(name)), name
    try:
        seconds = audio_seconds(given, name)
    except AudioError:
        seconds = 0.0
    return Clip(text, speaker, language, name, seconds, source)
