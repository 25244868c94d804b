"""A separator of voices: masks over learned frames, as a Hugging Face model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput, can_return_tuple

from tokenmix.layout import Layout
from tokenmix.models.base import MixerPreTrainedModel
from tokenmix.models.separation.config import SeparatorConfig
from tokenmix.models.separation.loss import best_order
from tokenmix.models.separation.parts import FilterBank, GlobalNorm, ScaledSinusoid
from tokenmix.models.speech.inputs import check_audio


@dataclass
class SeparatorOutput(ModelOutput):
    """What `MixerForSpeechSeparation` gives.

    Args:
        loss: minus the mean si_sdr in decibels, speakers in the best order; where there are labels.
        sources: (B, speakers, N) samples, each of a loudness of its own; 0 behind each row's end.
    """

    loss: Tensor | None = None
    sources: Tensor | None = None


class MixerForSpeechSeparation(MixerPreTrainedModel):
    """Waveforms of the speakers of a mixture.

    Frames of a learned filter bank; a norm over all of them; a stack of any mixers; a mask a speaker, none negative,
    tanh(W_1 x) * sigmoid(W_2 x) before the last projection; masked frames back to samples. No row of a batch depends on
    another or on its padding: every norm and every mixer knows the rows' lengths.

    Args:
        config: sizes, mixers and pattern.

    Example:
        >>> mixers = {"m": {"mixer": "mossformer", "group": 32, "key_size": 16}}
        >>> config = SeparatorConfig(encoder_size=16, hidden_size=16, mixers=mixers, pattern="mm")
        >>> model = MixerForSpeechSeparation(config)
        >>> output = model(torch.randn(1, 801), labels=torch.randn(1, 2, 801))
        >>> output.sources.shape, output.loss.shape
        (torch.Size([1, 2, 801]), torch.Size([]))

    Source:
        Zhao and Ma 2023, arXiv 2302.11824; the norm and skip around the stack as in the authors' code in ModelScope,
        which pads nothing (the last samples may lie in no frame; here the last frame is filled up with silence), and
        whose decoder loses the batch axis of a single row.
    """

    config: Any
    config_class: Any = SeparatorConfig
    base_model_prefix = "separator"
    main_input_name = "input_values"
    accepts_loss_kwargs = False  # the loss is a mean over rows: Trainer averages it over accumulated batches

    def __init__(self, config: SeparatorConfig) -> None:
        super().__init__(config)
        size, width = config.encoder_size, config.hidden_size
        self.bank = FilterBank(size, config.encoder_kernel)
        self.norm = GlobalNorm(size)
        self.in_proj = nn.Linear(size, width, bias=False)
        self.places = ScaledSinusoid(width)
        self.stack = config.build_stack()
        self.stack_norm = GlobalNorm(width)
        self.prelu = nn.PReLU()
        self.speaker_proj = nn.Linear(width, width * config.speakers)
        self.value_proj = nn.Linear(width, width)
        self.gate_proj = nn.Linear(width, width)
        self.mask_proj = nn.Linear(width, size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first layer that reads samples."""
        return self.bank.encoder

    def set_input_embeddings(self, value: nn.Module) -> None:
        """See `get_input_embeddings`."""
        bank: Any = self.bank
        bank.encoder = value

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """All that is outside the stack as torch draws it; the stack as the base does."""
        if any(module is part for part in self.stack.modules()):
            super()._init_weights(module)
        elif (reset := getattr(module, "reset_parameters", None)) is not None:
            reset()

    @can_return_tuple
    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> SeparatorOutput:
        """Separate.

        Args:
            input_values: (B, N) samples of the mixtures.
            attention_mask: (B, N), 1 for the samples of a row, which stand at its front, and 0 behind its end.
            labels: (B, speakers, N) samples of the speakers, in any order.

        Raises:
            ValueError, TypeError: input of another shape or type, samples that are no numbers, padding in front.
        """
        samples, counts = check_audio(input_values, attention_mask, 0)
        if labels is not None:
            self._check_labels(labels, input_values)
        length, batch = samples.shape[1], samples.shape[0]
        total = self.config.frames(length)
        if total == 0:
            raise ValueError("input_values: expected at least one sample, found none")
        layout = Layout() if counts is None else Layout.from_lengths(self.config.frames(counts), total)
        frames = self.bank.encode(samples.to(self.dtype), total)
        masks = self._masks(frames, layout)  # (B, speakers, T, size)
        separated = frames[:, None] * masks
        if layout.mask is not None:
            separated = separated.masked_fill(~layout.mask[:, None, :, None], 0)
        sources = self.bank.decode(separated.flatten(0, 1))[:, :length].unflatten(0, (batch, -1))
        real = None
        if counts is not None:
            real = torch.arange(length, device=samples.device) < counts[:, None]
            sources = sources.masked_fill(~real[:, None], 0)
        loss = None
        if labels is not None:
            loss = -best_order(sources, labels, real)[0].mean()
        return SeparatorOutput(loss, sources)

    def _masks(self, frames: Tensor, layout: Layout) -> Tensor:
        """(B, T, size) frames to (B, speakers, T, size), at least 0."""
        x = self.places(self.in_proj(self.norm(frames, layout.mask)))
        x = self.prelu(x + self.stack_norm(self.stack(x, layout), layout.mask))
        x = self.speaker_proj(x).unflatten(-1, (self.config.speakers, -1)).transpose(1, 2)
        masks: Tensor = self.mask_proj(self.value_proj(x).tanh() * self.gate_proj(x).sigmoid()).relu()
        return masks

    def _check_labels(self, labels: Tensor, mixtures: Tensor) -> None:
        expected = (mixtures.shape[0], self.config.speakers, mixtures.shape[1])
        if not isinstance(labels, Tensor) or not labels.is_floating_point():
            found = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise TypeError(f"labels: expected floating point samples, found {found}")
        if tuple(labels.shape) != expected:
            raise ValueError(f"labels: expected shape (B, speakers, N) = {expected}, found {tuple(labels.shape)}")
