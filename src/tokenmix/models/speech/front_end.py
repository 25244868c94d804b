"""From samples to frames: log-Mel energies, and what is subtracted from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenmix.models.speech.config import SpeechConfig

_LEAST_DEVIATION = 1e-3  # of a band that never changes, such as one of digital silence


@dataclass
class FrontEndState:
    """What a front end keeps of a stream: the samples that the next frame needs too, and sums of the frames so far.

    Attributes:
        samples: (B, n) samples from the start of the next frame's window on.
        total: (B, mels) float64, sum of the frames so far, for normalise="running".
        frames: frames so far.
    """

    samples: Tensor
    total: Tensor
    frames: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        return self.samples.nbytes + self.total.nbytes


class LogMel(nn.Module):
    """Normalised log-Mel energies of samples (B, N): frames (B, N // hop, mels).

        frame_t = samples from (t + 1) hop - window to (t + 1) hop,   before the start 0
        e_t = filters^T |rfft(hann * frame_t)|^2,   y_t = (log max(e_t, floor) - mean) / deviation

    A frame ends where its hop ends, so it is known as soon as its samples are: nothing is read ahead, and a stream
    cut anywhere has the frames of the whole. Samples behind the last whole hop make none.

    Args:
        config: sizes, floor, and what is subtracted.

    Raises:
        ModuleNotFoundError: torchaudio is missing.

    Example:
        >>> LogMel(SpeechConfig(num_mel_bins=20))(torch.randn(1, 1650)).shape
        torch.Size([1, 10, 20])

    Source:
        Filters of torchaudio (the HTK scale, Slaney's area). Sizes as in Whisper, arXiv 2212.04356.
    """

    window: Tensor  # (window,)
    filters: Tensor  # (bins, mels)
    mean: Tensor  # (mels,)
    deviation: Tensor  # (mels,)

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        self.config = config
        self.window_samples, self.hop_samples = config.window_samples, config.hop_samples
        self.transform_size = 1 << (self.window_samples - 1).bit_length()
        self.register_buffer("window", torch.empty(self.window_samples, dtype=torch.float32))
        self.register_buffer(
            "filters", torch.empty(self.transform_size // 2 + 1, config.num_mel_bins, dtype=torch.float32)
        )
        self.register_buffer("mean", torch.empty(config.num_mel_bins, dtype=torch.float32))
        self.register_buffer("deviation", torch.empty(config.num_mel_bins, dtype=torch.float32))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The window, the filters, and a mean of 0 and deviation of 1."""
        if self.window.is_meta:
            return
        self.window.copy_(torch.hann_window(self.window_samples, dtype=torch.float32))
        self.filters.copy_(_filters(self.config, self.transform_size))
        self.mean.zero_()
        self.deviation.fill_(1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LogMel:
        """Move, and keep float32: rounded to 16 bits, filters and means would be others than those trained with."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == torch.float32 else tensor.to(moved.device)

        super()._apply(move, recurse)
        return self

    def init_state(self, rows: int) -> FrontEndState:
        """Before the first sample of `rows` streams."""
        samples = torch.zeros(rows, self.window_samples - self.hop_samples, device=self.mean.device)
        total = torch.zeros(rows, len(self.mean), dtype=torch.float64, device=self.mean.device)
        return FrontEndState(samples, total)

    def forward(self, samples: Tensor, lengths: Tensor | None = None, state: FrontEndState | None = None) -> Tensor:
        """(B, N) samples to (B, frames, mels), zero behind each row's frames.

        Args:
            samples: (B, N) in [-1, 1]; zero behind each row's end.
            lengths: (B,) frames of each row; None means that all are.
            state: of a stream, advanced in place; all rows are then whole.
        """
        with torch.autocast(samples.device.type, enabled=False):
            mel = self.log_mel(samples.float(), state)
            mel = self._normalise(mel, lengths, state)
        return mel if lengths is None else mel.masked_fill(~_valid(mel, lengths), 0)

    def log_mel(self, samples: Tensor, state: FrontEndState | None = None) -> Tensor:
        """(B, N) to (B, frames, mels), not normalised."""
        overlap = self.window_samples - self.hop_samples
        known = F.pad(samples, (overlap, 0)) if state is None else torch.cat([state.samples, samples], dim=1)
        count = (known.shape[1] - overlap) // self.hop_samples
        if state is not None:
            state.samples = known[:, count * self.hop_samples :].clone()
        if count == 0:
            return samples.new_zeros(samples.shape[0], 0, self.config.num_mel_bins)
        frames = known.unfold(1, self.window_samples, self.hop_samples)[:, :count]  # (B, frames, window)
        spectrum = torch.fft.rfft(frames * self.window, n=self.transform_size)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power @ self.filters).clamp(min=self.config.log_floor).log()

    def _normalise(self, mel: Tensor, lengths: Tensor | None, state: FrontEndState | None) -> Tensor:
        kind, mean, deviation = self.config.normalise, self.mean, self.deviation
        if kind == "none":
            return mel
        if kind == "utterance":
            mean, deviation = _moments(mel, lengths)
        elif kind == "running":
            mean = self._running_mean(mel, state)
        return (mel - mean) / deviation

    def _running_mean(self, mel: Tensor, state: FrontEndState | None) -> Tensor:
        """(B, frames, mels): the mean of the frames up to each, and of `running_prior` frames of the global mean."""
        prior, sums = self.config.running_prior, mel.double().cumsum(1)
        before = 0
        if state is not None:
            sums = sums + state.total[:, None]
            before = state.frames
            if mel.shape[1]:
                state.total = sums[:, -1]
            state.frames += mel.shape[1]
        counts = torch.arange(before + 1, before + mel.shape[1] + 1, device=mel.device, dtype=torch.float64)[:, None]
        return ((sums + prior * self.mean.double()) / (counts + prior)).to(mel.dtype)


def _filters(config: SpeechConfig, transform_size: int) -> Tensor:
    """(transform_size / 2 + 1, mels) triangles in float32, whatever default type a model is built under."""
    from torchaudio.functional import melscale_fbanks

    nyquist, default = config.sampling_rate / 2, torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)
        with torch.device("cpu"):
            return melscale_fbanks(
                transform_size // 2 + 1, 20.0, nyquist, config.num_mel_bins, config.sampling_rate, norm="slaney"
            )
    finally:
        torch.set_default_dtype(default)


def _valid(frames: Tensor, lengths: Tensor) -> Tensor:
    """(B, frames, 1) bool."""
    return (torch.arange(frames.shape[1], device=frames.device) < lengths[:, None])[..., None]


def _moments(mel: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, 1, mels) mean and deviation of the real frames of each row, in float64: padding then rounds nothing."""
    mel = mel.double()
    kept = torch.ones_like(mel[..., :1]) if lengths is None else _valid(mel, lengths).to(mel.dtype)
    count = kept.sum(1, keepdim=True).clamp(min=1)
    mean = (mel * kept).sum(1, keepdim=True) / count
    variance = ((mel - mean).square() * kept).sum(1, keepdim=True) / count
    return mean.float(), variance.sqrt().clamp(min=_LEAST_DEVIATION).float()
