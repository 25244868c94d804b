"""A speech encoder: log-Mel frames, subsampling, a stack of any mixers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput, can_return_tuple

from tokenmix.layout import Layout
from tokenmix.models.base import MixerPreTrainedModel
from tokenmix.models.initialise import redraw
from tokenmix.models.inputs import refuse_misspelt
from tokenmix.models.sinusoids import sinusoids
from tokenmix.models.speech.config import SpeechConfig
from tokenmix.models.speech.front_end import FrontEndState, LogMel
from tokenmix.models.speech.inputs import check_audio
from tokenmix.models.speech.spec_augment import spec_augment
from tokenmix.models.speech.subsampling import ConvSubsampling, subsampled
from tokenmix.stack_state import StackState


@dataclass
class SpeechOutput(ModelOutput):
    """What `SpeechModel` gives.

    Args:
        last_hidden_state: (B, T, hidden_size) features; zero behind each row's end.
        lengths: (B,) tokens of each row.
        hidden_states: features before and after each layer, where they were asked for.
    """

    last_hidden_state: Tensor | None = None
    lengths: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class StreamState:
    """What a causal encoder keeps of a stream.

    With recurrent mixers and windows its size does not depend on how much was heard; full attention keeps all of it.

    Attributes:
        front_end: samples that the next frame needs too.
        subsampling: frames that the next token needs too.
        stack: states of the mixers.
        tokens: tokens so far.
    """

    front_end: FrontEndState
    subsampling: list[Tensor]
    stack: StackState
    tokens: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        return self.front_end.nbytes + sum(tensor.nbytes for tensor in self.subsampling) + self.stack.nbytes


class SpeechPreTrainedModel(MixerPreTrainedModel):
    """Base of `SpeechModel` and its heads."""

    config: Any
    config_class: Any = SpeechConfig
    base_model_prefix = "encoder"
    main_input_name = "input_values"

    def get_input_embeddings(self) -> nn.Module:
        """The first layer that reads frames."""
        model: Any = self.base_model
        layer: nn.Module = model.subsampling.layers[0]
        return layer

    def set_input_embeddings(self, value: nn.Module) -> None:
        """See `get_input_embeddings`."""
        model: Any = self.base_model
        model.subsampling.layers[0] = value

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The front end and the subsampling as they draw themselves; the rest as the base does."""
        if isinstance(module, (LogMel, ConvSubsampling)):
            redraw(module)
        if isinstance(module, LogMel) or self._is_subsampling(module):
            return
        super()._init_weights(module)

    def _is_subsampling(self, module: nn.Module) -> bool:
        parts = (part for model in self.modules() if isinstance(model, ConvSubsampling) for part in model.modules())
        return any(part is module for part in parts)


