"""The description of a speech encoder and a text decoder, both of any mixers."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from huggingface_hub.dataclasses import strict

from tokenmix.blocks import resolve_pattern
from tokenmix.feed_forward import FEED_FORWARDS
from tokenmix.mixer import build_mixer, check_divides, check_positive
from tokenmix.models.speech.config import SpeechConfig

BRIDGES = ("mamba", "attention")


@strict
class SambaASRConfig(SpeechConfig):
    """Configuration of `SambaASRForConditionalGeneration`: a `SpeechConfig`, and the decoder.

    Args:
        decoder_mixers, decoder_pattern, num_decoder_layers: causal mixers of the text and where they stand, as
            `mixers`, `pattern` and `num_hidden_layers` of the encoder.
        decoder_feed_forward: "swiglu", "gelu" or None; its width is intermediate_size.
        cross: how text reads audio: "mamba" runs `cross_mixer` over the audio and then the text, with a decoding state
            of constant size; "attention" is cross-attention.
        cross_mixer: a causal mixer for cross="mamba", by its name or description.
        cross_heads: heads for cross="attention".
        label_smoothing: share of the target spread over the vocabulary.
        ctc_weight: share of the encoder's CTC loss in the loss; 0 builds no CTC head.
        max_target_length: tokens that `generate` writes at most, unless it is told otherwise.
        tie_word_embeddings: whether the output layer is the embedding.
        bos_token_id, eos_token_id: first input of the decoder and end of the text; default 1 and 2.
        kwargs: as `SpeechConfig`, all of whose fields are here too.

    Raises:
        ValueError, TypeError: as `SpeechConfig`, or decoder mixers that read the future.

    Example:
        >>> config = SambaASRConfig(hidden_size=32, num_hidden_layers=2, num_decoder_layers=2, cross_heads=2)
        >>> config.cross, config.is_encoder_decoder
        ('mamba', True)

    Source:
        Shakhadri et al. 2025, arXiv 2501.02832. Widths, depths, tokenizer and the equations of the decoder are not
        public: all of them are a reconstruction.
    """

    model_type = "samba_asr"

    is_encoder_decoder: bool = True
    decoder_mixers: dict[str, Any] = dataclasses.field(default_factory=lambda: {"m": {"mixer": "mamba"}})
    decoder_pattern: str = "m"
    num_decoder_layers: int | None = None
    decoder_feed_forward: str | None = "swiglu"
    cross: str = "mamba"
    cross_mixer: dict[str, Any] | str = "mamba"
    cross_heads: int = 4
    label_smoothing: float | int = 0.1
    ctc_weight: float | int = 0.3
    max_target_length: int = 448
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        check_positive("max_target_length", self.max_target_length)
        if self.num_decoder_layers is not None:
            check_positive("num_decoder_layers", self.num_decoder_layers)
        if self.decoder_feed_forward is not None and self.decoder_feed_forward not in FEED_FORWARDS:
            raise ValueError(
                f"decoder_feed_forward: expected one of {sorted(FEED_FORWARDS)} or None, found "
                f"{self.decoder_feed_forward!r}"
            )
        if self.cross not in BRIDGES:
            raise ValueError(f"cross: expected one of {BRIDGES}, found {self.cross!r}")
        for name in ("label_smoothing", "ctc_weight"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 0 and below 1, found {getattr(self, name)}")
        super().__post_init__(**kwargs)
        for name in ("bos_token_id", "eos_token_id"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 0 <= value < self.vocab_size or value == self.pad_token_id:
                raise ValueError(
                    f"{name}: expected one token from 0 to vocab_size - 1 = {self.vocab_size - 1} other than the "
                    f"blank, found {value}"
                )
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.bos_token_id
        elif not 0 <= self.decoder_start_token_id < self.vocab_size:
            raise ValueError(
                f"decoder_start_token_id: expected one token from 0 to vocab_size - 1 = {self.vocab_size - 1}, found "
                f"{self.decoder_start_token_id}"
            )
        with torch.device("meta"):
            for letter in self.decoder_letters():
                if not build_mixer(self.decoder_mixers[letter], self.hidden_size).is_causal:
                    found = f"{letter!r}: {self.decoder_mixers[letter]}, which reads the future"
                    raise ValueError(f"decoder_mixers: expected causal mixers, found {found}")
            if self.cross == "attention":
                check_divides("cross_heads", self.cross_heads, "hidden_size", self.hidden_size)
            elif not build_mixer(self.cross_mixer, self.hidden_size).is_causal:
                raise ValueError(f"cross_mixer: expected a causal mixer, found {self.cross_mixer!r}")

    def decoder_letters(self) -> str:
        """The decoder's pattern, a letter a layer."""
        try:
            return resolve_pattern(self.decoder_pattern, self.decoder_mixers, self.num_decoder_layers)
        except ValueError as error:  # which names the encoder's fields
            raise ValueError(f"decoder_{error}") from None
