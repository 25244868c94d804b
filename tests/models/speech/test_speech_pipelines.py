"""transformers' speech pipeline on saved models: answers equal direct computation, in batches, chunks, with times."""

import math
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from speech_cases import BRIDGES, RATE, ctc_model, noise, samba_model, speech_config
from speech_tones import tone_batch, utterance
from torch import Tensor
from transformers import AutoProcessor, PreTrainedTokenizerBase, pipeline

from tokenmix.data.speech import build_ctc_tokenizer
from tokenmix.models.speech import MixerForCTC, SambaASRConfig, build_processor

TASK = "automatic-speech-recognition"
CLIPS = [noise(2000, 1), noise(9001, 2), noise(1210, 3)]


def tokenizer() -> PreTrainedTokenizerBase:
    """<pad>, <s>, </s>, <unk>, |, a to f: eleven, as the models' vocabulary."""
    made: PreTrainedTokenizerBase = build_ctc_tokenizer(["fade cab"])
    return made


def saved(model: Any, folder: Path) -> Any:
    """A listener made of a folder, as anybody would publish it."""
    model.save_pretrained(folder)
    build_processor(model.config, tokenizer()).save_pretrained(folder)
    return pipeline(TASK, model=str(folder), device="cpu")


def spelled(model: Any, clip: Tensor) -> str:
    """Greedy CTC by hand; pipelines keep the unknown token and others as they are."""
    names = {number: token for token, number in tokenizer().get_vocab().items()}
    with torch.no_grad():
        best = model(clip[None]).logits[0].argmax(-1).tolist()
    letters = [names[symbol] for symbol, _ in groupby(best) if symbol]
    return "".join(letters).replace("|", " ").strip()


def test_ctc_one_by_one_and_in_batches(tmp_path: Path) -> None:
    model = ctc_model("mamba2")
    listen = saved(model, tmp_path)
    expected = [spelled(model, clip) for clip in CLIPS]
    assert min(map(len, expected)) > 1
    assert [listen(clip.numpy())["text"] for clip in CLIPS] == expected
    for size in (2, 3):
        assert [found["text"] for found in listen([clip.numpy() for clip in CLIPS], batch_size=size)] == expected


