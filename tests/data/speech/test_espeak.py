"""Synthetic speech: voices that exist and differ, the same samples each time and everywhere, splits that are apart."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from fork_server import ForkServer
from tokenmix.data.speech import ClipDataset, build_ctc_tokenizer, collate, load_speech
from tokenmix.data.speech import espeak_voice as voices
from tokenmix.data.speech.audio import Samples
from tokenmix.data.speech.espeak import ACCENTS, VARIANTS
from tokenmix.data.speech.espeak_texts import docstring_sentences, number_texts, word_texts
from tokenmix.data.speech.splits import Splits, split_of

pytest.importorskip("espeakng_loader", reason="no espeak-ng: pip install 'tokenmix[synth]'")
ALL = "abcdefghijklmnopqrstuvwxyz'"


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_speech("espeak", hours=0.5, test_clips=60)


def digest(texts: Splits) -> str:
    """Of the listing and of some samples."""
    lines = [f"{split} {clip.name} {clip.seconds}" for split, clips in texts.items() for clip in clips]
    samples = b"".join(clips[0].read(8000).tobytes() + clips[-1].read(16000).tobytes() for clips in texts.values())
    return hashlib.sha1("\n".join(lines).encode() + samples).hexdigest()


def test_every_voice_speaks_and_no_two_sound_the_same() -> None:
    found = {f"{a}+{v}": voices.speak("hello there", f"{a}+{v}") for a, v in product(ACCENTS, (*VARIANTS, "f5"))}
    lengths = [len(samples) / rate for samples, rate in found.values()]
    assert 0.4 < min(lengths) <= max(lengths) < 2
    assert len({samples.tobytes() for samples, _ in found.values()}) == len(found) == 7 * 13
    assert all(0.05 < np.abs(samples).max() <= 1 for samples, _ in found.values())


@pytest.mark.parametrize("voice", ["en-us+f99", "en-zz+f2", "nobody"])
def test_an_unknown_voice_is_refused(voice: str) -> None:
    with pytest.raises(ValueError, match=rf"voice: expected .*, found '{re.escape(voice)}'"):
        voices.speak("hello", voice)
    samples, _ = voices.speak("hello", "en-us+f2")  # and the next one speaks
    assert len(samples) > 1000


def fundamental(samples: Samples, rate: int) -> float:
    """Median over loud windows of the hertz at the autocorrelation's maximum between 60 and 400 Hz."""
    found = []
    for window in (samples[start : start + 2048] for start in range(0, len(samples) - 2048, 1024)):
        if np.square(window).mean() > 1e-3:
            likeness = np.fft.irfft(np.square(np.abs(np.fft.rfft(window * np.hanning(2048), 4096))))
            found.append(rate / (rate // 400 + likeness[rate // 400 : rate // 60].argmax()))
    return float(np.median(found))


def test_speed_and_pitch_do_what_they_say() -> None:
    slow, fast = (len(voices.speak("one two three four five", "en-us+m1", speed)[0]) for speed in (130, 200))
    assert slow > 1.3 * fast
    said = "we were away a year ago"
    pitches = [fundamental(*voices.speak(said, "en-us+m3", pitch=pitch)) for pitch in (20, 50, 80)]
    assert pitches[0] * 1.15 < pitches[1] < pitches[2] / 1.15
    for options in ({"speed": 20}, {"pitch": 101}):
        with pytest.raises(ValueError, match="speed, pitch: expected 80 to 450 and 0 to 100"):
            voices.speak("hello", "en", **options)


def test_what_was_said_before_does_not_matter() -> None:
    first = voices.speak("a certain sentence", "en-gb-x-rp+f3", 150, 60)[0]
    for text in ("something else", "a", "much longer than the others were"):
        voices.speak(text, "en-029+m7", 190, 35)
        assert np.array_equal(voices.speak("a certain sentence", "en-gb-x-rp+f3", 150, 60)[0], first)


def test_texts_are_in_one_split_and_the_test_voice_in_one(splits: Splits) -> None:
    texts = {split: {clip.text for clip in clips} for split, clips in splits.items()}
    assert texts["test"] == texts["test_voice"]
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not texts[one] & texts[other]
    for split in ("train", "valid", "test"):
        assert all(split_of(text) == split for text in texts[split])
        assert all(not clip.speaker.endswith("+f5") for clip in splits[split])
    assert all(clip.speaker.endswith("+f5") for clip in splits["test_voice"])
    assert len(splits["test"]) == len(splits["valid"]) == len(splits["test_voice"]) == 60
    assert len({clip.speaker for clip in splits["train"]}) > 60
    assert set("".join(text for split in texts.values() for text in split)) <= set(ALL + " ")


def test_more_hours_go_on_where_fewer_end(splits: Splits) -> None:
    less = load_speech("espeak", hours=0.1, test_clips=20)
    assert [clip.name for clip in less["train"]] == [clip.name for clip in splits["train"][: len(less["train"])]]
    assert [clip.name for clip in less["test"]] == [clip.name for clip in splits["test"][:20]]


def test_texts_are_said_again_by_others_when_they_run_out() -> None:
    clips = load_speech("espeak", hours=1.5, texts="numbers", test_clips=1)["train"]
    texts = [clip.text for clip in clips]
    assert len(set(texts)) < len(texts)
    again = [clip for clip in clips if clip.text == texts[0]]
    assert len({clip.name for clip in again}) == len(again) > 1


@pytest.mark.parametrize("texts", ["sentences", "words", "numbers", "both"])
def test_hours_are_about_right(texts: str) -> None:
    clips = load_speech("espeak", hours=0.03, texts=texts, test_clips=1, seed=11)["train"]
    measured = sum(len(clip.read(8000)) / 8000 for clip in clips) / 3600
    assert measured == pytest.approx(0.03, rel=0.15)
    assert sum(clip.seconds for clip in clips) / 3600 == pytest.approx(0.03, rel=0.05)


def test_no_clip_is_much_longer_than_allowed() -> None:
    clips = load_speech("espeak", hours=0.1, max_seconds=3.0, test_clips=30)
    assert max(clip.seconds for found in clips.values() for clip in found) <= 3.0
    assert max(len(clip.read(8000)) / 8000 for clip in clips["test"]) < 3.6
    with pytest.raises(ValueError, match="max_seconds: expected enough for texts in every split"):
        load_speech("espeak", hours=0.1, max_seconds=0.2)


def test_a_listing_is_the_same_in_another_process_and_differs_by_seed(processes: ForkServer) -> None:
    options = {"hours": 0.02, "test_clips": 3}
    mine = digest(load_speech("espeak", **options))
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parents[i]) for i in (0, 2)]}\n"
        f"from test_espeak import digest, load_speech\nprint(digest(load_speech('espeak', **{options})))"
    )
    theirs = processes.run(["-c", code])
    assert theirs.stdout.strip() == mine, theirs.stderr
    assert digest(load_speech("espeak", seed=1, **options)) != mine


