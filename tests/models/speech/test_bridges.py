"""How text reads audio: the state after the audio stands for it; text reads no text ahead, and all of the audio."""

from typing import Any

import pytest
import torch
from speech_cases import BRIDGES, CAUSAL, MAMBA, MAMBA2, RATE, assert_close, batch_of, noise, randomize, samba_model
from speech_checks import check_prefix_state, step_by_step
from torch import Tensor

from tokenmix import Layout
from tokenmix.models import MixerCache
from tokenmix.models.speech.bridges import AttentionBridge, RecurrentBridge

CLIPS = [noise(2000, 1), noise(1210, 2), noise(730, 3)]
TEXTS = torch.tensor([[1, 5, 3, 9, 7], [1, 4, 4, 8, 6], [1, 10, 3, 5, 5]])
RECURRENCES: dict[str, Any] = {
    "mamba": MAMBA,
    "mamba2": MAMBA2,
    "linear_attention": {"mixer": "linear_attention", "heads": 2},
}


def bridge_of(name: str) -> Any:
    torch.manual_seed(0)
    if name == "cross_attention":
        return randomize(AttentionBridge(16, heads=2))
    return randomize(RecurrentBridge(16, {**RECURRENCES, **CAUSAL}[name]))


def decoder_logits(model: Any, inputs: Tensor = TEXTS, **audio: Tensor) -> Tensor:
    given = audio or batch_of(CLIPS)
    logits: Tensor = model(**given, decoder_input_ids=inputs, use_cache=False).logits
    return logits


@pytest.mark.parametrize("name", ["mamba", "mamba2", "linear_attention", "attention", "gam", "cross_attention"])
def test_the_state_after_the_audio_stands_for_it(name: str) -> None:
    check_prefix_state(bridge_of(name))


def test_an_attention_bridge_equals_its_equation() -> None:
    bridge = bridge_of("cross_attention").double()
    own, audio, x = bridge.attention, torch.randn(1, 6, 16).double(), torch.randn(1, 3, 16).double()
    q, k, v = (y.view(-1, 2, 8) for y in (own.q_proj(x), own.k_proj(audio), own.v_proj(audio)))
    rows = []
    for token in range(3):
        heads = [(k[:4, h] @ q[token, h] / 8**0.5).softmax(0) @ v[:4, h] for h in range(2)]
        rows.append(own.o_proj(torch.cat(heads)))
    assert_close(bridge(x, Layout(), audio, torch.tensor([4]))[0], torch.stack(rows), 1e-12)


def test_a_bridge_must_be_causal() -> None:
    with pytest.raises(ValueError, match="cross_mixer: expected a causal mixer, found"):
        RecurrentBridge(16, {"mixer": "attention", "heads": 2, "causal": False})


@torch.no_grad()
@pytest.mark.parametrize("cross", BRIDGES)
def test_step_by_step_equals_teacher_forcing(cross: str) -> None:
    """Rows of different lengths of audio, in one batch and alone; a cache reads the audio once."""
    model = samba_model(cross).double()
    whole = decoder_logits(model)
    assert_close(step_by_step(model, batch_of(CLIPS), TEXTS), whole, 1e-10)
    for row, clip in enumerate(CLIPS):
        assert_close(step_by_step(model, batch_of([clip]), TEXTS[row : row + 1])[0], whole[row], 1e-10)
    single = samba_model(cross)
    assert_close(step_by_step(single, batch_of(CLIPS), TEXTS), decoder_logits(single), 5e-5)


@torch.no_grad()
@pytest.mark.parametrize("cross", BRIDGES)
def test_text_in_chunks_and_with_padding_behind_it(cross: str) -> None:
    model = samba_model(cross).double()
    whole, heard, cache = decoder_logits(model), model.encoder(**batch_of(CLIPS)), MixerCache()
    given: dict[str, Any] = {"encoder_outputs": heard, "cache": cache}
    parts = [model(decoder_input_ids=TEXTS[:, a:b], **given).logits for a, b in ((0, 3), (3, 5))]
    assert_close(torch.cat(parts, dim=1), whole, 1e-10)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    other = TEXTS.masked_fill(mask == 0, 2)
    masked = model(encoder_outputs=heard, decoder_input_ids=other, decoder_attention_mask=mask).logits
    assert_close(masked[mask == 1], whole[mask == 1], 1e-10)


