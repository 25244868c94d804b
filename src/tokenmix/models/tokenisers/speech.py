"""A tokeniser of speech."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from tokenmix.models.speech.front_end import LogMel
from tokenmix.models.speech.inputs import check_audio
from tokenmix.models.tokenisers.base import TokeniserOutput, TokeniserPreTrainedModel, check_tokens, kind_of
from tokenmix.models.tokenisers.config import SpeechTokeniserConfig
from tokenmix.models.tokenisers.parts import ResidualConv
from tokenmix.models.tokenisers.quantise import quantise
from tokenmix.models.tokenisers.waveform import griffin_lim
from tokenmix.ops.precision import at_least_float32


class SpeechTokeniser(TokeniserPreTrainedModel):
    """Log-Mel frames to tokens, one for every r frames, and back: a VQ-VAE over time.

    Each r frames become a vector, residual convolutions let it see those before and after it, and the code nearest to
    the result is its token. The decoder is the mirror of it. The last token of a row may be of fewer frames; frames
    behind a row's end count as the mean frame, so they change neither its tokens nor the codebook, whatever they hold.
    Loss and codebook are as those of `ImageTokeniser`.

    Args:
        config: sizes.

    Example:
        >>> model = SpeechTokeniser(SpeechTokeniserConfig(hidden_size=8, codes=16)).eval()
        >>> tokens, lengths = model.encode(torch.randn(2, 20, 40), torch.tensor([20, 8]))
        >>> tokens.shape, lengths.tolist(), model.decode(tokens, lengths).shape
        (torch.Size([2, 3]), [3, 1], torch.Size([2, 24, 40]))

    Source:
        van den Oord et al. 2017, arXiv 1711.00937, whose moving averages (appendix A.1) these are.
    """

    config_class = SpeechTokeniserConfig
    main_input_name = "features"

    def __init__(self, config: SpeechTokeniserConfig) -> None:
        super().__init__(config, config.num_mel_bins)
        dim, frames = config.hidden_size, config.frames_per_token
        self.frames_in = nn.Conv1d(config.num_mel_bins, dim, frames, stride=frames)
        self.encoder = nn.ModuleList(ResidualConv(1, dim) for _ in range(config.num_hidden_layers))
        self.code_in = nn.Conv1d(dim, config.code_size, 1)
        self.code_out = nn.Conv1d(config.code_size, dim, 3, padding=1)
        self.decoder = nn.ModuleList(ResidualConv(1, dim) for _ in range(config.num_hidden_layers))
        self.frames_out = nn.ConvTranspose1d(dim, config.num_mel_bins, frames, stride=frames)
        self.post_init()

    @can_return_tuple
    def forward(self, features: Tensor, lengths: Tensor | None = None, return_loss: bool = True) -> TokeniserOutput:
        """Encode and decode, and in training move the codebook.

        Args:
            features: (B, T, mels) log-Mel frames, see `features`.
            lengths: (B,) frames of each row; default all T. Frames behind them may hold anything.
            return_loss: transformers' mark of a model whose loss needs no labels; the loss is always there.

        Raises:
            ValueError, TypeError: frames of another shape or type, or not finite; lengths out of range.
        """
        x, real, tokens_real = self._scaled(features, lengths)
        found = quantise(self.quantiser, self._vectors(x, tokens_real), tokens_real)
        y = self._frames(found.vectors, tokens_real)[:, : features.shape[1]]
        wide = (at_least_float32(y) - at_least_float32(x[:, : features.shape[1]])).square().mean(-1)
        error = wide.masked_fill(~real, 0).sum() / real.sum().clamp(min=1)
        loss = error + self.config.commitment_weight * found.commitment
        return TokeniserOutput(
            loss=loss,
            reconstruction=self._unscaled(y, real),
            tokens=found.tokens,
            token_lengths=tokens_real.sum(1),
            reconstruction_loss=error,
            commitment_loss=found.commitment,
            perplexity=found.perplexity,
        )

    @torch.no_grad()
    def encode(self, features: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Frames to tokens; never moves the codebook.

        Args:
            features, lengths: as `forward`.

        Returns:
            (B, ceil(T / r)) int64 tokens, -1 behind each row's end, and (B,) tokens of each row.
        """
        x, _, real = self._scaled(features, lengths)
        tokens = self.quantiser.assign(self._vectors(x, real))
        return tokens.masked_fill(~real, -1), real.sum(1)

    @torch.no_grad()
    def decode(self, tokens: Tensor, token_lengths: Tensor | None = None) -> Tensor:
        """Tokens to frames.

        Args:
            tokens: (B, T) int64; what is behind a row's end is not read, and -1 is behind the end.
            token_lengths: (B,) tokens of each row; default those that are not -1.

        Returns:
            (B, T * r, mels) log-Mel frames; 0 behind each row's end.

        Raises:
            ValueError, TypeError: tokens that are no codes, or -1 before a row's end.
        """
        check_tokens(tokens)
        real = tokens >= 0 if token_lengths is None else _real("token_lengths", token_lengths, tokens)
        if token_lengths is not None:
            tokens = tokens.masked_fill(~real, -1)
        codes = self.codes_of(tokens, -1)
        if bool((real & (tokens < 0)).any()) or bool((real[:, 1:] & ~real[:, :-1]).any()):
            raise ValueError("tokens: expected -1 behind each row's end alone, found it before the end")
        y = self._frames(codes, real)
        return self._unscaled(y, real.repeat_interleave(self.config.frames_per_token, 1))

    @torch.no_grad()
    def features(self, input_values: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-Mel frames of audio, by the front end of `tokenmix.models.SpeechModel`.

        Args:
            input_values: (B, N) samples from -1 to 1, `config.sampling_rate` a second.
            attention_mask: (B, N), 1 for the samples of a row, which stand at its front, and 0 behind its end.

        Returns:
            (B, T, mels) frames and (B,) frames of each row.
        """
        samples, counts = check_audio(input_values, attention_mask, 0)
        log_mel = self._log_mel(samples)
        if counts is None:
            counts = torch.full((len(samples),), samples.shape[1], device=samples.device)
        lengths = counts // log_mel.hop_samples
        return log_mel(samples, lengths), lengths

    @torch.no_grad()
    def waveform(self, features: Tensor, *, steps: int = 32) -> Tensor:
        """(B, T, mels) frames to (B, T * hop) samples by Griffin-Lim: a rough voice, whose phases are made up.

        Args:
            features: of whole rows.
            steps: of Griffin-Lim.
        """
        return griffin_lim(features, self._log_mel(features), steps)

    @torch.no_grad()
    def fit_scale(self, features: Tensor, lengths: Tensor | None = None) -> None:
        """Measure the mean and the deviation of each band over the real frames of (B, T, mels)."""
        self.scale.fit(features[self._check(features, lengths)])

    def _log_mel(self, near: Tensor) -> LogMel:
        """The front end on a tensor's device, made when it is needed: nothing else here needs torchaudio."""
        return LogMel(self.config.front_end()).to(near.device)

    def _vectors(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, n * r, mels) scaled to (B, n, code_size)."""
        y: Tensor = self.frames_in(x.transpose(1, 2))
        for layer in self.encoder:
            y = layer(y, real[:, None])
        vectors: Tensor = self.code_in(y)
        return vectors.transpose(1, 2)

    def _frames(self, codes: Tensor, real: Tensor) -> Tensor:
        """(B, n, code_size), 0 behind each row's end, to (B, n * r, mels) scaled."""
        y: Tensor = self.code_out(codes.transpose(1, 2))
        for layer in self.decoder:
            y = layer(y, real[:, None])
        frames: Tensor = self.frames_out(y)
        return frames.transpose(1, 2)

    def _scaled(self, features: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, n * r, mels) scaled and 0 behind each row's end, (B, T) real frames, (B, n) real tokens."""
        real, every = self._check(features, lengths), self.config.frames_per_token
        x = self.scale(features).masked_fill(~real[..., None], 0).to(self.dtype)
        return F.pad(x, (0, 0, 0, -x.shape[1] % every)), real, real[:, ::every]

    def _unscaled(self, y: Tensor, real: Tensor) -> Tensor:
        return self.scale.inverse(y).masked_fill(~real[..., None], 0).to(self.dtype)

    def _check(self, features: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, T) bool, the real frames."""
        if not isinstance(features, Tensor) or not features.is_floating_point():
            raise TypeError(f"features: expected floats, found {kind_of(features)}")
        bands = self.config.num_mel_bins
        if features.dim() != 3 or features.shape[2] != bands:
            expected = f"(B, T, num_mel_bins={bands})"
            raise ValueError(f"features: expected shape {expected}, found {tuple(features.shape)}")
        if features.shape[0] == 0 or features.shape[1] == 0:
            raise ValueError(f"features: expected at least one row and frame, found {tuple(features.shape)}")
        real = _real("lengths", lengths, features)
        if not bool((features.isfinite().all(-1) | ~real).all()):
            raise ValueError("features: expected finite numbers, found NaN or infinity in a real frame")
        return real


def _real(name: str, lengths: Tensor | None, rows: Tensor) -> Tensor:
    """(B, T) bool, True before each row's end."""
    places = torch.arange(rows.shape[1], device=rows.device)
    if lengths is None:
        return torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
    if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"{name}: expected integers, found {kind_of(lengths)}")
    if lengths.shape != (len(rows),):
        raise ValueError(f"{name}: expected shape ({len(rows)},), found {tuple(lengths.shape)}")
    if lengths.numel():
        low, high = (int(end) for end in lengths.aminmax())
        if low < 0 or high > rows.shape[1]:
            raise ValueError(f"{name}: expected 0 to {rows.shape[1]}, found {low if low < 0 else high}")
    return places < lengths[:, None]
