"""A tokeniser of pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from tokenmix.models.tokenisers.base import TokeniserOutput, TokeniserPreTrainedModel, check_tokens, kind_of
from tokenmix.models.tokenisers.config import ImageTokeniserConfig
from tokenmix.models.tokenisers.parts import ResidualConv
from tokenmix.models.tokenisers.quantise import quantise
from tokenmix.ops.precision import at_least_float32


class ImageTokeniser(TokeniserPreTrainedModel):
    """Pictures to a grid of tokens, and back: a VQ-VAE.

    Each patch of p by p pixels becomes a vector, residual convolutions let it see the patches around it, and the code
    nearest to the result is its token. The decoder is the mirror of it.

        loss = mean ((x - decoder(y)) / deviation)^2 + commitment_weight mean |q - stop(c)|^2,   y = q + stop(c - q)

    Codes follow the vectors by moving averages, in training alone; a code that no vector falls to starts again at one
    that lacks a near code.

    Args:
        config: sizes.

    Example:
        >>> model = ImageTokeniser(ImageTokeniserConfig(image_size=8, hidden_size=8, codes=16)).eval()
        >>> tokens = model.encode(torch.rand(2, 1, 8, 8))
        >>> tokens.shape, model.decode(tokens).shape
        (torch.Size([2, 4]), torch.Size([2, 1, 8, 8]))

    Source:
        van den Oord et al. 2017, arXiv 1711.00937, whose moving averages (appendix A.1) these are.
    """

    config_class = ImageTokeniserConfig
    main_input_name = "pixels"

    def __init__(self, config: ImageTokeniserConfig) -> None:
        super().__init__(config, config.num_channels)
        dim, patch = config.hidden_size, config.patch_size
        self.patch_in = nn.Conv2d(config.num_channels, dim, patch, stride=patch)
        self.encoder = nn.Sequential(*[ResidualConv(2, dim) for _ in range(config.num_hidden_layers)])
        self.code_in = nn.Conv2d(dim, config.code_size, 1)
        self.code_out = nn.Conv2d(config.code_size, dim, 3, padding=1)
        self.decoder = nn.Sequential(*[ResidualConv(2, dim) for _ in range(config.num_hidden_layers)])
        self.patch_out = nn.ConvTranspose2d(dim, config.num_channels, patch, stride=patch)
        self.post_init()

    @can_return_tuple
    def forward(self, pixels: Tensor, return_loss: bool = True) -> TokeniserOutput:
        """Encode and decode, and in training move the codebook.

        Args:
            pixels: (B, C, S, S) floats from 0 to 1.
            return_loss: transformers' mark of a model whose loss needs no labels; the loss is always there.

        Raises:
            ValueError, TypeError: pixels of another shape, type or range.
        """
        self._check(pixels)
        x = self._scaled(pixels)
        found = quantise(self.quantiser, self._vectors(x))
        y = self._pixels(found.vectors)
        error = (at_least_float32(y) - at_least_float32(x)).square().mean()
        loss = error + self.config.commitment_weight * found.commitment
        return TokeniserOutput(
            loss=loss,
            reconstruction=self._unscaled(y),
            tokens=found.tokens.flatten(1),
            reconstruction_loss=error,
            commitment_loss=found.commitment,
            perplexity=found.perplexity,
        )

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """(B, C, S, S) from 0 to 1 to (B, tokens) int64, row by row of the grid; never moves the codebook."""
        self._check(pixels)
        return self.quantiser.assign(self._vectors(self._scaled(pixels))).flatten(1)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """(B, tokens) to (B, C, S, S) from 0 to 1.

        Raises:
            ValueError, TypeError: another number of tokens than a picture has, or tokens that are no codes.
        """
        check_tokens(tokens)
        if tokens.shape[1] != self.config.num_tokens:
            raise ValueError(f"tokens: expected num_tokens={self.config.num_tokens} a row, found {tokens.shape[1]}")
        size = self.config.grid_size
        return self._unscaled(self._pixels(self.codes_of(tokens).unflatten(1, (size, size))))

    @torch.no_grad()
    def fit_scale(self, pixels: Tensor) -> None:
        """Measure the mean and the deviation of each channel of (B, C, S, S) pictures."""
        self._check(pixels)
        self.scale.fit(pixels.movedim(1, -1).flatten(0, -2))

    def _vectors(self, x: Tensor) -> Tensor:
        """(B, C, S, S) scaled to (B, S / p, S / p, code_size)."""
        vectors: Tensor = self.code_in(self.encoder(self.patch_in(x)))
        return vectors.movedim(1, -1)

    def _pixels(self, codes: Tensor) -> Tensor:
        """(B, S / p, S / p, code_size) to (B, C, S, S) scaled."""
        y: Tensor = self.patch_out(self.decoder(self.code_out(codes.movedim(-1, 1))))
        return y

    def _scaled(self, pixels: Tensor) -> Tensor:
        return self.scale(pixels.movedim(1, -1)).movedim(-1, 1).to(self.dtype)

    def _unscaled(self, y: Tensor) -> Tensor:
        return self.scale.inverse(y.movedim(1, -1)).movedim(-1, 1).clamp(0, 1).to(self.dtype)

    def _check(self, pixels: Tensor) -> None:
        if not isinstance(pixels, Tensor) or not pixels.is_floating_point():
            raise TypeError(f"pixels: expected floats from 0 to 1, found {kind_of(pixels)}")
        channels, size = self.config.num_channels, self.config.image_size
        if pixels.dim() != 4 or pixels.shape[1:] != (channels, size, size):
            expected = f"(B, num_channels={channels}, image_size={size}, {size})"
            raise ValueError(f"pixels: expected shape {expected}, found {tuple(pixels.shape)}")
        if len(pixels) == 0:
            raise ValueError("pixels: expected at least one picture, found none")
        wrong = ~((pixels >= 0) & (pixels <= 1))
        if bool(wrong.any()):
            raise ValueError(f"pixels: expected numbers from 0 to 1, found {float(pixels[wrong][0])}")
