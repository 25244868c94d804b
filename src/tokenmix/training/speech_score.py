"""What a speech model writes, and how wrong it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tokenmix.data.speech import ClipDataset, collate, transcription_scores


@torch.no_grad()
def transcribe_clips(
    model: Any, dataset: ClipDataset, tokenizer: Any, batch_size: int = 32, **options: Any
) -> list[str]:
    """What a model writes for each clip of a data set, in its order.

    Args:
        model: a `MixerForCTC`, decoded greedily, or a model with a decoder, whose `generate` is asked.
        dataset: clips; one that cannot be read gives "".
        tokenizer: of the model.
        batch_size: clips at a time, of like lengths.
        options: of `generate`, such as num_beams.

    Returns:
        One text a clip.
    """
    training = model.training
    model.eval()
    order = sorted(range(len(dataset)), key=lambda row: dataset.lengths[row])
    texts = [""] * len(dataset)
    for start in range(0, len(order), batch_size):
        rows = [(row, dataset[row]) for row in order[start : start + batch_size]]
        rows = [(row, item) for row, item in rows if item is not None]
        if not rows:
            continue
        batch = {name: value.to(model.device) for name, value in collate([item for _, item in rows]).items()}
        audio = {name: batch[name] for name in ("input_values", "attention_mask")}
        if model.config.is_encoder_decoder:
            tokens = model.generate(**audio, **options)
            written = tokenizer.batch_decode(tokens, skip_special_tokens=True, group_tokens=False)
        else:
            written = tokenizer.batch_decode(model(**audio).logits.argmax(-1))
        for (row, _), text in zip(rows, written, strict=True):
            texts[row] = text.strip()
    model.train(training)
    return texts


def score_clips(model: Any, dataset: ClipDataset, tokenizer: Any, batch_size: int = 32, **options: Any) -> Any:
    """Word and character error rates on a data set, and what was written.

    Returns:
        {"wer": …, "cer": …}, and the list of (true text, written text).
    """
    written = transcribe_clips(model, dataset, tokenizer, batch_size, **options)
    spoken = [clip.text for clip in dataset.clips]
    return transcription_scores(spoken, written), list(zip(spoken, written, strict=True))


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
        texts: Sequence[str] = self.tokenizer.batch_decode(written)
        return dict(transcription_scores(self.tokenizer.batch_decode(spoken, group_tokens=False), texts))
