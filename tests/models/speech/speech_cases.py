"""Tiny speech models whose mistakes show, noise of many lengths, and references written from the equations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torchaudio
from torch import Tensor, nn

from tokenmix.models.speech import MixerForCTC, SambaASRConfig, SambaASRForConditionalGeneration, SpeechConfig

VOCABULARY = 11
RATE = 8000
MAMBA = {"mixer": "mamba", "state_size": 4}
MAMBA2 = {"mixer": "mamba2", "state_size": 8, "head_dim": 8, "chunk": 4}
STACKS: dict[str, dict[str, Any]] = {
    "mamba": {"mixer": "bidirectional", "inner": MAMBA},
    "mamba2": {"mixer": "bidirectional", "inner": MAMBA2},
    "attention": {"mixer": "attention", "heads": 2, "rope": True, "causal": False},
    "ls_attention": {"mixer": "ls_attention", "heads": 4, "long_heads": 1, "window": 3, "causal": False},
    "gam": {"mixer": "gam", "slots": 8, "causal": False},
}
CAUSAL: dict[str, dict[str, Any]] = {
    "mamba": MAMBA,
    "mamba2": MAMBA2,
    "attention": {"mixer": "attention", "heads": 2, "rope": True},
    "ls_attention": {"mixer": "ls_attention", "heads": 4, "long_heads": 1, "window": 3},
    "gam": {"mixer": "gam", "slots": 8},
}
BRIDGES = ("mamba", "attention")


def settings(mixer: str = "mamba", **options: Any) -> dict[str, Any]:
    """Keywords of a tiny `SpeechConfig`: 8 kHz, 12 bands, two layers of one of `STACKS` or `CAUSAL`, no SpecAugment."""
    stacks = CAUSAL if options.get("causal") else STACKS
    small = {
        "vocab_size": VOCABULARY, "sampling_rate": RATE, "num_mel_bins": 12, "conv_size": 10, "hidden_size": 16,
        "intermediate_size": 24, "mixers": {"x": stacks[mixer]}, "pattern": "xx", "frequency_masks": 0, "time_masks": 0,
    }  # fmt: skip
    return {**small, **options}


def speech_config(mixer: str = "mamba", **options: Any) -> SpeechConfig:
    return SpeechConfig(**settings(mixer, **options))


def ctc_model(mixer: str = "mamba", **options: Any) -> MixerForCTC:
    torch.manual_seed(0)
    model: MixerForCTC = randomize(MixerForCTC(speech_config(mixer, **options)))
    return model


def samba_config(cross: str = "mamba", **options: Any) -> SambaASRConfig:
    decoder = {
        "decoder_mixers": {"m": MAMBA, "a": CAUSAL["attention"]}, "decoder_pattern": "ma", "cross": cross,
        "cross_mixer": MAMBA2, "cross_heads": 2, "tie_word_embeddings": False, "max_target_length": 12,
    }  # fmt: skip
    return SambaASRConfig(**settings(**{**decoder, **options}))


def samba_model(cross: str = "mamba", *, seed: int = 0, **options: Any) -> SambaASRForConditionalGeneration:
    torch.manual_seed(seed)
    model: SambaASRForConditionalGeneration = randomize(
        SambaASRForConditionalGeneration(samba_config(cross, **options))
    )
    return model


def randomize(model: nn.Module) -> Any:
    """In eval mode, every parameter far from its start; a normaliser that is neither 0 nor 1."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name else -2.0 if name.endswith("A_log") else 0.0
            parameter.normal_(centre, 0.3)
        for name, buffer in model.named_buffers():
            if name.endswith("mean"):
                buffer.normal_(-5.0, 1.0)
            elif name.endswith("deviation"):
                buffer.uniform_(0.5, 2.0)
    return model.eval()


