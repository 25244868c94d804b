"""Convolutions over frames: equal to a loop that reads zeros outside of each row; streams equal wholes."""

from typing import Any

import pytest
import torch
from speech_cases import CAUSAL, assert_close, randomize, speech_config
from speech_checks import check_stream, check_subsampling

from tokenmix.models.speech import SpeechModel
from tokenmix.models.speech.subsampling import ConvSubsampling, subsampled

SHAPES = [((3, 3), (1, 2)), ((3, 3), (2, 2)), ((5,), (3,)), ((1, 7, 3), (1, 4, 2))]


def subsampling(**options: Any) -> ConvSubsampling:
    torch.manual_seed(0)
    made: ConvSubsampling = randomize(ConvSubsampling(speech_config(**options)))
    return made


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("kernels", "strides"), SHAPES)
def test_equals_a_loop(kernels: tuple[int, ...], strides: tuple[int, ...], causal: bool) -> None:
    check_subsampling(subsampling(conv_kernels=kernels, conv_strides=strides, causal=causal))


@pytest.mark.parametrize(("kernels", "strides"), SHAPES)
def test_lengths(kernels: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """Those that `forward` gives, those of the output without lengths, and ceil after ceil agree."""
    module = subsampling(conv_kernels=kernels, conv_strides=strides)
    for length in range(1, 20):
        found, counts = module(torch.randn(1, length, 12), torch.tensor([length]))
        assert found.shape[1] == counts.item() == subsampled(torch.tensor([length]), list(strides)).item()
        assert module(torch.randn(1, length, 12))[1] is None


def test_a_causal_token_reads_no_frame_ahead() -> None:
    module = subsampling(conv_kernels=(3, 5), conv_strides=(2, 2), causal=True)
    frames = torch.randn(1, 17, 12, requires_grad=True)
    for t in range(4):
        (gradient,) = torch.autograd.grad(module(frames)[0][0, t].square().sum(), frames)
        assert gradient[0].abs().sum(1).nonzero().max() == 4 * t


@pytest.mark.parametrize(("kernels", "strides"), SHAPES)
def test_a_stream_has_the_tokens_of_the_whole(kernels: tuple[int, ...], strides: tuple[int, ...]) -> None:
    module = subsampling(conv_kernels=kernels, conv_strides=strides, causal=True)
    frames = torch.randn(2, 61, 12)
    whole, _ = module(frames)
    for seed in range(4):
        generator, state, parts, start = torch.Generator().manual_seed(seed), module.init_state(2), [], 0
        while start < 61:
            size = int(torch.randint(0, (1, 3, 9, 40)[seed] + 1, (1,), generator=generator))
            parts.append(module(frames[:, start : start + size], state=state)[0])
            start += size
        assert_close(torch.cat(parts, dim=1), whole)


@pytest.mark.parametrize("mixer", sorted(CAUSAL))
@pytest.mark.parametrize("options", [
    {"normalise": "global"},
    {"normalise": "running", "running_prior": 4, "position": "sinusoidal"},
    {"normalise": "none", "conv_kernels": (5, 3), "conv_strides": (2, 2), "sampling_rate": 16000},
])  # fmt: skip
def test_a_streamed_encoder_equals_the_whole(mixer: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = randomize(SpeechModel(speech_config(mixer, causal=True, **options)))
    for seed in range(3):
        check_stream(model, seed)


def test_the_size_of_a_stream_does_not_grow() -> None:
    model = randomize(SpeechModel(speech_config("mamba2", causal=True, normalise="running")))
    stream, sizes = model.init_stream(1), set()
    for _ in range(5):
        model.read(torch.randn(1, 1600), stream)
        sizes.add(stream.nbytes)
    assert len(sizes) == 1
    assert stream.tokens == 50


def test_a_model_that_reads_the_future_has_no_stream() -> None:
    with pytest.raises(ValueError, match="causal: expected a model with causal=True to stream, found one that reads"):
        SpeechModel(speech_config()).init_stream()
