"""Models of `tokenmix transcribe`: loaded from a folder, and run on a stream or on the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoTokenizer, Wav2Vec2CTCTokenizer

from tokenmix.cli.errors import UsageError
from tokenmix.models import SpeechConfig  # which also registers the models
from tokenmix.models.speech.ctc_text import CTCText, ctc_text
from tokenmix.models.speech.streaming import Transcriber


def load_model(folder: str, device: str) -> Any:
    """A speech model in eval() on a device.

    Raises:
        UsageError: no folder, or none of a speech model of ours with all its weights.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UsageError(f"--model: expected a folder of a saved model, found no folder {folder}")
    try:
        config: Any = AutoConfig.from_pretrained(path)
        if not isinstance(config, SpeechConfig):
            raise UsageError(
                f"--model: expected a speech model of tokenmix (MixerForCTC, SambaASRForConditionalGeneration), found "
                f"{config.model_type!r} in {folder}"
            )
        auto: Any = AutoModelForSpeechSeq2Seq if config.is_encoder_decoder else AutoModelForCTC
        model, loading = auto.from_pretrained(path, dtype=torch.float32, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--model: no speech model could be loaded from {folder}: {_short(error)}") from error
    if loading["missing_keys"]:
        names = ", ".join(sorted(loading["missing_keys"])[:3])
        raise UsageError(f"--model: expected all weights of a speech model, found none of {names} in {folder}")
    try:
        return model.eval().to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device: expected one that torch has here, found {device!r}: {_short(error)}") from error


def load_tokenizer(folder: str, model: Any) -> Any:
    """The tokenizer that was saved beside a model.

    Raises:
        UsageError: none, or one that does not fit the model.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(Path(folder).expanduser())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--model: expected a tokenizer beside the model in {folder}, found none that loads; save it there with "
            f"build_processor(config, tokenizer).save_pretrained (the reason given: {_short(error)})"
        ) from error
    if not model.config.is_encoder_decoder:
        try:
            CTCText(tokenizer, model.config.vocab_size, model.config.pad_token_id)
        except (TypeError, ValueError) as error:
            raise UsageError(f"--model: {error} in {folder}") from error
    return tokenizer


class WholeTranscriber:
    """A `Transcriber` of a model that needs the whole: it gathers all chunks, and writes at the end.

    Args:
        model: a `MixerForCTC` of any kind, or a `SambaASRForConditionalGeneration`.
        tokenizer: of the model.
        beams: of CTC's prefix beam search or of `generate`; 1 is greedy.
    """

    nbytes = None

    def __init__(self, model: Any, tokenizer: Any, beams: int) -> None:
        self.model, self.tokenizer, self.beams = model, tokenizer, beams
        self.text = ""
        self._heard: list[Tensor] = []

    def read(self, samples: Tensor) -> str:
        """Keep a chunk (n,); nothing is certain before the end."""
        self._heard.append(samples)
        return ""

    @torch.no_grad()
    def finish(self) -> str:
        """Text of the whole."""
        audio = torch.cat(self._heard)[None].to(self.model.device)
        if self.model.config.is_encoder_decoder:
            symbols = self.model.generate(audio, num_beams=self.beams, do_sample=False)[0].tolist()
            apart = {"group_tokens": False} if isinstance(self.tokenizer, Wav2Vec2CTCTokenizer) else {}
            self.text = self.tokenizer.decode(symbols, skip_special_tokens=True, **apart).strip()
        else:
            blank = self.model.config.pad_token_id
            self.text = ctc_text(self.model(audio).logits[0], self.tokenizer, blank, self.beams)
        return self.text


def build_transcriber(model: Any, tokenizer: Any, beams: int) -> Transcriber | WholeTranscriber:
    """A new one for each utterance; a causal CTC model always reads in blocks, so that its text is that of a stream."""
    if why_no_stream(model) is None:
        return Transcriber(model, tokenizer, beams=beams)
    return WholeTranscriber(model, tokenizer, beams)


@torch.no_grad()
def warm_up(model: Any) -> None:
    """Read a second of silence, so that what torch does once is not counted as work on the first file."""
    silence = torch.zeros(1, model.config.sampling_rate, device=model.device)
    if why_no_stream(model) is None:
        model.encoder.read(silence, model.encoder.init_stream())
    else:
        model.encoder(silence)


def why_no_stream(model: Any) -> str | None:
    """Why a model needs the whole; None for one that can be streamed."""
    if model.config.is_encoder_decoder:
        return "a model with a decoder, which reads all audio before it writes"
    if not model.config.causal:
        return "one that reads the future (causal=False)"
    return None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