def noise(length: int, seed: int = 0) -> Tensor:
    """(length,) samples whose loudness and colour change, so that no two frames are alike."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(length)
    white = torch.randn(length, generator=generator)
    return 0.3 * white * (1.2 + torch.sin(time / 211)) + 0.2 * torch.sin(time * (0.3 + 0.2 * torch.sin(time / 911)))


def batch_of(clips: Sequence[Tensor], extra: int = 0, junk: float = 0.0) -> dict[str, Tensor]:
    """Clips behind which `extra` more samples stand, all padding of them loud where `junk` is not 0."""
    longest = max(len(clip) for clip in clips) + extra
    values = junk * torch.randn(len(clips), longest, generator=torch.Generator().manual_seed(9))
    mask = torch.zeros(len(clips), longest, dtype=torch.long)
    for row, clip in enumerate(clips):
        values[row, : len(clip)] = clip
        mask[row, : len(clip)] = 1
    return {"input_values": values, "attention_mask": mask}


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to a tolerance that is absolute and relative, whatever the types."""
    torch.testing.assert_close(found.double(), expected.double(), atol=tolerance, rtol=tolerance)


def naive_log_mel(samples: Tensor, config: SpeechConfig) -> Tensor:
    """(N,) to (N // hop, mels) in float64: a loop over frames, samples and frequencies, not normalised."""
    window, hop = config.window_samples, config.hop_samples
    size = 2 ** math.ceil(math.log2(window))
    filters = torchaudio.functional.melscale_fbanks(
        size // 2 + 1, 20.0, config.sampling_rate / 2, config.num_mel_bins, config.sampling_rate, norm="slaney"
    ).double()
    place = torch.arange(window, dtype=torch.float64)
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi * place / window)
    waves = torch.outer(place, torch.arange(size // 2 + 1, dtype=torch.float64)) * (2 * math.pi / size)
    rows = []
    for t in range(len(samples) // hop):
        frame = torch.zeros(window, dtype=torch.float64)
        for i in range(window):
            where = (t + 1) * hop - window + i
            if where >= 0:
                frame[i] = samples[where]
        seen = (frame * hann)[:, None]
        power = (seen * waves.cos()).sum(0) ** 2 + (seen * waves.sin()).sum(0) ** 2
        rows.append((power @ filters).clamp(min=config.log_floor).log())
    return torch.stack(rows) if rows else torch.zeros(0, config.num_mel_bins, dtype=torch.float64)


def naive_normalised(samples: Tensor, model: Any) -> Tensor:
    """(N,) to (frames, mels) in float64, normalised as the config of a LogMel says."""
    config, mean, deviation = model.config, model.mean.double(), model.deviation.double()
    mel = naive_log_mel(samples, config)
    if config.normalise == "none" or not len(mel):
        return mel
    if config.normalise == "utterance":
        return (mel - mel.mean(0)) / mel.std(0, correction=0).clamp(min=1e-3)
    if config.normalise == "running":
        prior = config.running_prior
        means = [(mel[: t + 1].sum(0) + prior * mean) / (t + 1 + prior) for t in range(len(mel))]
        return (mel - torch.stack(means)) / deviation
    return (mel - mean) / deviation


def naive_subsampling(frames: Tensor, module: Any) -> Tensor:
    """(T, mels) frames of one row to (tokens, hidden_size) in float64, by a loop over outputs and taps."""
    x = frames.double()
    for conv, stride in zip(module.layers, module.strides, strict=True):
        weight, bias = conv.weight.double(), conv.bias.double()
        kernel = weight.shape[2]
        left = kernel - 1 if module.causal else (kernel - 1) // 2
        rows = []
        for t in range(-(-len(x) // stride)):
            y = bias.clone()
            for j in range(kernel):
                where = stride * t + j - left
                if 0 <= where < len(x):
                    y = y + weight[:, :, j] @ x[where]
            rows.append(0.5 * y * (1 + torch.erf(y / math.sqrt(2))))
        x = torch.stack(rows) if rows else x.new_zeros(0, weight.shape[0])
    return x @ module.out_proj.weight.double().T + module.out_proj.bias.double()
