"""The descriptions of the tokenisers."""

from __future__ import annotations

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from tokenmix.mixer import check_positive
from tokenmix.models.config_fields import drop_code_fields, refuse_misspelt_fields
from tokenmix.models.speech.config import SpeechConfig


@strict
class TokeniserConfig(PreTrainedConfig):
    """What the tokenisers of pictures and of speech have in common.

    Args:
        hidden_size: channels of the convolutions.
        num_hidden_layers: residual convolutions of the encoder; the decoder has as many.
        codes: M, how many tokens there are.
        code_size: width of a code.
        commitment_weight: of the commitment loss.
        vq_decay: of the moving averages of the codebook.
        vq_restart: a code whose moving count falls below this share of their mean moves to a vector of the batch; None
            for never.
        kwargs: what transformers keeps in every configuration.

    Raises:
        ValueError, TypeError: sizes that are not positive, a decay, weight or share out of range.

    Source:
        van den Oord et al. 2017, arXiv 1711.00937.
    """

    keys_to_ignore_at_inference: ClassVar[list[str]] = ["reconstruction_loss", "commitment_loss", "perplexity"]

    hidden_size: int = 64
    num_hidden_layers: int = 2
    codes: int = 256
    code_size: int = 16
    commitment_weight: float | int = 0.25
    vq_decay: float = 0.9
    vq_restart: float | int | None = 0.01

    def __post_init__(self, **kwargs: Any) -> None:
        drop_code_fields(kwargs)
        refuse_misspelt_fields(type(self), kwargs)
        for name in ("hidden_size", "num_hidden_layers", "codes", "code_size"):
            check_positive(name, getattr(self, name))
        if not self.commitment_weight >= 0:
            raise ValueError(f"commitment_weight: expected 0 or more, found {self.commitment_weight}")
        if not 0 <= self.vq_decay < 1:
            raise ValueError(f"vq_decay: expected at least 0 and below 1, found {self.vq_decay}")
        if self.vq_restart is not None and not 0 <= self.vq_restart <= 1:
            raise ValueError(f"vq_restart: expected a share from 0 to 1, or None, found {self.vq_restart}")
        super().__post_init__(**kwargs)


@strict
class ImageTokeniserConfig(TokeniserConfig):
    """Configuration of `ImageTokeniser`.

    Args:
        num_channels: C.
        image_size: S, height and width of a picture in pixels.
        patch_size: p, height and width of a token in pixels; it divides S.
        hidden_size, num_hidden_layers, codes, code_size, commitment_weight, vq_decay, vq_restart: see
            `TokeniserConfig`.
        kwargs: what transformers keeps in every configuration.

    Raises:
        ValueError, TypeError: as there, or a patch that does not divide the picture.

    Example:
        >>> config = ImageTokeniserConfig()
        >>> config.grid_size, config.num_tokens, config.codes
        (8, 64, 256)
    """

    model_type = "tokenmix_image_tokeniser"

    num_channels: int = 1
    image_size: int = 32
    patch_size: int = 4

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("num_channels", "image_size", "patch_size"):
            check_positive(name, getattr(self, name))
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size: expected a divisor of image_size={self.image_size}, found {self.patch_size}")
        super().__post_init__(**kwargs)

    @property
    def grid_size(self) -> int:
        """Tokens along an edge of a picture."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens of a picture."""
        return self.grid_size**2


@strict
class SpeechTokeniserConfig(TokeniserConfig):
    """Configuration of `SpeechTokeniser`.

    Args:
        sampling_rate: samples a second of the audio.
        num_mel_bins: bands of a frame.
        window_ms, hop_ms: milliseconds of a frame, and between two.
        log_floor: least energy of a band.
        frames_per_token: r.
        hidden_size, num_hidden_layers, codes, code_size, commitment_weight, vq_decay, vq_restart: see
            `TokeniserConfig`.
        kwargs: what transformers keeps in every configuration.

    Raises:
        ValueError, TypeError: as there, or frames that are no whole number of samples.

    Example:
        >>> config = SpeechTokeniserConfig()
        >>> config.frames_per_token * config.hop_ms  # milliseconds a token
        80
    """

    model_type = "tokenmix_speech_tokeniser"

    sampling_rate: int = 8000
    num_mel_bins: int = 40
    window_ms: float | int = 25
    hop_ms: float | int = 10
    log_floor: float = 1e-6
    frames_per_token: int = 8

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("sampling_rate", "num_mel_bins", "frames_per_token"):
            check_positive(name, getattr(self, name))
        self.front_end()
        super().__post_init__(**kwargs)

    def front_end(self) -> SpeechConfig:
        """Of the frames, not normalised, as `tokenmix.models.speech` reads it; layers mean nothing there."""
        return SpeechConfig(
            sampling_rate=self.sampling_rate,
            num_mel_bins=self.num_mel_bins,
            window_ms=self.window_ms,
            hop_ms=self.hop_ms,
            log_floor=self.log_floor,
            normalise="none",
            mixers={"a": {"mixer": "attention", "causal": False}},
            pattern="a",
        )
