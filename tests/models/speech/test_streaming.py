"""Streams: bit for bit the whole for every cut, in constant memory, and what is refused."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertTokenizer, Wav2Vec2CTCTokenizer

from tokenmix.data.speech import build_ctc_tokenizer
from tokenmix.models import MixerForCTC, SpeechConfig, SpeechModel
from tokenmix.models.speech.streaming import LogitStream, Transcriber

MIXERS: dict[str, tuple[dict[str, Any], str]] = {
    "mamba": ({"m": {"mixer": "mamba", "state_size": 4}}, "mm"),
    "mamba2": ({"m": {"mixer": "mamba2", "state_size": 8, "head_dim": 8}}, "mm"),
    "window": ({"w": {"mixer": "sliding_window", "window": 8, "heads": 2}}, "ww"),
    "hybrid": ({"m": {"mixer": "mamba"}, "a": {"mixer": "attention", "heads": 2}}, "mam"),
}


def build_tokenizer() -> Wav2Vec2CTCTokenizer:
    return build_ctc_tokenizer(["the quick brown fox jumps over a lazy dog's den"])


def build_model(name: str = "mamba", **options: Any) -> MixerForCTC:
    """A small causal model with random weights that writes varied text: many letters, blanks and spaces."""
    torch.manual_seed(0)
    mixers, pattern = MIXERS[name]
    options = {"hidden_size": 32, "causal": True, "mixers": mixers, "pattern": pattern, **options}
    model = MixerForCTC(SpeechConfig(vocab_size=len(build_tokenizer()), pad_token_id=0, **options)).eval()
    audio = build_audio(3)[None]
    model.encoder.fit_normaliser([{"input_values": audio}])
    with torch.no_grad():  # no symbol more likely than others
        mean, deviation = model(audio).logits[0].mean(0), model(audio).logits[0].std(0)
        model.ctc_head.weight.div_(deviation[:, None])
        model.ctc_head.bias.sub_(mean).div_(deviation)
        model.ctc_head.bias[[0, 4]] += 0.5  # the blank, and the space
    return model


def build_audio(seconds: float, seed: int = 0) -> Tensor:
    """Noise whose colour and loudness change, so that the text does."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(round(16000 * seconds), generator=generator)
    t = torch.arange(len(noise)) / 16000
    return 0.1 * noise * (3 * t).sin() + 0.3 * (2 * torch.pi * (200 + 150 * (2 * t).sin()) * t).sin()


def cut(audio: Tensor, seed: int) -> list[Tensor]:
    """Chunks of random sizes, empty ones and single samples among them."""
    sizes, chunks, start = random.Random(seed), [], 0
    while start < len(audio):
        size = sizes.choice([0, 1, 2, 159, 160, 161, 1000, 3199, 3200, 3201, 9000])
        chunks.append(audio[start : start + size])
        start += size
    return chunks


def stream_logits(stream: LogitStream, chunks: list[Tensor]) -> Tensor:
    return torch.cat([*(stream.read(chunk) for chunk in chunks), stream.finish()])


@pytest.mark.parametrize("normalise", ["global", "running"])
@pytest.mark.parametrize("name", MIXERS)
def test_a_stream_is_the_whole_bit_for_bit(name: str, normalise: str) -> None:
    model, audio = build_model(name, normalise=normalise), build_audio(3.217)
    whole = stream_logits(LogitStream(model), [audio])
    assert len(whole) == 161
    text = Transcriber(model, build_tokenizer()).transcribe(audio)
    assert len(set(text)) > 8
    assert " " in text
    for seed in range(4):
        chunks = cut(audio, seed)
        assert torch.equal(stream_logits(LogitStream(model), chunks), whole)
        transcriber = Transcriber(model, build_tokenizer())
        pieces = [transcriber.read(chunk) for chunk in chunks] + [transcriber.finish()]
        assert sum(piece != "" for piece in pieces) > 3
        assert "".join(pieces) == transcriber.text == text


@pytest.mark.parametrize("block", [1, 7, 50])
def test_single_samples_and_other_blocks(block: int) -> None:
    model, audio = build_model(), build_audio(0.3)
    whole = stream_logits(LogitStream(model, block), [audio])
    assert torch.equal(stream_logits(LogitStream(model, block), list(audio.split(1))), whole)
    assert whole.shape[0] == 15


def test_the_comparison_sees_one_sample() -> None:
    model, audio = build_model(), build_audio(1)
    whole = stream_logits(LogitStream(model), [audio])
    lost = stream_logits(LogitStream(model), [audio[:7777], audio[7778:]])
    assert not torch.equal(lost[: len(whole)], whole)


@pytest.mark.parametrize("name", MIXERS)
def test_a_stream_is_the_models_own_forward(name: str) -> None:
    model, audio, tokenizer = build_model(name, normalise="running"), build_audio(4), build_tokenizer()
    with torch.no_grad():
        logits = model(audio[None]).logits[0]
    torch.testing.assert_close(stream_logits(LogitStream(model), cut(audio, 1)), logits, rtol=1e-4, atol=1e-4)
    assert Transcriber(model, tokenizer).transcribe(audio) == tokenizer.decode(logits.argmax(-1))


