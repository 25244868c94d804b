"""Audio of every width, rate, container and number of channels comes out the same: measured, not only read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from clip_cases import LEVEL, PITCH, heard, tone, write
from numpy.typing import NDArray

from tokenmix.data.speech import audio_seconds, read_audio, resample

RATES = (8000, 11025, 16000, 44100, 48000)
# file, subtype, and the largest error of a sample that its quantisation or compression may leave
FORMATS = {
    "8_bit": ("a.wav", "PCM_U8", 1 / 128),
    "16_bit": ("a.wav", "PCM_16", 1 / 32768),
    "24_bit": ("a.wav", "PCM_24", 1e-6),
    "32_bit": ("a.wav", "PCM_32", 1e-7),
    "float": ("a.wav", "FLOAT", 1e-7),
    "double": ("a.wav", "DOUBLE", 1e-7),
    "a_law": ("a.wav", "ALAW", 0.02),
    "flac_8": ("a.flac", "PCM_S8", 1 / 128),
    "flac_16": ("a.flac", "PCM_16", 1 / 32768),
    "flac_24": ("a.flac", "PCM_24", 1e-6),
    "aiff": ("a.aiff", "PCM_16", 1 / 32768),
    "vorbis": ("a.ogg", "VORBIS", 0.06),
    "mp3": ("a.mp3", "MPEG_LAYER_III", 0.06),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_gives_the_samples_that_were_written(kind: str, tmp_path: Path) -> None:
    name, subtype, tolerance = FORMATS[kind]
    suffix = Path(name).suffix[1:].upper()
    if subtype not in soundfile.available_subtypes(suffix):
        pytest.skip(f"this libsndfile ({soundfile.__libsndfile_version__}) writes no {subtype} in {suffix}")
    path = write(tmp_path / name, tone(16000), 16000, subtype=subtype)
    found = read_audio(path, 16000)
    assert found.dtype == np.float32
    assert found.ndim == 1
    assert audio_seconds(path) == 1.0
    assert len(found) == 16000
    inner = slice(1600, -1600)  # lossy formats ring at the edges of a tone that starts at once
    np.testing.assert_allclose(found[inner], tone(16000)[inner], atol=tolerance, rtol=0)
    assert np.array_equal(found, read_audio(path.read_bytes(), 16000))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("wanted", [8000, 16000])
def test_a_tone_keeps_its_pitch_and_level_at_other_rates(rate: int, wanted: int, tmp_path: Path) -> None:
    path = write(tmp_path / "tone.wav", tone(rate), rate, subtype="FLOAT")
    found = read_audio(path, wanted)
    assert len(found) == wanted
    pitch, level = heard(found, wanted)
    assert pitch == pytest.approx(PITCH, abs=0.05)
    assert level == pytest.approx(LEVEL, rel=0.005)
    reference = tone(wanted)
    edge = wanted // 20
    np.testing.assert_allclose(found[edge:-edge], reference[edge:-edge], atol=0.005)  # in phase: nothing was moved


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_what_a_lower_rate_cannot_hold_is_not_folded_back(rate: int, tmp_path: Path) -> None:
    path = write(tmp_path / "high.wav", tone(rate, pitch=5500.0) + tone(rate, level=0.1), rate, subtype="FLOAT")
    pitch, level = heard(read_audio(path, 8000), 8000)  # folded, it would be a loud tone of 2,500 Hz
    assert pitch == pytest.approx(PITCH, abs=0.05)
    assert level == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_channels_are_averaged(channels: int, name: str, tmp_path: Path) -> None:
    each = np.stack([tone(8000, pitch=300.0 * (i + 1), level=0.6) for i in range(channels)], axis=1)
    path = write(tmp_path / name, each, 8000)
    tolerance = 0.05 if name.endswith(".ogg") else 1e-4
    np.testing.assert_allclose(read_audio(path, 8000)[400:-400], each.mean(1)[400:-400], atol=tolerance)
    assert audio_seconds(path) == 1.0


def test_opposite_channels_cancel(tmp_path: Path) -> None:
    path = write(tmp_path / "opposite.wav", np.stack([tone(8000), -tone(8000)], axis=1), 8000, subtype="PCM_24")
    assert np.abs(read_audio(path, 16000)).max() < 1e-6


@pytest.mark.parametrize("name", ["silence.wav", "silence.flac", "silence.ogg"])
def test_silence_is_valid(name: str, tmp_path: Path) -> None:
    found = read_audio(write(tmp_path / name, np.zeros(4000)), 16000)
    assert len(found) == 8000
    assert np.abs(found).max() < 1e-4


def test_one_sample_is_enough(tmp_path: Path) -> None:
    found = read_audio(write(tmp_path / "one.wav", np.full(1, 0.25)), 8000)
    np.testing.assert_allclose(found, [0.25], atol=1e-4)
    assert len(read_audio(tmp_path / "one.wav", 16000)) == 2


def test_what_is_just_beyond_one_is_clipped(tmp_path: Path) -> None:
    path = write(tmp_path / "loud.wav", tone(8000, level=1.5), subtype="FLOAT")
    found = read_audio(path, 8000)
    assert np.abs(found).max() == 1.0
    np.testing.assert_allclose(found, np.clip(tone(8000, level=1.5), -1, 1), atol=1e-6)
    square = np.sign(tone(16000) + 1e-9)  # full scale: resampling overshoots beyond 1
    assert np.abs(resample(square.astype(np.float32), 16000, 8000)).max() > 1.0
    assert np.abs(read_audio(write(tmp_path / "square.wav", square, 16000), 8000)).max() == 1.0


def sinc(samples: NDArray[np.float32], found: int, rate: int) -> NDArray[np.float64]:
    """Every output as the sum of all inputs under sin(pi t) / (pi t) cos^2(pi t / 12), |t| < 6, in float64.

    t counts periods of 0.99 times the lower of the two rates: torchaudio's defaults.
    """
    base = 0.99 * min(found, rate)
    outputs = np.arange(-(-len(samples) * rate // found)) / rate
    t = (outputs[:, None] - np.arange(len(samples)) / found) * base
    kernel = np.where(np.abs(t) < 6, np.sinc(t) * np.cos(np.pi * t / 12) ** 2, 0) * base / found
    result: NDArray[np.float64] = kernel @ samples.astype(np.float64)
    return result


@pytest.mark.parametrize(("found", "rate"), [(8000, 16000), (44100, 8000), (16000, 11025), (9, 10)])
def test_resampling_equals_the_sum_it_is(found: int, rate: int) -> None:
    samples = np.random.default_rng(0).standard_normal(1001).astype(np.float32)
    np.testing.assert_allclose(resample(samples, found, rate), sinc(samples, found, rate), atol=1e-4)
    assert resample(samples, rate, rate) is samples


@pytest.mark.parametrize(("found", "rate"), [(0, 8000), (8000, 0), (-1, 8000)])
def test_a_rate_that_is_none_is_refused(found: int, rate: int) -> None:
    with pytest.raises(ValueError, match=r"rate: expected samples a second.*found (0|-1)"):
        resample(np.zeros(10, dtype=np.float32), found, rate)


def test_a_wav_that_was_written_to_a_pipe_is_whole(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path / "pipe.wav").read_bytes())
    place = content.index(b"data") + 4
    for unknown in (b"\xff\xff\xff\xff", (0x7FFFF024).to_bytes(4, "little")):  # what ffmpeg and sox write there
        content[place : place + 4] = unknown
        (tmp_path / "pipe.wav").write_bytes(content)
        assert len(read_audio(tmp_path / "pipe.wav", 8000)) == 8000


def test_chunks_around_the_samples_do_no_harm(tmp_path: Path) -> None:
    content = write(tmp_path / "chunks.wav").read_bytes()
    place = content.index(b"data")
    odd = b"note" + (5).to_bytes(4, "little") + b"hello\0"  # an odd length, filled to an even one
    more = content[:place] + odd + content[place:] + b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    (tmp_path / "chunks.wav").write_bytes(more[:4] + (len(more) - 8).to_bytes(4, "little") + more[8:])
    np.testing.assert_allclose(read_audio(tmp_path / "chunks.wav", 8000), tone(8000), atol=1e-4)
