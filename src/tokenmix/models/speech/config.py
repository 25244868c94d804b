"""The description of a speech encoder of any mixers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from tokenmix.mixer import check_positive
from tokenmix.models.config_fields import drop_code_fields, refuse_misspelt_fields
from tokenmix.models.stack import ModelStack
from tokenmix.models.stack_fields import build_stack, settle_initializer, settle_layers

NORMALISE = ("global", "utterance", "running", "none")
POSITIONS = ("none", "sinusoidal")


@strict
class SpeechConfig(PreTrainedConfig):
    """Configuration of `SpeechModel` and `MixerForCTC`: a log-Mel front end, a convolutional subsampling, any mixers.

    Args:
        vocab_size: number of characters or pieces, the blank among them.
        pad_token_id: the padding of labels, which is also CTC's blank.
        sampling_rate: samples a second of the audio that the model reads.
        num_mel_bins: mel bands.
        window_ms, hop_ms: length and distance of the frames, in milliseconds.
        log_floor: smallest energy of a band before the logarithm.
        normalise: "global" subtracts the mean and divides by the deviation of each band that
            `SpeechModel.fit_normaliser` measured; "utterance" uses the utterance's own; "running" subtracts the mean of
            the frames so far, so that it can be streamed; "none" does neither.
        running_prior: frames that the global mean counts for in "running".
        conv_size: channels of the subsampling; default hidden_size.
        conv_kernels, conv_strides: of its layers; the product of the strides is how many frames make a token.
        causal: convolutions read the past only; with causal mixers the model can then be streamed.
        position: "sinusoidal" adds places to the features before the first mixer.
        hidden_size, num_hidden_layers, mixers, pattern, feed_forward, intermediate_size, feed_forward_bias, norm,
            norm_eps, dropout, mixer_dropout, initializer_range, rescale_residual: as in `tokenmix.models.MixerConfig`.
        frequency_masks, frequency_mask_width: in training, how many runs of bands are hidden in each utterance, and the
            largest width (SpecAugment, Park et al. 2019, arXiv 1904.08779).
        time_masks, time_mask_width, time_mask_share: the same of frames; a run is also at most this share of the
            utterance.
        use_cache: of a decoder, where there is one; the Trainer sets it in every configuration.
        kwargs: what transformers keeps in every configuration.

    Raises:
        ValueError, TypeError: sizes that do not fit, an unknown mixer or option (with the nearest names), or mixers
            that read the future in a model that says it is causal.

    Example:
        >>> config = SpeechConfig(hidden_size=32, mixers={"a": {"mixer": "attention", "causal": False}}, pattern="aa")
        >>> config.inputs_to_logits_ratio, config.num_hidden_layers
        (320, 2)

    Source:
        Front end of Samba-ASR (Shakhadri et al. 2025, arXiv 2501.02832) as far as its paper tells, and else of Whisper
        (Radford et al. 2022, arXiv 2212.04356): 80 bands, 25 and 10 ms, two convolutions, the second of stride 2.
    """

    model_type = "tokenmix_speech"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "past_key_values"]

    vocab_size: int = 32
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    sampling_rate: int = 16000
    num_mel_bins: int = 80
    window_ms: float | int = 25
    hop_ms: float | int = 10
    log_floor: float = 1e-6
    normalise: str = "global"
    running_prior: int = 50
    conv_size: int | None = None
    conv_kernels: list[int] | tuple[int, ...] = (3, 3)
    conv_strides: list[int] | tuple[int, ...] = (1, 2)
    causal: bool = False
    position: str = "none"
    hidden_size: int = 256
    num_hidden_layers: int | None = None
    mixers: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"b": {"mixer": "bidirectional", "inner": {"mixer": "mamba"}}}
    )
    pattern: str = "b"
    feed_forward: str | dict[str, str | None] | None = "swiglu"
    intermediate_size: int | None = None
    feed_forward_bias: bool = False
    norm: str = "rmsnorm"
    norm_eps: float = 1e-5
    dropout: float | int = 0.0
    mixer_dropout: float | int | None = None
    initializer_range: float | None = None
    rescale_residual: bool = True
    frequency_masks: int = 2
    frequency_mask_width: int = 27
    time_masks: int = 2
    time_mask_width: int = 40
    time_mask_share: float | int = 0.1
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        drop_code_fields(kwargs)
        refuse_misspelt_fields(type(self), kwargs)
        for name in ("vocab_size", "sampling_rate", "num_mel_bins", "hidden_size"):
            check_positive(name, getattr(self, name))
        for name in ("conv_size", "num_hidden_layers", "intermediate_size"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        self._check_front_end()
        if self.pad_token_id is None or not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id: expected the blank, from 0 to vocab_size - 1 = {self.vocab_size - 1}, "
                f"found {self.pad_token_id}"
            )
        settle_initializer(self)
        if self.log_floor <= 0:
            raise ValueError(f"log_floor: expected a positive number, found {self.log_floor}")
        stack = settle_layers(self)
        if self.causal:
            for letter, mixer in zip(stack.letters, stack.mixers, strict=True):
                if not mixer.is_causal:
                    found = f"{letter!r}: {self.mixers[letter]}, which reads the future"
                    raise ValueError(f"mixers: a model with causal=True needs causal mixers, found {found}")
        super().__post_init__(**kwargs)

    def _check_front_end(self) -> None:
        for name, known in (("normalise", NORMALISE), ("position", POSITIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {known}, found {getattr(self, name)!r}")
        if self.causal and self.normalise == "utterance":
            raise ValueError("normalise: expected 'global', 'running' or 'none' with causal=True, found 'utterance'")
        for name in ("window_ms", "hop_ms"):
            samples = getattr(self, name) * self.sampling_rate / 1000
            if samples < 1 or abs(samples - round(samples)) > 1e-6:  # 4.35 ms at 100 kHz are 434.99999999999994
                raise ValueError(
                    f"{name}: expected a whole number of samples at sampling_rate={self.sampling_rate}, found "
                    f"{getattr(self, name)} ms = {samples:g} samples"
                )
        if self.window_ms < self.hop_ms:
            raise ValueError(f"window_ms: expected at least hop_ms={self.hop_ms}, found {self.window_ms}")
        self.conv_kernels, self.conv_strides = list(self.conv_kernels), list(self.conv_strides)
        if not self.conv_kernels or len(self.conv_kernels) != len(self.conv_strides):
            raise ValueError(
                f"conv_strides: expected one a layer of conv_kernels={self.conv_kernels}, found {self.conv_strides}"
            )
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            check_positive("conv_kernels", kernel)
            check_positive("conv_strides", stride)
            if kernel % 2 == 0 or kernel < stride:
                raise ValueError(
                    f"conv_kernels: expected odd numbers, none below its stride, found {self.conv_kernels} with "
                    f"conv_strides={self.conv_strides}"
                )
        for name in ("frequency_masks", "frequency_mask_width", "time_masks", "time_mask_width", "running_prior"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, found {getattr(self, name)}")
        if not 0 <= self.time_mask_share <= 1:
            raise ValueError(f"time_mask_share: expected a share from 0 to 1, found {self.time_mask_share}")

    @property
    def window_samples(self) -> int:
        """Samples of a frame's window."""
        return round(self.window_ms * self.sampling_rate / 1000)

    @property
    def hop_samples(self) -> int:
        """Samples between two frames."""
        return round(self.hop_ms * self.sampling_rate / 1000)

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples a token of the encoder; transformers' pipeline asks for it when it cuts long audio."""
        return self.hop_samples * math.prod(self.conv_strides)

    def build_stack(self) -> ModelStack:
        """The encoder's layers."""
        return build_stack(self)