@pytest.mark.parametrize("beams", [1, 4])
def test_memory_is_constant(beams: int) -> None:
    for name in ("mamba", "window"):
        transcriber, sizes, saved = Transcriber(build_model(name), build_tokenizer(), beams=beams), set(), set()
        for second in range(40):
            transcriber.read(build_audio(1, seed=second))
            if second >= 1:  # the window is full
                sizes.add(transcriber._stream.nbytes)
                file = io.BytesIO()
                torch.save(transcriber._stream._state, file)  # with the whole storage of each tensor
                saved.add(len(file.getvalue()) // 4096)
                assert transcriber.nbytes - transcriber._stream.nbytes < 2048  # scores, symbols that may change
        assert len(sizes) == 1
        assert max(saved) - min(saved) <= 1
        assert len(transcriber.text) > 200


def test_beams_of_a_stream_are_those_of_the_whole() -> None:
    model, audio, tokenizer = build_model(), build_audio(3), build_tokenizer()
    text = Transcriber(model, tokenizer, beams=3).transcribe(audio)
    assert len(text) > 20
    for seed in range(3):
        transcriber = Transcriber(model, tokenizer, beams=3)
        pieces = [transcriber.read(chunk) for chunk in cut(audio, seed)]
        assert sum(piece != "" for piece in pieces) > 1  # certain before the end
        assert "".join([*pieces, transcriber.finish()]) == text


def test_an_utterance_after_another() -> None:
    model, tokenizer = build_model(), build_tokenizer()
    first, second = build_audio(1), build_audio(1.3, seed=1)
    transcriber = Transcriber(model, tokenizer)
    texts = [transcriber.transcribe(audio) for audio in (first, second, first)]
    assert texts == [Transcriber(model, tokenizer).transcribe(audio) for audio in (first, second, first)]
    assert texts[0] != texts[1]
    assert transcriber.text == texts[2]
    transcriber.read(first)
    with pytest.raises(ValueError, match="transcribe: expected a stream that was finished"):
        transcriber.transcribe(second)


@pytest.mark.parametrize("samples", [0, 1, 159])
def test_less_than_a_frame_is_no_text(samples: int) -> None:
    transcriber = Transcriber(build_model(), build_tokenizer())
    assert transcriber.transcribe(torch.zeros(samples)) == ""
    assert transcriber.finish() == ""


def test_arrays_of_any_float_type() -> None:
    model, audio = build_model(), build_audio(1)
    whole, array = stream_logits(LogitStream(model), [audio]), audio.numpy()
    array.flags.writeable = False
    for samples in (array, array.astype(np.float64), array.astype(">f4"), audio.double().requires_grad_()):
        stream = LogitStream(model)
        assert torch.equal(torch.cat([stream.read(samples), stream.finish()]), whole)


def test_bad_samples_leave_the_stream_as_it_was() -> None:
    model, audio = build_model(), build_audio(1)
    whole, stream = stream_logits(LogitStream(model), [audio]), LogitStream(model)
    parts = [stream.read(audio[:5000])]
    for samples, kind, message in (
        (torch.tensor([0.0] * 4000 + [float("nan")]), ValueError, "found nan at place 4000"),
        (torch.tensor([float("inf")]), ValueError, "samples: expected finite numbers, found inf"),
        (torch.zeros(1, 4000), ValueError, r"samples: expected shape \(n,\), one channel, found \(1, 4000\)"),
        (torch.zeros(4000, dtype=torch.int16), TypeError, "samples: expected a floating point .* found torch.int16"),
        (np.zeros(4000, np.int16), TypeError, "samples: expected a floating point tensor .* found int16"),
        ([0.0], TypeError, "samples: expected a floating point tensor .* found list"),
    ):
        with pytest.raises(kind, match=message):
            stream.read(samples)  # type: ignore[arg-type]
    assert torch.equal(torch.cat([*parts, stream.read(audio[5000:]), stream.finish()]), whole)


def test_a_model_that_cannot_be_streamed_is_refused() -> None:
    tokenizer = build_tokenizer()
    both_ways = {"b": {"mixer": "bidirectional", "inner": {"mixer": "mamba"}}}
    config = SpeechConfig(vocab_size=len(tokenizer), hidden_size=32, mixers=both_ways, pattern="b")
    with pytest.raises(ValueError, match="reads the future; train one with causal mixers, causal=True, and normalise"):
        Transcriber(MixerForCTC(config).eval(), tokenizer)
    with pytest.raises(ValueError, match=r"model: expected one in eval\(\)"):
        Transcriber(build_model().train(), tokenizer)
    with pytest.raises(TypeError, match="model: expected a MixerForCTC, found SpeechModel"):
        Transcriber(SpeechModel(config).eval(), tokenizer)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused(tmp_path: Any) -> None:
    model = build_model()
    with pytest.raises(ValueError, match=r"tokenizer: expected the model's vocab_size=\d+, found 7"):
        Transcriber(model, build_ctc_tokenizer(["ab"]))
    other = MixerForCTC(SpeechConfig(**{**model.config.to_diff_dict(), "pad_token_id": 1})).eval()
    with pytest.raises(ValueError, match="tokenizer: expected the model's pad_token_id=1, found 0"):
        Transcriber(other, build_tokenizer())
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    with pytest.raises(TypeError, match="tokenizer: expected a Wav2Vec2CTCTokenizer, found BertTokenizer"):
        Transcriber(model, BertTokenizer(str(tmp_path / "vocab.txt")))
    for name, wrong in (("block", 0), ("beams", 0), ("beams", 1.5)):
        with pytest.raises((ValueError, TypeError), match=f"{name}: expected a positive integer"):
            Transcriber(model, build_tokenizer(), **{name: wrong})
