"""The description of a separator of any mixers."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig

from tokenmix.mixer import check_positive
from tokenmix.models.config_fields import drop_code_fields, refuse_misspelt_fields
from tokenmix.models.stack import ModelStack
from tokenmix.models.stack_fields import build_stack, settle_initializer, settle_layers

Count = TypeVar("Count", int, Tensor)


@strict
class SeparatorConfig(PreTrainedConfig):
    """Configuration of `MixerForSpeechSeparation`: a learned filter bank, masks from any mixers, and its inverse.

    The defaults are MossFormer's large model: 24 layers of 512 features, filters of 16 samples, 42,101,834 parameters
    (42.1 million in tables of others).

    Args:
        speakers: waveforms that come out.
        sampling_rate: samples a second of the audio, for those who prepare it.
        encoder_size: filters.
        encoder_kernel: samples a filter, even; half of them from frame to frame.
        hidden_size, num_hidden_layers, mixers, pattern, feed_forward, intermediate_size, feed_forward_bias, norm,
            norm_eps, dropout, mixer_dropout, initializer_range, rescale_residual: as in `tokenmix.models.MixerConfig`.
            A mixer that norms its own input (MossFormer) has no norm before it.
        kwargs: what transformers keeps in every configuration.

    Raises:
        ValueError, TypeError: sizes that do not fit, an unknown mixer or option (with the nearest names).

    Example:
        >>> config = SeparatorConfig(hidden_size=64, mixers={"m": {"mixer": "mossformer", "group": 64}}, pattern="mm")
        >>> config.num_hidden_layers, config.frames(8000)
        (2, 999)

    Source:
        Zhao and Ma 2023, arXiv 2302.11824.
    """

    model_type = "tokenmix_separator"

    speakers: int = 2
    sampling_rate: int = 8000
    encoder_size: int = 512
    encoder_kernel: int = 16
    hidden_size: int = 512
    num_hidden_layers: int | None = None
    mixers: dict[str, Any] = dataclasses.field(default_factory=lambda: {"m": {"mixer": "mossformer"}})
    pattern: str = "m" * 24
    feed_forward: str | dict[str, str | None] | None = None
    intermediate_size: int | None = None
    feed_forward_bias: bool = False
    norm: str = "layernorm"
    norm_eps: float = 1e-5
    dropout: float | int = 0.0
    mixer_dropout: float | int | None = None
    initializer_range: float | None = None
    rescale_residual: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        drop_code_fields(kwargs)
        refuse_misspelt_fields(type(self), kwargs)
        for name in ("speakers", "sampling_rate", "encoder_size", "encoder_kernel", "hidden_size"):
            check_positive(name, getattr(self, name))
        for name in ("num_hidden_layers", "intermediate_size"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if self.encoder_kernel % 2:
            raise ValueError(f"encoder_kernel: expected an even number of samples, found {self.encoder_kernel}")
        settle_initializer(self)
        settle_layers(self)
        super().__post_init__(**kwargs)

    @property
    def stride(self) -> int:
        """Samples from frame to frame."""
        return self.encoder_kernel // 2

    def frames(self, samples: Count) -> Count:
        """Frames that cover a number of samples, the last one filled up with silence; none cover none."""
        return (samples + self.stride - 1) // self.stride - 1 + (samples <= self.stride)

    def build_stack(self) -> ModelStack:
        """The layers that this configuration describes."""
        stack = build_stack(self)
        for layer in stack.layers:
            block: Any = layer
            if block.mixer.norms_its_input:
                block.mixer_norm = nn.Identity()
        return stack