@torch.no_grad()
@pytest.mark.parametrize("cross", BRIDGES)
def test_no_token_reads_text_ahead(cross: str) -> None:
    """Exactly: logits before a changed token are the same bits; those from it on differ."""
    model = samba_model(cross)
    before = decoder_logits(model)
    for place in range(1, 5):
        changed = TEXTS.clone()
        changed[:, place] = (changed[:, place] + 1) % 11
        after = decoder_logits(model, changed)
        assert torch.equal(after[:, :place], before[:, :place])
        assert ((after[:, place:] - before[:, place:]).abs().amax(-1) > 1e-6).all()


@torch.no_grad()
@pytest.mark.parametrize("cross", BRIDGES)
def test_every_token_reads_the_last_frame_and_the_first(cross: str) -> None:
    model = samba_model(cross, normalise="none").double()
    before = decoder_logits(model)
    for first, last in ((0, 80), (-80, None)):
        changed = [clip.clone() for clip in CLIPS]
        for clip in changed:
            end = len(clip) // 80 * 80
            clip[:end][first:last] *= 3
        after = decoder_logits(model, **batch_of(changed))
        assert ((after - before).abs().amax(-1) > 1e-9).all(), (first, last)


@torch.no_grad()
def test_every_token_of_the_audio_is_read() -> None:
    """By both bridges, at the first token of the text already: gradients of the decoder alone."""
    for cross in BRIDGES:
        model = samba_model(cross).double()
        with torch.enable_grad():
            audio = torch.randn(2, 9, 16, dtype=torch.float64, requires_grad=True)
            y = model.decoder(TEXTS[:2], audio, torch.tensor([9, 5]))
            (gradient,) = torch.autograd.grad(y[:, 0].square().sum(), audio)
        read = gradient.abs().sum(-1) > 0
        assert read.tolist() == [[True] * 9, [True] * 5 + [False] * 4]


def state_bytes(model: Any, samples: int, tokens: int) -> int:
    cache, heard = MixerCache(), model.encoder(noise(samples)[None])
    for i in range(tokens):
        model(encoder_outputs=heard, decoder_input_ids=torch.tensor([[1 + i % 9]]), cache=cache)
    return cache.nbytes


@torch.no_grad()
def test_what_decoding_remembers() -> None:
    """With recurrences alone a constant; a cross-attention's keys and values grow with the audio, and not with text."""
    recurrent = {"decoder_mixers": {"m": MAMBA}, "decoder_pattern": "mm"}
    constant, attention = samba_model("mamba", **recurrent), samba_model("attention", **recurrent)
    sizes = {state_bytes(constant, samples, tokens) for samples in (RATE // 4, RATE) for tokens in (1, 9)}
    assert len(sizes) == 1
    found = {
        (samples, tokens): state_bytes(attention, samples, tokens) for samples in (1600, 3200) for tokens in (1, 9)
    }
    assert found[1600, 1] == found[1600, 9]
    a_token = 2 * (2 * 16 * 4 + 1)  # two layers; keys and values of 16 numbers in float32, and a flag
    assert found[3200, 9] - found[1600, 9] == 10 * a_token
    growing = samba_model("mamba")
    assert state_bytes(growing, 1600, 9) > state_bytes(growing, 1600, 1)  # as attention over text must


@torch.no_grad()
def test_rows_of_a_cache_are_taken_along() -> None:
    """Reordered in the middle of the text, with rows repeated and left out: as if read so from the start."""
    for cross in BRIDGES:
        model, order = samba_model(cross).double(), torch.tensor([2, 0, 0, 1])
        heard, cache = model.encoder(**batch_of(CLIPS)), MixerCache()
        model(encoder_outputs=heard, decoder_input_ids=TEXTS[:, :3], cache=cache)
        cache.reorder_cache(order)
        taken = type(heard)(heard.last_hidden_state[order], heard.lengths[order])
        found = model(encoder_outputs=taken, decoder_input_ids=TEXTS[order, 3:], cache=cache).logits
        assert_close(found, decoder_logits(model)[order, 3:], 1e-10)
