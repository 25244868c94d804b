"""Log-Mel frames and their normalisation: equal to a loop in float64, causal, blind to padding, whole in any chunks."""

from typing import Any

import numpy as np
import pytest
import torch
from speech_cases import assert_close, batch_of, naive_log_mel, noise, randomize, speech_config
from speech_checks import LENGTHS, check_front_end

from tokenmix.models.speech import SpeechConfig, SpeechModel
from tokenmix.models.speech.front_end import LogMel

KINDS = ("global", "utterance", "running", "none")


def front_end(**options: Any) -> LogMel:
    torch.manual_seed(0)
    made: LogMel = randomize(LogMel(speech_config(**options)))
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_equals_a_loop(kind: str) -> None:
    check_front_end(front_end(normalise=kind, running_prior=3))


def test_equals_a_loop_at_16_khz_with_80_bands() -> None:
    model = LogMel(SpeechConfig())
    assert (model.window_samples, model.hop_samples, model.transform_size) == (400, 160, 512)
    assert_close(model(noise(1700)[None])[0], naive_log_mel(noise(1700), model.config), 2e-4)


def test_no_prior_and_a_prior_that_outweighs_all() -> None:
    """Without a prior the first frame is its own mean; with a large one "running" is "global"."""
    samples = noise(800)[None]
    bare, heavy, fixed = (
        front_end(normalise="running", running_prior=0), front_end(normalise="running", running_prior=10**9),
        front_end(normalise="global"),
    )  # fmt: skip
    assert_close(bare(samples)[0, 0], torch.zeros(12))
    assert_close(heavy(samples), fixed(samples), 1e-4)


@pytest.mark.parametrize("samples", [0, 1, 79, 80, 81, 159, 160, 1000])
def test_number_of_frames(samples: int) -> None:
    assert front_end()(noise(samples)[None]).shape == (1, samples // 80, 12)


@pytest.mark.parametrize("kind", ["global", "running", "none"])
def test_a_frame_reads_its_window_and_nothing_ahead(kind: str) -> None:
    """Gradient of frame t: only samples (t + 1) hop - window to (t + 1) hop; in "running" all before too."""
    model = front_end(normalise=kind, running_prior=2)
    samples = noise(1300)[None].requires_grad_()
    for t in (0, 4, 15):
        (gradient,) = torch.autograd.grad(model(samples)[0, t].square().sum(), samples)
        read = gradient[0].nonzero()[:, 0]
        first = 0 if kind == "running" else (t + 1) * 80 - 200
        assert (t + 1) * 80 - 4 <= read.max() < (t + 1) * 80
        assert max(first, 0) <= read.min() <= max(first, 0) + 3  # a Hann window starts at 0


@pytest.mark.parametrize("kind", ["global", "running", "none"])
def test_a_stream_has_the_frames_of_the_whole(kind: str) -> None:
    model = front_end(normalise=kind, running_prior=3)
    samples = torch.stack([noise(4000, 1), noise(4000, 2)])
    whole = model(samples)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        state, parts, start = model.init_state(2), [], 0
        size = state.nbytes
        while start < 4000:
            step = int(torch.randint(0, (2, 50, 300, 1500)[seed] + 1, (1,), generator=generator))
            parts.append(model(samples[:, start : start + step], state=state))
            start += step
            assert state.samples.shape[1] < 200
            assert abs(state.nbytes - size) <= 2 * 4 * 80
        assert state.frames == (50 if kind == "running" else 0)
        assert_close(torch.cat(parts, dim=1), whole, 1e-5)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_samples_of_16_bits_are_read_in_float32(half: torch.dtype) -> None:
    model, samples = front_end(), noise(900)[None].to(half)
    assert torch.equal(model(samples), model(samples.float()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(samples), model(samples.float()))


def test_digital_silence_is_finite() -> None:
    for kind in KINDS:
        assert front_end(normalise=kind)(torch.zeros(2, 800), torch.tensor([10, 4])).isfinite().all()


def test_fit_normaliser_equals_numpy() -> None:
    """Over all real frames of all batches alike, not the mean of means, and nothing of the padding."""
    model: Any = SpeechModel(speech_config())
    batches = [[noise(n, n) for n in LENGTHS], [0.1 * noise(5000, 7)], [noise(400, 3), noise(30, 4)]]
    frames = np.concatenate([naive_log_mel(clip, model.config).numpy() for clips in batches for clip in clips])
    given: list[dict[str, Any]] = [batch_of(clips, 333, 3.0) for clips in batches]
    given[1] = {"input_values": batches[1][0][None]}
    model.fit_normaliser(given)
    assert_close(model.front_end.mean, torch.from_numpy(frames.mean(0)), 1e-4)
    assert_close(model.front_end.deviation, torch.from_numpy(frames.std(0)), 1e-4)
    whole = torch.cat([model.front_end(clip[None])[0] for clips in batches for clip in clips])
    assert_close(whole.mean(0), torch.zeros(12), 1e-4)
    assert_close(whole.std(0, correction=0), torch.ones(12), 1e-4)


def test_fit_normaliser_refuses_audio_without_frames() -> None:
    model = SpeechModel(speech_config())
    for batches in ([], [{"input_values": noise(79)[None]}]):
        with pytest.raises(ValueError, match="batches: expected audio of at least one frame, found none"):
            model.fit_normaliser(batches)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16, torch.float64])
def test_it_stays_in_float32_however_it_is_cast_or_built(half: torch.dtype) -> None:
    model, samples = front_end(), noise(900)[None]
    expected, built = model(samples), front_end()
    assert torch.equal(model.to(half)(samples), expected)
    try:
        torch.set_default_dtype(half)
        other = LogMel(speech_config())
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(other.filters, built.filters)
    assert torch.equal(other.window, built.window)
    assert {buffer.dtype for buffer in [*model.buffers(), *other.buffers()]} == {torch.float32}
    empty = LogMel(speech_config()).to("meta")
    assert all(buffer.is_meta for buffer in empty.buffers())
