"""Speech: clips of many sources, their texts in one form, data sets, batches and scores. Needs the extra `speech`."""

from tokenmix.data.speech.audio import AudioError, audio_seconds, read_audio, resample
from tokenmix.data.speech.clip import AudioSource, Clip, FileAudio, file_clip
from tokenmix.data.speech.dataset import ClipDataset, collate
from tokenmix.data.speech.scores import transcription_scores, trivial_baselines
from tokenmix.data.speech.sources import SOURCES, load_speech
from tokenmix.data.speech.splits import Splits
from tokenmix.data.speech.texts import normalise_text
from tokenmix.data.speech.tokenizer import build_ctc_tokenizer

__all__ = [
    "SOURCES",
    "AudioError",
    "AudioSource",
    "Clip",
    "ClipDataset",
    "FileAudio",
    "Splits",
    "audio_seconds",
    "build_ctc_tokenizer",
    "collate",
    "file_clip",
    "load_speech",
    "normalise_text",
    "read_audio",
    "resample",
    "transcription_scores",
    "trivial_baselines",
]
