"""What the tests of speech models ask, as functions, so that planted faults can be asked too."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from speech_cases import assert_close, batch_of, naive_normalised, naive_subsampling, noise
from torch import Tensor

from tokenmix import Layout
from tokenmix.models import MixerCache

LENGTHS = (2000, 1210, 79, 0, 80, 733)  # whole hops and not, less than a frame, none, one hop


@torch.no_grad()
def check_front_end(front_end: Any, lengths: Sequence[int] = LENGTHS) -> None:
    """Frames of a batch equal a loop over each row alone, whatever stands behind the rows' ends."""
    clips = [noise(length, seed) for seed, length in enumerate(lengths)]
    hop = front_end.config.hop_samples
    for extra in (0, 3 * hop + 5):
        samples = batch_of(clips, extra)["input_values"]
        counts = torch.tensor([length // hop for length in lengths])
        found = front_end(samples, counts)
        assert found.shape == (len(clips), samples.shape[1] // hop, front_end.config.num_mel_bins)
        for row, clip in enumerate(clips):
            expected = naive_normalised(clip, front_end)
            assert_close(found[row, : len(expected)], expected, 2e-4)  # float32 energies over many orders
            assert not found[row, len(expected) :].any()


@torch.no_grad()
def check_subsampling(module: Any, lengths: Sequence[int] = (9, 4, 1, 0, 2)) -> None:
    """Tokens of a batch equal a loop over each row alone, zero outside of it."""
    frames = [torch.randn(length, module.layers[0].in_channels) for length in lengths]
    for longest in (max(lengths), max(lengths) + 5):
        padded = torch.zeros(len(frames), longest, module.layers[0].in_channels)
        for row, clip in enumerate(frames):
            padded[row, : len(clip)] = clip
        found, counts = module(padded, torch.tensor(lengths))
        for row, clip in enumerate(frames):
            expected = naive_subsampling(clip, module)
            assert counts[row] == len(expected)
            assert_close(found[row, : len(expected)], expected)


@torch.no_grad()
def check_padding(logits_of: Any, clips: Sequence[Tensor], tokens: Sequence[int], tolerance: float = 3e-5) -> None:
    """Logits of each row are those of the row alone: whatever its company, the padding's length and contents.

    Args:
        logits_of: from input_values and attention_mask to (B, T, vocabulary).
        clips: rows.
        tokens: of each.
        tolerance: absolute and relative.
    """
    alone = [logits_of(clip[None], torch.ones(1, len(clip), dtype=torch.long))[0] for clip in clips]
    bare = [logits_of(clip[None], None)[0] for clip in clips]
    for extra, junk in ((0, 0.0), (0, 5.0), (1117, 0.0), (1117, 5.0)):
        found = logits_of(*batch_of(clips, extra, junk).values())
        for row, count in enumerate(tokens):
            assert_close(found[row, :count], alone[row][:count], tolerance)
            assert_close(found[row, :count], bare[row][:count], tolerance)


@torch.no_grad()
def check_stream(model: Any, seed: int, length: int = 1711) -> None:
    """Features of a stream in chunks of any size, of none too, equal those of the whole."""
    samples = torch.stack([noise(length, seed), noise(length, seed + 50)])
    whole = model(samples).last_hidden_state
    generator = torch.Generator().manual_seed(seed)
    stream, parts, start = model.init_stream(2), [], 0
    while start < length:
        size = int(torch.randint(0, (60, 200, 900)[seed % 3] + 1, (1,), generator=generator))
        parts.append(model.read(samples[:, start : start + size], stream))
        start += size
    assert_close(torch.cat(parts, dim=1), whole, 2e-5)


@torch.no_grad()
def check_prefix_state(bridge: Any) -> None:
    """Text read from the state after the audio, in chunks, equals text read behind the audio at once, and alone."""
    torch.manual_seed(3)
    texts, audios = torch.tensor([5, 3, 0]), torch.tensor([9, 4, 1])
    x, audio, mask = torch.randn(3, 5, 16), torch.randn(3, 9, 16), torch.arange(5) < texts[:, None]
    whole, state = bridge(x, Layout(mask=mask), audio, audios), bridge.init_state(3)
    bridge.begin(audio, audios, state)
    nothing, parts = torch.zeros_like(audio), []
    for a, b in ((0, 2), (2, 3), (3, 5)):
        parts.append(bridge(x[:, a:b], Layout(mask=mask[:, a:b]), nothing, audios, state))
    found = torch.cat(parts, dim=1)
    for row, (count, heard) in enumerate(zip(texts.tolist(), audios.tolist(), strict=True)):
        assert_close(found[row, :count], whole[row, :count])
        if count:
            alone = bridge(x[row : row + 1, :count], Layout(), audio[row : row + 1, :heard], audios[row : row + 1])
            assert_close(whole[row, :count], alone[0])


@torch.no_grad()
def step_by_step(model: Any, audio: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """(B, L, vocabulary) logits of one token after the other, from a cache, the encoder's output given once."""
    heard, cache = model.encoder(**audio), MixerCache()
    steps = [
        model(encoder_outputs=heard, decoder_input_ids=inputs[:, i : i + 1], cache=cache, use_cache=True).logits
        for i in range(inputs.shape[1])
    ]
    return torch.cat(steps, dim=1)


@torch.no_grad()
def exhaustive_best(model: Any, audio: dict[str, Tensor], longest: int) -> list[tuple[float, list[int]]]:
    """All texts of one row, likeliest first, by teacher forcing: those that end, and those cut at `longest`."""
    end, size = model.config.eos_token_id, model.config.vocab_size
    others = [token for token in range(size) if token != end]
    found = []
    heard = model.encoder(**audio)
    for length in range(longest + 1):
        bodies = [list(body) for body in itertools.product(others, repeat=length)]
        texts = [body if length == longest else [*body, end] for body in bodies]
        inputs = torch.tensor([[model.config.decoder_start_token_id, *text[:-1]] for text in texts])
        targets = torch.tensor(texts)
        many = type(heard)(heard.last_hidden_state.expand(len(texts), -1, -1), heard.lengths.expand(len(texts)))
        logits = model(encoder_outputs=many, decoder_input_ids=inputs, use_cache=False).logits
        scores = logits.double().log_softmax(-1).gather(2, targets[..., None]).sum((1, 2))
        found += [(float(score), text) for score, text in zip(scores, texts, strict=True)]
    return sorted(found, key=lambda pair: -pair[0])
