"""What the tokenisers of pictures and of speech have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from tokenmix.mixers.vector_quantiser import VectorQuantiser
from tokenmix.models.safe_loading import SafeLoading
from tokenmix.models.tokenisers.config import TokeniserConfig
from tokenmix.models.tokenisers.parts import Scale


@dataclass
class TokeniserOutput(ModelOutput):
    """What a tokeniser gives.

    Args:
        loss: reconstruction_loss + commitment_weight * commitment_loss.
        reconstruction: the input after encoding and decoding, in its own units and shape.
        tokens: (B, T) int64; -1 behind a row's end.
        token_lengths: (B,) tokens of each row; of speech alone.
        reconstruction_loss: mean squared error, of inputs scaled to a mean of 0 and a deviation of 1 a channel, so the
            mean of each channel has an error of 1.
        commitment_loss: mean squared distance of the encoder's vectors from their codes.
        perplexity: of the batch's tokens: how many codes they use, exp of the entropy of their shares.
    """

    loss: Tensor | None = None
    reconstruction: Tensor | None = None
    tokens: Tensor | None = None
    token_lengths: Tensor | None = None
    reconstruction_loss: Tensor | None = None
    commitment_loss: Tensor | None = None
    perplexity: Tensor | None = None


class TokeniserPreTrainedModel(SafeLoading, PreTrainedModel):
    """Base of `ImageTokeniser` and `SpeechTokeniser`: scale, codebook, initialisation."""

    config: Any
    config_class: Any = TokeniserConfig
    base_model_prefix = "tokeniser"
    accepts_loss_kwargs = False  # the loss is a mean: Trainer averages it over accumulated batches
    _keep_in_fp32_modules_strict = ["quantiser", "scale"]

    def __init__(self, config: TokeniserConfig, channels: int) -> None:
        super().__init__(config)
        self.scale = Scale(channels)
        restart = None if config.vq_restart is None else float(config.vq_restart)
        self.quantiser = VectorQuantiser(config.codes, config.code_size, decay=config.vq_decay, restart=restart)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the layers draw them."""
        if (reset := getattr(module, "reset_parameters", None)) is not None:
            reset()

    def codes_of(self, tokens: Tensor, lowest: int = 0) -> Tensor:
        """(...) tokens to (..., code_size) vectors of the codebook, in the model's type; 0 for those below 0.

        Args:
            tokens: integers from `lowest` to codes - 1.
            lowest: -1 where that stands behind a row's end.

        Raises:
            ValueError: tokens out of range.
        """
        if tokens.numel():
            low, high = (int(end) for end in tokens.aminmax())
            if low < lowest or high >= self.config.codes:
                found = low if low < lowest else high
                raise ValueError(f"tokens: expected {lowest} to codes - 1 = {self.config.codes - 1}, found {found}")
        found_codes = F.embedding(tokens.long().clamp(min=0), self.quantiser.codebook())
        return found_codes.masked_fill((tokens < 0)[..., None], 0).to(self.dtype)


def check_tokens(tokens: Tensor) -> None:
    """Refuse what is no batch of rows of tokens.

    Raises:
        TypeError, ValueError: no integers, or not (B, T).

    Example:
        >>> check_tokens(torch.zeros(3))
        Traceback (most recent call last):
        ...
        TypeError: tokens: expected integers, found torch.float32
    """
    if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise TypeError(f"tokens: expected integers, found {kind_of(tokens)}")
    if tokens.dim() != 2 or tokens.numel() == 0:
        raise ValueError(f"tokens: expected shape (B, T), both at least 1, found {tuple(tokens.shape)}")


def kind_of(value: Any) -> str:
    """The type of a tensor's numbers, or of what is no tensor.

    Example:
        >>> kind_of(torch.zeros(1)), kind_of(3)
        ('torch.float32', 'int')
    """
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
