"""Audio that cannot be used is refused with a message that names the file and what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from clip_cases import BY_DECODING, BY_HEADER, bad_clips, tone, write

from tokenmix.data.speech import AudioError, audio_seconds, file_clip, read_audio

SAID = {
    "empty_wav": "expected audio, found an empty file",
    "text_wav": "expected audio that soundfile reads, found",
    "half_a_header_wav": "expected audio that soundfile reads, found",
    "half_wav": r"found 7,\d{3} of 16,000 bytes of samples: the file is cut off",
    "half_flac": "expected audio that soundfile reads, found|cut off",
    "no_samples_wav": "expected samples, found none",
    "nan_wav": "expected numbers, found NaN or infinity at sample 4,321",
    "infinity_wav": "expected numbers, found NaN or infinity at sample 4,321",
    "integers_wav": r"expected samples between -1 and 1, found 1\.64e\+04",
    "folder_wav": "expected a file, found a folder there",
    "missing_wav": "expected a file, found nothing there",
}


def test_the_cases_are_all() -> None:
    assert set(SAID) == BY_HEADER | BY_DECODING


@pytest.mark.parametrize("kind", SAID)
def test_a_bad_file_is_named_and_its_fault_too(kind: str, tmp_path: Path) -> None:
    clip = bad_clips(tmp_path)[kind]
    for rate in (8000, 16000):
        with pytest.raises(AudioError, match=SAID[kind]) as error:
            clip.read(rate)
        assert str(error.value).startswith(f"{clip.name}: expected ")
        assert isinstance(error.value, ValueError)
    assert (clip.seconds == 0) == (kind in BY_HEADER)


@pytest.mark.parametrize("kind", sorted(BY_HEADER))
def test_headers_alone_tell_some(kind: str, tmp_path: Path) -> None:
    clip = bad_clips(tmp_path)[kind]
    with pytest.raises(AudioError, match=SAID[kind]) as error:
        audio_seconds(clip.name)
    assert str(error.value).startswith(clip.name)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
@pytest.mark.parametrize("share", [0.001, 0.03, 0.4, 0.8, 0.97])
def test_a_file_that_ends_early_is_never_read_as_a_shorter_one(name: str, share: float, tmp_path: Path) -> None:
    if "MP3" not in soundfile.available_formats() and name.endswith("mp3"):
        pytest.skip("this libsndfile writes no MP3")
    noise = 0.1 * np.random.default_rng(0).standard_normal(24000)
    path = write(tmp_path / name, noise, 16000)
    content = path.read_bytes()
    assert len(read_audio(path, 16000)) == 24000
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(AudioError) as error:
        read_audio(path, 16000)
    assert str(error.value).startswith(f"{path}: expected ")
    assert "not exist" not in str(error.value)  # it does


def test_every_byte_that_a_wav_may_end_at(tmp_path: Path) -> None:
    content = write(tmp_path / "short.wav", tone(8000, 0.01)).read_bytes()
    for end in range(len(content)):
        (tmp_path / "short.wav").write_bytes(content[:end])
        with pytest.raises(AudioError, match=r"short\.wav: expected "):
            read_audio(tmp_path / "short.wav", 8000)
        with pytest.raises(AudioError, match="the bytes: expected "):
            read_audio(content[:end], 8000, "the bytes")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_damage_in_the_middle_never_crashes(name: str, tmp_path: Path) -> None:
    content = write(tmp_path / name, 0.1 * np.random.default_rng(1).standard_normal(8000)).read_bytes()
    draw = np.random.default_rng(2)
    for _ in range(40):
        damaged = bytearray(content)
        place = int(draw.integers(len(content) - 16))
        damaged[place : place + 16] = draw.bytes(16)
        try:
            found = read_audio(bytes(damaged), 8000, "damaged")
        except AudioError as error:
            assert str(error).startswith("damaged: expected ")  # noqa: PT017  # most damage to samples cannot be seen
        else:
            assert np.isfinite(found).all()
            assert np.abs(found).max() <= 1


def test_messages_name_bytes_as_they_are_told_to() -> None:
    with pytest.raises(AudioError, match=r"^clean train row 7: expected audio, found an empty file"):
        read_audio(b"", 8000, "clean train row 7")
    with pytest.raises(AudioError, match=r"^bytes: expected"):
        audio_seconds(b"nothing")


def test_a_file_with_no_rights_or_a_strange_name(tmp_path: Path) -> None:
    path = write(tmp_path / "größe 100% {x}.wav")
    assert file_clip(path, "one", "ann", "en").read(8000).shape == (8000,)
    path.write_bytes(b"no audio")
    with pytest.raises(AudioError) as error:
        read_audio(path, 8000)
    assert str(error.value).startswith(str(path))