class SpeechModel(SpeechPreTrainedModel):
    """Features of audio: samples -> normalised log-Mel frames -> strided convolutions -> a stack of any mixers.

    No row of a batch depends on another, on its own padding, or on what stands behind its end: every part knows the
    rows' lengths.

    Args:
        config: sizes, mixers and pattern.

    Example:
        >>> mixers = {"b": {"mixer": "bidirectional", "inner": {"mixer": "mamba", "state_size": 4}}}
        >>> model = SpeechModel(SpeechConfig(hidden_size=32, mixers=mixers, pattern="bb"))
        >>> output = model(torch.randn(1, 16000))  # a second
        >>> output.last_hidden_state.shape, output.lengths.tolist()
        (torch.Size([1, 50, 32]), [50])
    """

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__(config)
        self.front_end = LogMel(config)
        self.subsampling = ConvSubsampling(config)
        self.dropout = nn.Dropout(config.dropout)
        self.stack = config.build_stack()
        self.post_init()

    @property
    def is_causal(self) -> bool:
        """Whether audio can be read in chunks."""
        return bool(self.config.causal)

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> SpeechOutput:
        """Features of whole utterances.

        Args:
            input_values: (B, N) samples in [-1, 1] at `config.sampling_rate`.
            attention_mask: (B, N), 1 for the samples of a row, which stand at its front, and 0 behind its end.
            output_hidden_states: also return the features before and after each layer.

        Raises:
            ValueError, TypeError: input of another shape or type, samples that are no numbers, padding in front.
        """
        refuse_misspelt(kwargs, type(self).__name__)
        samples, counts = check_audio(input_values, attention_mask, self.config.inputs_to_logits_ratio)
        lengths = None if counts is None else counts // self.config.hop_samples
        mel = self.front_end(samples, lengths)
        if self.training and (self.config.frequency_masks or self.config.time_masks):
            mel = spec_augment(mel, lengths, self.config)
        x, lengths = self.subsampling(mel.to(self.subsampling.out_proj.weight.dtype), lengths)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states: list[Tensor] | None = [] if wanted else None
        layout = None if lengths is None else Layout.from_lengths(lengths, x.shape[1])
        x = self.stack(self.dropout(self._add_places(x, 0)), layout, hidden_states=states)
        if layout is not None and layout.mask is not None:
            x = x.masked_fill(~layout.mask[..., None], 0)
        if lengths is None:
            lengths = torch.full((x.shape[0],), x.shape[1], device=x.device)
        return SpeechOutput(x, lengths, None if states is None else tuple(states))

    def token_lengths(self, samples: Tensor) -> Tensor:
        """(B,) numbers of samples to (B,) numbers of tokens."""
        return subsampled(samples // self.config.hop_samples, self.config.conv_strides)

    def init_stream(self, rows: int = 1) -> StreamState:
        """Before the first sample of `rows` streams.

        Raises:
            ValueError: a model that is not causal.
        """
        if not self.is_causal:
            raise ValueError(
                "causal: expected a model with causal=True to stream, found one that reads the future; train one with "
                "causal mixers, causal=True, and normalise='global' or 'running'"
            )
        stack = self.stack.init_state(rows, device=self.device, dtype=self.dtype)
        return StreamState(self.front_end.init_state(rows), self.subsampling.init_state(rows), stack)

    def read(self, samples: Tensor, stream: StreamState) -> Tensor:
        """Features of the tokens that a chunk completes; all chunks together give those of the whole.

        Args:
            samples: (B, n) samples, of any number.
            stream: from `init_stream`, advanced in place.

        Returns:
            (B, tokens, hidden_size); tokens may be 0.
        """
        samples, _ = check_audio(samples, None, 0)
        mel = self.front_end(samples, state=stream.front_end)
        x, _ = self.subsampling(mel.to(self.subsampling.out_proj.weight.dtype), state=stream.subsampling)
        if x.shape[1] == 0:
            return x
        x = self.stack(self._add_places(x, stream.tokens), state=stream.stack)
        stream.tokens += x.shape[1]
        return x

    @torch.no_grad()
    def fit_normaliser(self, batches: Iterable[Any]) -> None:
        """Measure the mean and deviation of each mel band, which "global" and "running" use.

        Args:
            batches: dicts with input_values (B, N) and attention_mask (B, N) or without.

        Raises:
            ValueError: no frame in any of them.
        """
        total = torch.zeros(2, self.config.num_mel_bins, dtype=torch.float64, device=self.device)
        count = 0
        for batch in batches:
            mask = batch.get("attention_mask")
            mask = None if mask is None else mask.to(self.device)
            samples, counts = check_audio(batch["input_values"].to(self.device), mask, 0)
            mel = self.front_end.log_mel(samples.float()).double()
            lengths = None if counts is None else counts // self.config.hop_samples
            kept = Layout() if lengths is None else Layout.from_lengths(lengths, mel.shape[1])
            real = mel.flatten(0, 1) if kept.mask is None else mel[kept.mask]
            total += torch.stack([real.sum(0), real.square().sum(0)])
            count += len(real)
        if count == 0:
            raise ValueError("batches: expected audio of at least one frame, found none")
        mean, square = total / count
        deviation = (square - mean.square()).clamp(min=1e-6).sqrt()
        front_end: Any = self.front_end
        front_end.mean.copy_(mean)
        front_end.deviation.copy_(deviation)

    def _add_places(self, x: Tensor, first: int) -> Tensor:
        if self.config.position == "none":
            return x
        return x + sinusoids(first, x.shape[1], x.shape[2], x.device).to(x.dtype)
