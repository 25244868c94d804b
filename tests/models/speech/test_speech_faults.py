"""Planted faults: each mistake that is easy to make, made in memory; the checks pass without it and fail with it."""

from collections.abc import Callable
from typing import Any

import pytest
import test_bridges
import test_front_end
import test_spec_augment
import test_speech_losses
import torch
from speech_cases import ctc_model, noise, randomize, samba_model, speech_config
from speech_checks import LENGTHS, check_front_end, check_padding, check_prefix_state, check_stream, check_subsampling
from speech_ctc import check_ctc_loss
from torch import Tensor
from torch.nn import functional as F

from tokenmix import Layout
from tokenmix.models.speech import SambaASRForConditionalGeneration, SpeechModel, ctc, front_end, model, spec_augment
from tokenmix.models.speech.bridges import AttentionBridge, RecurrentBridge
from tokenmix.models.speech.decoder import DecoderBlock
from tokenmix.models.speech.front_end import LogMel
from tokenmix.models.speech.subsampling import ConvSubsampling, subsampled
from tokenmix.state import MixerState

CLIPS = [noise(length, seed) for seed, length in enumerate(LENGTHS)]
TOKENS = [(length // 80 + 1) // 2 for length in LENGTHS]
FORWARD, READ, BEGIN, BLOCK = (
    ConvSubsampling.forward,
    AttentionBridge.forward,
    RecurrentBridge.begin,
    DecoderBlock.forward,
)
LOG_MEL, PLACES, RUNS, MOMENTS = LogMel.log_mel, SpeechModel._add_places, spec_augment._runs, front_end._moments
CTC_LOSS, TEACH, REORDER = ctc.ctc_loss, SambaASRForConditionalGeneration.teach, MixerState.reorder


def all_of(lengths: Tensor, features: Tensor) -> Tensor:
    """Every row as long as the longest."""
    return torch.full_like(lengths, features.shape[1])


# ---------------------------------------------------------------------- faults: what stands in the place of the code


def unmasked_convolution(self: Any, x: Tensor, lengths: Tensor | None = None, state: Any = None) -> Any:
    y, _ = FORWARD(self, x, None, state)
    return y, None if lengths is None else subsampled(lengths, self.strides)


def forgotten_frames(self: Any, x: Tensor, lengths: Tensor | None = None, state: Any = None) -> Any:
    if state is not None:
        state[-1] = torch.zeros_like(state[-1])
    return FORWARD(self, x, lengths, state)


def plain_flip(self: Layout, batch: int, length: int, device: Any = None) -> tuple[Layout, Tensor]:
    return self, torch.arange(length - 1, -1, -1).expand(batch, length)


def mean_of_the_future_too(self: Any, mel: Tensor, state: Any) -> Tensor:
    prior = self.config.running_prior
    return (mel.sum(1, keepdim=True) + prior * self.mean) / (mel.shape[1] + prior)


def mean_of_the_chunk(self: Any, mel: Tensor, state: Any) -> Tensor:
    prior, count = self.config.running_prior, torch.arange(1, mel.shape[1] + 1)[:, None]
    return (mel.cumsum(1) + prior * self.mean) / (count + prior)


def mean_of_padding(mel: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    return MOMENTS(mel, None)


def frames_around_their_middle(self: Any, samples: Tensor, state: Any = None) -> Tensor:
    half = self.window_samples // 2
    return LOG_MEL(self, F.pad(samples, (0, half))[:, half:], state)


def magnitude_for_power(self: Any, samples: Tensor, state: Any = None) -> Tensor:
    return LOG_MEL(self, samples, state) / 2


def forgotten_samples(self: Any, samples: Tensor, state: Any = None) -> Tensor:
    if state is not None:
        keep = state.samples.shape[1] - (self.window_samples - self.hop_samples)
        state.samples = torch.cat([torch.zeros_like(state.samples[:, keep:]), state.samples[:, :keep]], dim=1)
    return LOG_MEL(self, samples, state)


def places_from_0(self: Any, x: Tensor, first: int) -> Tensor:
    return PLACES(self, x, 0)


def unmasked_bridge(self: Any, x: Tensor, layout: Layout, audio: Tensor, lengths: Tensor, state: Any = None) -> Tensor:
    return READ(self, x, layout, audio, all_of(lengths, audio), state)


def state_of_padding_too(self: Any, audio: Tensor, lengths: Tensor, state: Any) -> None:
    BEGIN(self, audio, all_of(lengths, audio), state)


def block_that_reads_ahead(self: Any, x: Tensor, *others: Any) -> Tensor:
    return BLOCK(self, x + 0.1 * x.mean(1, keepdim=True), *others)


def bridge_that_reads_no_audio(
    self: Any, x: Tensor, layout: Layout, audio: Tensor, lengths: Tensor, state: Any = None
) -> Tensor:
    return x.new_zeros(x.shape) if state is not None else READ(self, x, layout, 0 * audio, lengths, state)


def rows_in_their_old_order(self: MixerState, index: Tensor) -> None:
    REORDER(self, torch.arange(len(index)) % self.batch_size)


def loss_of_all_tokens(logits: Tensor, lengths: Tensor, labels: Tensor, blank: int) -> Tensor:
    return CTC_LOSS(logits, all_of(lengths, logits), labels, blank)


def runs_behind_the_end(count: int, widest: Tensor, within: Tensor, size: int) -> Tensor:
    return RUNS(count, widest, torch.full_like(within, size), size)


class NoMask(Layout):
    """A layout that takes all tokens for real."""

    @classmethod
    def from_lengths(cls, lengths: Any, length: int | None = None) -> Layout:
        return Layout()


def untaught_end(self: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    inputs, targets = TEACH(self, labels)
    return inputs, targets.masked_fill(targets == self.config.eos_token_id, -100)


# ---------------------------------------------------------------------- checks


def the_front_end(kind: str) -> Callable[[], None]:
    return lambda: check_front_end(randomize(LogMel(speech_config(normalise=kind, running_prior=3))), (800, 410, 79))


def the_padding(mixer: str, **options: Any) -> Callable[[], None]:
    made = ctc_model(mixer, **options)
    return lambda: check_padding(lambda samples, mask: made(samples, mask).logits, CLIPS, TOKENS)


def the_stream(**options: Any) -> Callable[[], None]:
    torch.manual_seed(0)
    made = randomize(SpeechModel(speech_config("mamba2", causal=True, **options)))
    return lambda: check_stream(made, 1)


def the_decoder(cross: str) -> Callable[[], None]:
    made, text = samba_model(cross).double(), torch.tensor([[1, 5, 3, 9]])

    def logits(samples: Tensor, mask: Any) -> Tensor:
        inputs = text.expand(len(samples), -1)
        ways = [made(samples, mask, decoder_input_ids=inputs, use_cache=cached).logits for cached in (False, True)]
        return torch.cat(ways, dim=1)

    return lambda: check_padding(logits, CLIPS, [8] * len(CLIPS), 1e-6)


def the_subsampling() -> None:
    check_subsampling(randomize(ConvSubsampling(speech_config())))


def the_prefix() -> None:
    check_prefix_state(test_bridges.bridge_of("mamba2"))


def the_past_alone() -> None:
    test_bridges.test_no_token_reads_text_ahead("mamba")


def the_last_frame() -> None:
    test_bridges.test_every_token_reads_the_last_frame_and_the_first("attention")


def the_rows() -> None:
    test_bridges.test_rows_of_a_cache_are_taken_along()


def the_joint_loss() -> None:
    test_speech_losses.test_joint_loss_by_hand("mamba", 0.0, 0.4)


# where a fault is planted, what it is, and the check that must see it
FAULTS: dict[str, tuple[tuple[Any, str], Any, Callable[[], Any]]] = {
    "plain flip": ((Layout, "reversed"), plain_flip, the_padding("mamba")),
    "convolution reads padding": ((ConvSubsampling, "forward"), unmasked_convolution, the_padding("attention")),
    "convolution against the loop": ((ConvSubsampling, "forward"), unmasked_convolution, the_subsampling),
    "stream forgets frames": ((ConvSubsampling, "forward"), forgotten_frames, the_stream()),
    "stream forgets samples": ((LogMel, "log_mel"), forgotten_samples, the_stream()),
    "stream counts places anew": ((SpeechModel, "_add_places"), places_from_0, the_stream(position="sinusoidal")),
    "running mean of the future": ((LogMel, "_running_mean"), mean_of_the_future_too, the_front_end("running")),
    "running mean of a chunk": ((LogMel, "_running_mean"), mean_of_the_chunk, the_stream(normalise="running")),
    "utterance mean of padding": (
        (front_end, "_moments"),
        mean_of_padding,
        the_padding("mamba", normalise="utterance"),
    ),
    "frames around their middle": ((LogMel, "log_mel"), frames_around_their_middle, the_front_end("none")),
    "magnitude for power": ((LogMel, "log_mel"), magnitude_for_power, the_front_end("global")),
    "normaliser of padding": ((model, "Layout"), NoMask, test_front_end.test_fit_normaliser_equals_numpy),
    "encoder without a mask": ((model, "Layout"), NoMask, the_padding("attention")),
    "bridge reads padding": ((AttentionBridge, "forward"), unmasked_bridge, the_decoder("attention")),
    "state holds padding": ((RecurrentBridge, "begin"), state_of_padding_too, the_decoder("mamba")),
    "prefix holds padding": ((RecurrentBridge, "begin"), state_of_padding_too, the_prefix),
    "text reads ahead": ((DecoderBlock, "forward"), block_that_reads_ahead, the_past_alone),
    "text reads no audio": ((AttentionBridge, "forward"), bridge_that_reads_no_audio, the_last_frame),
    "rows move without their states": ((MixerState, "reorder"), rows_in_their_old_order, the_rows),
    "CTC reads padding": ((ctc, "ctc_loss"), loss_of_all_tokens, lambda: check_ctc_loss(ctc.ctc_loss, 0)),
    "runs behind the end": (
        (spec_augment, "_runs"),
        runs_behind_the_end,
        test_spec_augment.test_a_run_of_frames,
    ),
    "end is not taught": ((SambaASRForConditionalGeneration, "teach"), untaught_end, the_joint_loss),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_fault_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, fault, check = FAULTS[name]
    check()
    monkeypatch.setattr(*place, fault)
    with pytest.raises(AssertionError):
        check()
