"""What a speech model writes, and how wrong it is."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import torch

from tokenmix.data.speech import ClipDataset, collate, transcription_scores

UNKNOWN = "\ufffd"


class Transcripts(NamedTuple):
    """What a model wrote.

    Attributes:
        texts: one a clip, in the order of the data set.
        seconds: of the model's own work, without reading audio.
        audio_seconds: of the audio that was read.
    """

    texts: list[str]
    seconds: float
    audio_seconds: float


@torch.no_grad()
def transcribe_clips(
    model: Any, dataset: ClipDataset, tokenizer: Any, batch_size: int = 32, **options: Any
) -> Transcripts:
    """What a model writes for each clip of a data set.

    Args:
        model: a `MixerForCTC`, decoded greedily, or a model with a decoder, whose `generate` is asked.
        dataset: clips; one that cannot be read gives "".
        tokenizer: of the model.
        batch_size: clips at a time, of like lengths.
        options: of `generate`, such as num_beams.
    """
    training = model.training
    model.eval()
    order = sorted(range(len(dataset)), key=lambda row: dataset.lengths[row])
    texts, seconds, samples = [""] * len(dataset), 0.0, 0
    for start in range(0, len(order), batch_size):
        rows = [(row, dataset[row]) for row in order[start : start + batch_size]]
        rows = [(row, item) for row, item in rows if item is not None]
        if not rows:
            continue
        batch = {name: value.to(model.device) for name, value in collate([item for _, item in rows]).items()}
        audio = {name: batch[name] for name in ("input_values", "attention_mask")}
        samples += int(audio["attention_mask"].sum())
        began = time.perf_counter()
        if model.config.is_encoder_decoder:
            tokens = model.generate(**audio, **options)
            written = tokenizer.batch_decode(tokens, skip_special_tokens=True, group_tokens=False)
        else:
            written = tokenizer.batch_decode(model(**audio).logits.argmax(-1))
        seconds += time.perf_counter() - began
        for (row, _), text in zip(rows, written, strict=True):
            texts[row] = text.strip()
    model.train(training)
    return Transcripts(texts, seconds, samples / dataset.rate)


def score_clips(
    model: Any, dataset: ClipDataset, tokenizer: Any, batch_size: int = 32, **options: Any
) -> tuple[dict[str, float], list[tuple[str, str]]]:
    """Error rates on a data set, the real-time factor, and the list of (true text, written text).

    Returns:
        {"wer": ..., "cer": ..., "real_time_factor": work / audio}, and the pairs.
    """
    found = transcribe_clips(model, dataset, tokenizer, batch_size, **options)
    spoken = [clip.text for clip in dataset.clips]
    scores = transcription_scores(spoken, found.texts)
    scores["real_time_factor"] = found.seconds / max(found.audio_seconds, 1e-9)
    return scores, list(zip(spoken, found.texts, strict=True))


class CurveMetrics:
    """The error rates that the Trainer logs while it trains a CTC model, on a validation set.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @staticmethod
    def best(logits: Any, labels: Any) -> Any:
        """The likeliest symbol of each token, for `preprocess_logits_for_metrics`."""
        return logits.argmax(-1)

    def __call__(self, prediction: Any) -> dict[str, float]:
        """Error rates of the Trainer's EvalPrediction."""
        pad = self.tokenizer.pad_token_id
        written, spoken = (np.where(ids == -100, pad, ids) for ids in (prediction.predictions, prediction.label_ids))
        unknown = self.tokenizer.unk_token  # one letter, however it is spelled
        pairs = (self.tokenizer.batch_decode(spoken, group_tokens=False), self.tokenizer.batch_decode(written))
        said, texts = ([text.replace(unknown, UNKNOWN) for text in part] for part in pairs)
        return dict(transcription_scores(said, texts))
