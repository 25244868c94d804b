"""Configurations: each mistake is named with what was expected and found; JSON and meta-device builds."""

from typing import Any

import pytest
import torch
from speech_cases import CAUSAL, MAMBA, STACKS, noise, settings
from transformers import AutoConfig

from tokenmix.models.speech import (
    MixerForCTC,
    SambaASRConfig,
    SambaASRForConditionalGeneration,
    SpeechConfig,
)

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"vocab_size": 0}, "vocab_size: expected a positive integer, found 0"),
    ({"num_mel_bins": 0}, "num_mel_bins: expected a positive integer, found 0"),
    ({"sampling_rate": -8000}, "sampling_rate: expected a positive integer, found -8000"),
    ({"hidden_size": 0}, "hidden_size: expected a positive integer, found 0"),
    ({"conv_size": 0}, "conv_size: expected a positive integer, found 0"),
    ({"intermediate_size": 0}, "intermediate_size: expected a positive integer, found 0"),
    ({"num_hidden_layers": 0}, "num_hidden_layers: expected a positive integer, found 0"),
    ({"pad_token_id": 11}, "pad_token_id: expected the blank, from 0 to vocab_size - 1 = 10, found 11"),
    ({"pad_token_id": None}, "pad_token_id: expected the blank, from 0 to vocab_size - 1 = 10, found None"),
    ({"normalise": "globl"}, r"normalise: expected one of \('global', .*, found 'globl'"),
    ({"position": "learned"}, r"position: expected one of \('none', 'sinusoidal'\), found 'learned'"),
    ({"hop_ms": 0.1}, "hop_ms: expected a whole number of samples at sampling_rate=8000, found 0.1 ms = 0.8 samples"),
    (
        {"window_ms": 25.01},
        "window_ms: expected a whole number of samples .*, found 25.01 ms = 200.08 samples",
    ),
    ({"window_ms": 5}, "window_ms: expected at least hop_ms=10, found 5"),
    ({"conv_strides": (2,)}, r"conv_strides: expected one a layer of conv_kernels=\[3, 3\], found \[2\]"),
    ({"conv_kernels": (), "conv_strides": ()}, r"conv_strides: expected one a layer of conv_kernels=\[\], found \[\]"),
    ({"conv_kernels": (4, 3)}, r"conv_kernels: expected odd numbers, none below its stride, found \[4, 3\]"),
    ({"conv_strides": (1, 5)}, r"conv_kernels: expected odd numbers, none below its stride, found \[3, 3\]"),
    ({"conv_strides": (0, 1)}, "conv_strides: expected a positive integer, found 0"),
    ({"frequency_masks": -1}, "frequency_masks: expected at least 0, found -1"),
    ({"time_mask_width": -1}, "time_mask_width: expected at least 0, found -1"),
    ({"running_prior": -1}, "running_prior: expected at least 0, found -1"),
    ({"time_mask_share": 1.5}, "time_mask_share: expected a share from 0 to 1, found 1.5"),
    ({"log_floor": 0.0}, "log_floor: expected a positive number, found 0"),
    ({"initializer_range": -1.0}, "initializer_range: expected a positive number, found -1"),
    ({"causal": True, "normalise": "utterance"}, "normalise: expected 'global', 'running' or 'none' with causal=True"),
    ({"pattern": "xy"}, r"pattern: expected letters of mixers \['x'\], found \['y'\]"),
    ({"mixers": {"x": {"mixer": "mambo"}}}, "mixer: unknown name 'mambo'; did you mean 'mamba"),
    ({"norm": "batchnorm"}, "norm: "),
    ({"hiden_size": 3}, "hiden_size: .*did you mean 'hidden_size'"),
]
WRONG_DECODER: list[tuple[dict[str, Any], str]] = [
    ({"cross": "memory"}, r"cross: expected one of \('mamba', 'attention'\), found 'memory'"),
    ({"cross": "attention", "cross_heads": 3}, "cross_heads: expected a divisor of hidden_size=16, found 3"),
    ({"cross_mixer": STACKS["attention"]}, "cross_mixer: expected a causal mixer, found"),
    (
        {"decoder_mixers": {"m": STACKS["mamba"]}},
        "decoder_mixers: expected causal mixers, found 'm': .*the future",
    ),
    ({"decoder_pattern": "mx"}, r"decoder_pattern: expected letters of mixers \['m'\], found \['x'\]"),
    ({"decoder_mixers": {"m": MAMBA, "z": MAMBA}}, r"decoder_mixers: \['z'\] named but not used by pattern 'm'"),
    ({"num_decoder_layers": 0}, "num_decoder_layers: expected a positive integer, found 0"),
    ({"max_target_length": 0}, "max_target_length: expected a positive integer, found 0"),
    ({"label_smoothing": 1.0}, "label_smoothing: expected at least 0 and below 1, found 1"),
    ({"ctc_weight": -0.1}, "ctc_weight: expected at least 0 and below 1, found -0.1"),
    (
        {"bos_token_id": 0},
        "bos_token_id: expected one token from 0 to .* = 10 other than the blank, found 0",
    ),
    ({"eos_token_id": 11}, "eos_token_id: expected one token from 0 to vocab_size - 1 = 10 .*, found 11"),
    ({"eos_token_id": [2, 3]}, r"eos_token_id: expected one token .*, found \[2, 3\]"),
    ({"eos_token_id": None}, "eos_token_id: expected one token .*, found None"),
    (
        {"decoder_start_token_id": 11},
        "decoder_start_token_id: expected one token from 0 to .* = 10, found 11",
    ),
    ({"conv_kernels": (2, 3)}, "conv_kernels: expected odd numbers"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        SpeechConfig(**settings(**change))


@pytest.mark.parametrize(("change", "message"), WRONG_DECODER)
def test_mistakes_of_the_decoder_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        SambaASRConfig(**settings(**change))


@pytest.mark.parametrize("mixer", ["attention", "mamba"])
def test_a_causal_model_refuses_mixers_that_read_the_future(mixer: str) -> None:
    with pytest.raises(ValueError, match=r"mixers: a model with causal=True needs causal mixers, found 'x': .*future"):
        SpeechConfig(**settings("mamba", causal=True, mixers={"x": STACKS[mixer]}))
    assert SpeechConfig(**settings(mixer, causal=True)).causal


def test_samples_of_a_token() -> None:
    for options, ratio in (
        ({}, 160),
        ({"conv_strides": (2, 2)}, 320),
        ({"hop_ms": 12.5}, 200),
        ({"sampling_rate": 16000}, 320),
    ):
        assert SpeechConfig(**settings(**options)).inputs_to_logits_ratio == ratio


def test_a_hop_that_floats_do_not_hold_exactly() -> None:
    """4.35 * 100000 / 1000 is a little less than 435 in floating point."""
    for milliseconds, rate, samples in ((0.7, 30000, 21), (1.1, 10000, 11), (2.3, 10000, 23), (4.35, 100000, 435)):
        config = SpeechConfig(**settings(hop_ms=milliseconds, sampling_rate=rate))
        assert config.hop_samples == samples


@pytest.mark.parametrize("kind", [SpeechConfig, SambaASRConfig])
def test_json_round_trip(kind: Any, tmp_path: Any) -> None:
    options: dict[str, Any] = {"conv_kernels": (5, 3), "hop_ms": 12.5, "window_ms": 25, "time_mask_share": 0}
    if kind is SambaASRConfig:
        options |= {"cross": "attention", "decoder_mixers": {"a": CAUSAL["attention"]}, "decoder_pattern": "aa"}
    config = kind(**settings("gam", **options))
    config.save_pretrained(tmp_path)
    for again in (
        kind.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
        kind.from_dict(config.to_dict()),
    ):
        assert type(again) is kind
        assert again.to_diff_dict() == config.to_diff_dict()
        assert again.conv_kernels == [5, 3]
        assert again.hop_samples == 100


def test_layers_repeat_the_pattern() -> None:
    config = SambaASRConfig(**settings(num_hidden_layers=5, decoder_mixers={"m": MAMBA, "a": CAUSAL["attention"]},
                                       decoder_pattern="ma", num_decoder_layers=3))  # fmt: skip
    model = SambaASRForConditionalGeneration(config)
    assert (len(model.encoder.stack.layers), len(model.decoder.layers)) == (5, 3)
    assert config.decoder_letters() == "mam"


def test_default_start_is_the_first_token() -> None:
    config = SambaASRConfig(**settings(bos_token_id=5))
    assert config.decoder_start_token_id == 5
    assert SambaASRConfig(**settings(bos_token_id=5, decoder_start_token_id=2)).decoder_start_token_id == 2


@pytest.mark.parametrize(("model", "config"), [
    (MixerForCTC, SpeechConfig()),
    (SambaASRForConditionalGeneration, SambaASRConfig(num_decoder_layers=2, cross="attention")),
])  # fmt: skip
def test_a_model_is_built_without_memory(model: Any, config: Any) -> None:
    """On the meta device, at its default size; all tensors of the same names and shapes as with memory."""
    with torch.device("meta"):
        empty = model(config)
    assert all(tensor.is_meta for tensor in [*empty.parameters(), *empty.buffers()])
    real = model(config)
    shapes = {name: tensor.shape for name, tensor in real.state_dict().items()}
    assert {name: tensor.shape for name, tensor in empty.state_dict().items()} == shapes
    assert real.encoder.front_end.filters.sum() > 0
    assert (
        real(noise(1600)[None], **({} if model is MixerForCTC else {"labels": torch.tensor([[3]])}))
        .logits.isfinite()
        .all()
    )