def test_kept_files_give_the_same_samples_bit_for_bit(tmp_path: Path) -> None:
    options = {"hours": 0.01, "texts": "numbers", "test_clips": 3}
    spoken, kept = load_speech("espeak", **options), load_speech("espeak", tmp_path, **options)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == len({clip.name for clips in kept.values() for clip in clips})
    again = load_speech("espeak", tmp_path, **options)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files  # nothing was made anew
    for split in spoken:
        for one, two, three in zip(spoken[split], kept[split], again[split], strict=True):
            assert one.text == two.text == three.text
            for rate in (8000, 16000):
                assert np.array_equal(one.read(rate), two.read(rate))
                assert np.array_equal(two.read(rate), three.read(rate))


def test_workers_speak_as_the_main_process_does(splits: Splits) -> None:
    dataset = ClipDataset(splits["test"][:8], build_ctc_tokenizer([ALL]), rate=8000)
    plain, shared = (list(DataLoader(dataset, 2, num_workers=n, collate_fn=collate)) for n in (0, 2))
    for one, other in zip(plain, shared, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture
def without_the_wheel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    voices._installed.cache_clear()
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    yield
    voices._installed.cache_clear()


@pytest.mark.usefixtures("without_the_wheel")
def test_without_the_wheel_it_says_what_to_install() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tokenmix\[synth\]'"):
        load_speech("espeak", hours=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": "poems"}, "texts: expected 'sentences', .*found 'poems'"),
        ({"hours": 0}, "hours: expected a positive number, found 0"),
        ({"max_words": 1}, "max_words: expected at least 2, found 1"),
        ({"variants": ["f4", "f5"]}, "variants: expected some, .*not 'f5'"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_speech("espeak", **{"hours": 0.01, **options})


def test_texts_are_prose_and_come_once() -> None:
    sentences = docstring_sentences()
    assert sentences == sorted(set(sentences))
    assert all(2 <= len(text.split()) <= 12 and set(text) <= set(ALL + " ") for text in sentences)
    assert {len(text.split()) for text in docstring_sentences(4)} == {2, 3, 4}
    for texts in (number_texts(300, 1), word_texts(300, 1)):
        assert len(texts) == len(set(texts)) == 300
    assert number_texts(50, 1) != number_texts(50, 2)
    words = {word for text in number_texts(2000) for word in text.split()}
    assert {"zero", "nine", "eleven", "twenty", "hundred", "thousand"} <= words
