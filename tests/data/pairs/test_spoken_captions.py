"""Captions said by espeak-ng: the same samples kept or not, by one process or several at once."""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenmix.data.pairs import SpokenCaptions, load_pairs, spoken
from tokenmix.data.speech import espeak_voice

pytest.importorskip("espeakng_loader", reason="no espeak-ng: pip install 'tokenmix[synth]'")
TEXTS = ["digit one", "full stop", "latin small letter e with acute", "digit one"]


def said(captions: SpokenCaptions) -> list[Any]:
    return [captions[i] for i in range(len(captions))]


def same(first: list[Any], second: list[Any]) -> bool:
    return [audio.tobytes() for audio in first] == [audio.tobytes() for audio in second]  # so that -0.0 is not 0.0


def test_kept_or_not_the_samples_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = SpokenCaptions(TEXTS, folder=tmp_path)
    first = said(new)
    assert len(list(tmp_path.glob("*.flac"))) == len(list(tmp_path.iterdir())) == 3
    assert all(audio.dtype == np.float32 and audio.ndim == 1 for audio in first)
    assert all(0.3 < len(audio) / 16000 < 4 and 0.1 < np.abs(audio).max() <= 1 for audio in first)
    assert np.array_equal(first[0], first[3])
    monkeypatch.setattr(spoken, "cache_folders", lambda: [Path("/dev/null")])
    nowhere = SpokenCaptions(TEXTS)
    assert nowhere.folder is None
    assert same(first, said(nowhere))
    again = SpokenCaptions(TEXTS, folder=tmp_path)
    monkeypatch.setattr(espeak_voice, "speak", lambda *_: pytest.fail("it was kept"))
    assert same(first, said(again))


def test_samples_are_those_of_the_voice_resampled(tmp_path: Path) -> None:
    samples, rate = espeak_voice.speak("digit one", "en-us")
    plain = SpokenCaptions(TEXTS, rate=rate, folder=tmp_path)[0]
    assert plain is not None
    assert np.array_equal(plain, samples)
    half = SpokenCaptions(TEXTS, rate=rate // 2, folder=tmp_path)[0]
    assert half is not None
    assert len(half) == -(-len(samples) // 2)
    smooth = np.convolve(samples, np.hanning(7) / np.hanning(7).sum(), mode="same")[::2]
    assert np.corrcoef(half, smooth)[0, 1] > 0.9


def test_voices(tmp_path: Path) -> None:
    captions = [f"number {i}" for i in range(20)]
    voices = ["en-us+f2", "en-us+m3"]
    drawn = SpokenCaptions(captions, voices=voices, folder=tmp_path).voices
    assert set(drawn) == set(voices)
    assert SpokenCaptions(captions[::-1], voices=voices, folder=tmp_path).voices == drawn[::-1]  # by the caption alone
    own = SpokenCaptions(["Una caja.", "A box.", "Uma caixa."], ["es", "en", "pt_BR"], folder=tmp_path)
    assert own.voices == ["es", "en-us", "pt-br"]
    spanish, english = own[0], SpokenCaptions(["Una caja."], folder=tmp_path)[0]
    assert not np.array_equal(spanish, english)
    with pytest.raises(ValueError, match=r"voice: expected one that espeak-ng has, .*found 'nobody'"):
        SpokenCaptions(captions, voices=["nobody"], folder=tmp_path)
    for wrong in ("en-us", []):
        with pytest.raises(ValueError, match=r"voices: expected a list of some of espeak-ng's, found"):
            SpokenCaptions(captions, voices=wrong, folder=tmp_path)


def test_captions_for_which_nothing_is_said(tmp_path: Path) -> None:
    captions = SpokenCaptions(["...", "a"], folder=tmp_path)
    assert captions[0] is None
    assert captions[1] is not None
    assert captions[-1] is not None
    with pytest.raises(IndexError):
        captions[2]
    assert len(SpokenCaptions([], folder=tmp_path)) == 0


@pytest.mark.parametrize("damage", ["empty", "cut off", "text"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str) -> None:
    first = said(SpokenCaptions(TEXTS[:1], folder=tmp_path))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "cut off": whole[: len(whole) // 2], "text": b"no audio" * 50}[damage])
    assert same(first, said(SpokenCaptions(TEXTS[:1], folder=tmp_path)))
    assert path.read_bytes() == whole


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = SpokenCaptions(TEXTS, folder=tmp_path)

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        captions[0]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"folder: expected one for speech that can be written, found .*file"):
        SpokenCaptions(TEXTS, folder=tmp_path / "file")


FORKS = "fork" in multiprocessing.get_all_start_methods()


def fill(folder: Path, start: Any, digests: Any) -> None:
    """All captions at espeak-ng's own rate, so that nothing runs in the threads that a fork does not have."""
    captions = SpokenCaptions([f"number {i}" for i in range(40)], rate=22050, folder=folder)
    start.wait()
    digests.put(hashlib.sha1(b"".join(audio.tobytes() for audio in said(captions))).hexdigest())


@pytest.mark.skipif(not FORKS, reason="this system cannot fork, and processes of another kind take long to start")
def test_two_processes_fill_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, digests = context.Barrier(2, timeout=200), context.Queue()
    both = [context.Process(target=fill, args=(tmp_path, start, digests), daemon=True) for _ in range(2)]
    for process in both:
        process.start()
    found = [digests.get(timeout=250) for _ in both]
    for process in both:
        process.join(100)
    assert [process.exitcode for process in both] == [0, 0]
    assert [path.suffix for path in tmp_path.iterdir()] == [".flac"] * 40
    fill(tmp_path, context.Barrier(1), digests)  # reads what they wrote
    assert found == [digests.get(timeout=100)] * 2


def test_pairs_with_speech(tmp_path: Path) -> None:
    options: dict[str, Any] = {"font": "DejaVuSansDisplay.ttf", "sampling_rate": 8000, "cache": tmp_path}
    data = load_pairs("unicode_glyphs", speech="espeak", voices=["en-gb-scotland+f1"], **options)
    assert data.sampling_rate == 8000
    assert data.speech is not None
    assert len(data.speech) == len(data.captions)
    assert isinstance(data.speech, SpokenCaptions)
    assert set(data.speech.voices) == {"en-gb-scotland+f1"}
    assert list(tmp_path.iterdir()) == []  # nothing is said before it is asked for
    assert data.speech[3] is not None
    assert len(list(tmp_path.iterdir())) == 1


def test_without_espeak_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    espeak_voice._installed.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"espeak-ng: pip install 'tokenmix\[synth\]'"):
        load_pairs("unicode_glyphs", font="DejaVuSansDisplay.ttf", speech="espeak")
    espeak_voice._installed.cache_clear()
