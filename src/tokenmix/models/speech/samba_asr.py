"""Samba-ASR: a speech encoder and an autoregressive text decoder, both of any mixers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils.generic import can_return_tuple

from tokenmix.models.cache import CACHE_ARGUMENT, MixerCache, take_cache
from tokenmix.models.cached_generation import CachedGeneration
from tokenmix.models.inputs import can_look, check_tokens, refuse_misspelt
from tokenmix.models.labels import IGNORED
from tokenmix.models.speech.ctc import ctc_logits, ctc_loss
from tokenmix.models.speech.decoder import SpeechDecoder
from tokenmix.models.speech.inputs import check_speech_labels
from tokenmix.models.speech.model import SpeechModel, SpeechOutput, SpeechPreTrainedModel
from tokenmix.models.speech.samba_config import SambaASRConfig


class SambaASRForConditionalGeneration(CachedGeneration, SpeechPreTrainedModel, GenerationMixin):
    """Writes the text of audio token by token: a `SpeechModel`, and a decoder of causal mixers that reads its features.

    Trains with `Trainer`, runs with `generate` (greedy, sampling, beams) and in
    `pipeline("automatic-speech-recognition")`. With cross="mamba" and recurrent `decoder_mixers` the memory of decoding
    has a constant size. Encoder and CTC head have the names of `MixerForCTC`, so its checkpoints start one of these.

    Args:
        config: sizes, mixers, patterns and bridge.

    Example:
        >>> import torch
        >>> config = SambaASRConfig(hidden_size=32, num_hidden_layers=2, num_decoder_layers=2)
        >>> model = SambaASRForConditionalGeneration(config).eval()
        >>> model.generate(torch.randn(1, 16000), max_new_tokens=5).shape[0]
        1

    Source:
        Shakhadri et al. 2025, arXiv 2501.02832: a reconstruction, as `SambaASRConfig` says.
    """

    config_class: Any = SambaASRConfig
    _tied_weights_keys = {"lm_head.weight": "decoder.embed_tokens.weight"}
    accepts_loss_kwargs = False  # else the Trainer would leave the division by the parts of an update to the model
    _is_stateful = True  # transformers then refuses assisted decoding: a recurrence cannot take a token back

    def __init__(self, config: SambaASRConfig) -> None:
        super().__init__(config)
        self.encoder = SpeechModel(config)
        self.decoder = SpeechDecoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.ctc_head = nn.Linear(config.hidden_size, config.vocab_size) if config.ctc_weight else None
        self.post_init()
        if self.generation_config is not None:
            self.generation_config.max_new_tokens = config.max_target_length

    def get_encoder(self, modality: str | None = None) -> SpeechModel:
        """The encoder, which `generate` runs once."""
        return self.encoder

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of text."""
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """See `get_input_embeddings`."""
        self.decoder.embed_tokens = value  # type: ignore[assignment]  # an embedding

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: SpeechOutput | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Predict the token after each token of the text.

        Args:
            input_values, attention_mask: (B, N) audio as in `SpeechModel`; not needed with `encoder_outputs`.
            decoder_input_ids: (B, L) tokens of the text, the start token first; default the labels, shifted.
            decoder_attention_mask: (B, L), 1 for real tokens.
            encoder_outputs: what the encoder gave before.
            cache: to continue from; it is advanced in place.
            labels: (B, S) tokens without the start, -100 behind each row's end; the end token is added where it is not
                there. The loss is (1 - ctc_weight) * cross-entropy + ctc_weight * CTC.
            use_cache: return a cache; default the config's choice, but not in training or with labels.
            past_key_values: the name of `cache` before transformers 5.24.

        Raises:
            ValueError, TypeError: inputs that do not fit together; the message says which.
        """
        refuse_misspelt({name: value for name, value in kwargs.items() if value is not None}, type(self).__name__)
        cache = take_cache(cache, past_key_values)
        heard: Any = encoder_outputs
        if heard is None:
            if input_values is None:
                raise ValueError("input_values: expected audio or encoder_outputs, found neither")
            heard = self.encoder(input_values, attention_mask, return_dict=True)
        audio, lengths = heard.last_hidden_state, heard.lengths
        targets = None
        if labels is not None:
            check_speech_labels(labels, audio.shape[0], self.config.vocab_size, self.config.pad_token_id)
            inputs, targets = self.teach(labels)
            decoder_input_ids = inputs if decoder_input_ids is None else decoder_input_ids
        if decoder_input_ids is None:
            raise ValueError("decoder_input_ids: expected tokens of the text or labels, found neither; or use generate")
        check_tokens("decoder_input_ids", decoder_input_ids, self.config.vocab_size)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and labels is None
        if cache is None and use_cache:
            cache = MixerCache()
        mask = None if decoder_attention_mask is None else decoder_attention_mask[:, -decoder_input_ids.shape[1] :] != 0
        logits = self.lm_head(self.decoder(decoder_input_ids, audio, lengths, mask, cache))
        loss = None if labels is None or targets is None else self._loss(logits, targets, audio, lengths, labels)
        kept: dict[str, Any] = {CACHE_ARGUMENT: cache}
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            encoder_last_hidden_state=audio,
            encoder_hidden_states=heard.hidden_states,
            **kept,
        )

    def teach(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, S + 1) of the decoder: the start before, and the end behind the labels.

        Raises:
            ValueError: labels behind an end token.

        Example:
            >>> import torch
            >>> model = SambaASRForConditionalGeneration(SambaASRConfig(hidden_size=16, num_hidden_layers=1))
            >>> [part.tolist() for part in model.teach(torch.tensor([[7, 8], [9, -100]]))]
            [[[1, 7, 8], [1, 9, 0]], [[7, 8, 2], [9, 2, -100]]]
        """
        labels = labels.masked_fill(labels == self.config.eos_token_id, IGNORED)
        real = labels != IGNORED
        if can_look(labels) and bool((real[:, 1:] & ~real[:, :-1]).any()):
            end = self.config.eos_token_id
            raise ValueError(
                f"labels: expected the end token {end} behind the labels of each row, found some behind it"
            )
        counts = real.sum(1, keepdim=True)
        targets = F.pad(labels, (0, 1), value=IGNORED).scatter(1, counts, self.config.eos_token_id)
        inputs = F.pad(labels.masked_fill(labels == IGNORED, self.config.pad_token_id), (1, 0))
        inputs[:, 0] = self.config.decoder_start_token_id
        return inputs, targets

    def ctc(self, input_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, vocab_size) logits of the encoder's CTC head.

        Raises:
            ValueError: a model without one.
        """
        if self.ctc_head is None:
            raise ValueError("ctc_weight: expected a model with a CTC head, found ctc_weight=0")
        heard = self.encoder(input_values, attention_mask, return_dict=True)
        return ctc_logits(self.ctc_head, heard.last_hidden_state, heard.lengths, self.config.pad_token_id)

    def _loss(self, logits: Tensor, targets: Tensor, audio: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten().long(), ignore_index=IGNORED,
            label_smoothing=self.config.label_smoothing,
        )  # fmt: skip
        if self.ctc_head is None:
            return loss
        blank, weight = self.config.pad_token_id, self.config.ctc_weight
        spoken = labels.masked_fill(labels == self.config.eos_token_id, IGNORED)
        joint = ctc_loss(ctc_logits(self.ctc_head, audio, lengths, blank), lengths, spoken, blank)
        return (1 - weight) * loss + weight * joint

    def check_generation(self, columns: int, attention_mask: Tensor | None, segment_ids: Tensor | None = None) -> None:
        """Nothing runs out: there is no table of places."""