def trained_on_tones() -> MixerForCTC:
    """A model that hears seven tones, 4 to 10, in any order: a hundred steps on texts that are new in each."""
    torch.manual_seed(0)
    mixers = {"x": {"mixer": "sliding_window", "heads": 2, "window": 3, "rope": True, "causal": False}}
    sizes = {"num_mel_bins": 20, "hidden_size": 32, "conv_size": 32, "intermediate_size": 64}
    model = MixerForCTC(speech_config(mixers=mixers, pattern="x", **sizes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=100)
    batches = [tone_batch(torch.randint(4, 11, (6, 4)).tolist()) for _ in range(100)]
    model.encoder.fit_normaliser(batches[:3])
    for batch in batches:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return saved(trained_on_tones(), tmp_path_factory.mktemp("tones"))


def test_chunks_of_long_audio(listener: Any) -> None:
    """Tones that no chunk holds whole are heard as in the whole; a batch of chunks too."""
    text = [5, 6, 7, 4, 8, 9, 10, 5, 4, 9, 6, 8, 4, 7, 10]
    clip = utterance(text, 77).numpy()
    assert len(clip) > 1.5 * RATE
    whole = listener(clip)["text"]
    assert whole == "".join(" abcdef"[symbol - 4] for symbol in text)
    for seconds, stride, size in ((0.6, 0.1, 1), (0.6, 0.1, 3), (0.5, (0.2, 0.1), 2)):
        found = listener(clip, chunk_length_s=seconds, stride_length_s=stride, batch_size=size)["text"]
        assert found == whole


def test_times_are_where_the_tones_are(listener: Any) -> None:
    """Each symbol's time lies in its tone, up to two tokens of 20 ms; words end where spaces begin."""
    text = [5, 6, 4, 8, 9, 10]
    clip = utterance(text, 78)
    loud = (clip.abs() > 0.1).float()
    smooth = torch.nn.functional.max_pool1d(loud[None], 101, 1, 50)[0]
    edges = smooth.diff().nonzero()[:, 0].tolist()
    starts = [0.0, *[edge / RATE for edge in edges[1::2]]][: len(text)]
    ends = [edge / RATE for edge in edges[0::2]][: len(text)]
    found = listener(clip.numpy(), return_timestamps="char")
    assert [chunk["text"] for chunk in found["chunks"]] == list("ab def")
    for chunk, start, end in zip(found["chunks"], starts, ends, strict=True):
        assert start - 0.041 <= chunk["timestamp"][0] <= chunk["timestamp"][1] <= end + 0.061
    words = listener(clip.numpy(), return_timestamps="word")["chunks"]
    assert [word["text"] for word in words] == ["ab", "def"]
    assert words[0]["timestamp"][0] == found["chunks"][0]["timestamp"][0]
    assert words[1]["timestamp"][1] == found["chunks"][-1]["timestamp"][1]


def test_other_rates_are_resampled(listener: Any) -> None:
    """Audio said to be of 16 kHz is brought to 8 kHz; said to be of 8 kHz it would be slow and low."""
    text = [5, 8, 4, 7]
    clip = utterance(text, 79)
    size = 2 * len(clip)
    spectrum = torch.zeros(size // 2 + 1, dtype=torch.complex64)
    spectrum[: len(clip) // 2 + 1] = 2 * torch.fft.rfft(clip)
    twice = torch.fft.irfft(spectrum, n=size).numpy()
    whole = listener(clip.numpy())["text"]
    assert whole == "ad c"
    assert listener({"raw": twice, "sampling_rate": 2 * RATE})["text"] == whole
    assert listener({"raw": twice, "sampling_rate": RATE})["text"] != whole
    with pytest.raises(ValueError, match="sampling rate"):
        AutoProcessor.from_pretrained(listener.model.config._name_or_path)(twice, sampling_rate=2 * RATE)


def test_a_wav_file(listener: Any, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    clip = utterance([5, 6, 6, 9], 80)
    soundfile.write(tmp_path / "clip.wav", clip.numpy(), RATE)
    samples, rate = soundfile.read(tmp_path / "clip.wav", dtype="float32")
    assert listener({"raw": samples, "sampling_rate": rate})["text"] == listener(clip.numpy())["text"] == "abbe"


@pytest.mark.parametrize("cross", BRIDGES)
def test_decoder(cross: str, tmp_path: Path) -> None:
    """What `generate` writes, in batches and alone, with beams and without."""
    model = samba_model(cross)
    listen = saved(model, tmp_path)
    words = build_processor(model.config, tokenizer()).tokenizer
    for beams in (1, 3):
        options = {"max_new_tokens": 6, "num_beams": beams}
        expected = [words.decode(model.generate(clip[None], **options)[0], skip_special_tokens=True) for clip in CLIPS]
        assert [listen(clip.numpy(), generate_kwargs=options)["text"] for clip in CLIPS] == expected
        found = listen([clip.numpy() for clip in CLIPS], batch_size=3, generate_kwargs=options)
        assert [answer["text"] for answer in found] == expected
    assert any(expected)


def test_a_decoder_keeps_double_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CTC's tokenizer would write "fad cab" for what a decoder spelled "faad  cabb"."""
    model = samba_model()
    listen = saved(model, tmp_path)
    ids = tokenizer()("faad cabb").input_ids
    assert tokenizer().decode(ids) == "fad cab"
    written = torch.tensor([[1, *ids, 2, 0, 0]])
    monkeypatch.setattr(listen.model, "generate", lambda *args, **kwargs: written)
    assert listen(CLIPS[0].numpy())["text"] == "faad cabb"
    again = AutoProcessor.from_pretrained(tmp_path).tokenizer
    assert again("faad cabb").input_ids == ids
    assert again("fxz").input_ids == tokenizer()("fxz").input_ids
    assert again.get_vocab() == tokenizer().get_vocab()


def test_what_does_not_fit_is_refused() -> None:
    words = tokenizer()
    with pytest.raises(ValueError, match="tokenizer: expected the config's vocab_size=12, found 11"):
        build_processor(speech_config(vocab_size=12), words)
    with pytest.raises(ValueError, match="tokenizer: expected the config's pad_token_id=3, found 0"):
        build_processor(speech_config(pad_token_id=3), words)
    words.add_tokens(["ch"])
    with pytest.raises(ValueError, match=r"tokenizer: expected one of characters for a decoder, found \['ch'\]"):
        build_processor(SambaASRConfig(vocab_size=12), words)


def test_a_processor_gives_batches_that_models_read() -> None:
    model = ctc_model("mamba2")
    processor = build_processor(model.config, tokenizer())
    batch = processor([clip.numpy() for clip in CLIPS], sampling_rate=RATE, padding=True, return_tensors="pt")
    assert batch["attention_mask"].sum(1).tolist() == [len(clip) for clip in CLIPS]
    found = processor.batch_decode(model(**batch).logits.argmax(-1))
    for text, clip in zip(found, CLIPS, strict=True):
        assert text == spelled(model, clip)
    assert batch["input_values"].dtype == torch.float32
    assert np.allclose(batch["input_values"][0, :2000], CLIPS[0])  # as it was: not scaled to unit variance
    assert math.isclose(float(batch["input_values"][0, 2000:].abs().sum()), 0)
