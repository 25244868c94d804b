"""Speeds and noise: how long, how loud, and that they depend on (seed, epoch, place) alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_cases import TOKENIZER, clips_in, heard, tone, write
from torch.utils.data import DataLoader

from tokenmix.data.speech import Clip, ClipDataset, collate, file_clip

RATE = 8000


def samples_of(dataset: ClipDataset, index: int = 0) -> Any:
    item = dataset[index]
    assert item is not None
    return item["input_values"].numpy()


def long_clip(folder: Path, level: float = 0.5) -> Clip:
    samples = tone(RATE, 2.0, 400.0, level)
    return file_clip(write(folder / "long.wav", samples, RATE, subtype="FLOAT"), "one", "ann", "en")


@pytest.mark.parametrize("speed", [0.8, 0.9, 1.0, 1.1, 1.25])
def test_a_faster_clip_is_shorter_and_higher(speed: float, tmp_path: Path) -> None:
    found = samples_of(ClipDataset([long_clip(tmp_path)], TOKENIZER, RATE, speeds=[speed]))
    assert len(found) == int(np.ceil(2 * RATE / speed))
    pitch, level = heard(found, RATE)
    assert pitch == pytest.approx(400 * speed, abs=0.1)
    assert level == pytest.approx(0.5, rel=0.01)


def test_every_speed_is_drawn(tmp_path: Path) -> None:
    dataset = ClipDataset([long_clip(tmp_path)] * 60, TOKENIZER, RATE, speeds=(0.9, 1.0, 1.1))
    lengths = [len(samples_of(dataset, i)) for i in range(60)]
    counts = [lengths.count(int(np.ceil(2 * RATE / speed))) for speed in (0.9, 1.0, 1.1)]
    assert sum(counts) == 60
    assert min(counts) >= 10


@pytest.mark.parametrize("decibels", [0.0, 10.0, 30.0])
def test_noise_is_as_loud_as_told(decibels: float, tmp_path: Path) -> None:
    clip = long_clip(tmp_path, level=0.1)  # loud noise is not clipped
    plain = clip.read(RATE).astype(np.float64)
    dataset = ClipDataset([clip] * 40, TOKENIZER, RATE, noise_snr_db=(decibels, decibels))
    noises = [samples_of(dataset, i) - plain for i in range(40)]
    loud = [noise for noise in noises if noise.any()]
    assert 10 <= len(loud) <= 30  # half of the clips
    measured = [10 * np.log10(np.square(plain).mean() / np.square(noise).mean()) for noise in loud]
    np.testing.assert_allclose(measured, decibels, atol=0.2)  # of 16,000 samples: 4 standard errors
    halves = [np.square(np.abs(np.fft.rfft(noise))) for noise in loud]
    ratio = np.mean([half[: len(half) // 2].mean() / half[len(half) // 2 :].mean() for half in halves])
    assert ratio == pytest.approx(1.0, abs=0.1)  # white
    correlation = np.corrcoef(loud[0], loud[1])[0, 1]
    assert abs(correlation) < 0.05  # not the same noise again


def test_noise_levels_spread_over_their_range(tmp_path: Path) -> None:
    clip = long_clip(tmp_path, level=0.1)
    plain = clip.read(RATE)
    dataset = ClipDataset([clip] * 200, TOKENIZER, RATE, noise_snr_db=(5.0, 25.0))
    noises = [noise for i in range(200) if (noise := samples_of(dataset, i) - plain).any()]
    levels = np.sort([10 * np.log10(np.square(plain).mean() / np.square(noise).mean()) for noise in noises])
    assert 4.5 < levels[0] < 8
    assert 22 < levels[-1] < 25.5
    assert np.median(levels) == pytest.approx(15, abs=3)


def test_silence_stays_silent_and_finite(tmp_path: Path) -> None:
    clip = file_clip(write(tmp_path / "silence.wav", np.zeros(RATE)), "one", "ann", "en")
    dataset = ClipDataset([clip] * 8, TOKENIZER, RATE, speeds=(0.9, 1.1), noise_snr_db=(0, 10))
    assert not any(samples_of(dataset, i).any() for i in range(8))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_drawn_does_not_depend_on_workers(workers: int, tmp_path: Path) -> None:
    dataset = ClipDataset(clips_in(tmp_path), TOKENIZER, RATE, speeds=(0.9, 1.0, 1.1), noise_snr_db=(5, 20), seed=3)
    options: dict[str, Any] = {"batch_size": 2, "collate_fn": collate}
    expected = list(DataLoader(dataset, **options))
    found = list(DataLoader(dataset, num_workers=workers, **options))
    for one, other in zip(expected, found, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_drawn_depends_on_seed_epoch_and_place_only(tmp_path: Path) -> None:
    clips = [long_clip(tmp_path)] * 6

    def epoch(number: int, seed: int = 0, order: Any = range(6)) -> list[Any]:
        dataset = ClipDataset(clips, TOKENIZER, RATE, speeds=(0.9, 1.0, 1.1), noise_snr_db=(5, 20), seed=seed)
        dataset.set_epoch(number)
        rows = {i: samples_of(dataset, i) for i in order}
        return [rows[i] for i in sorted(rows)]

    def same(one: list[Any], other: list[Any]) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002  # the global generators must play no part
    first = epoch(2)
    assert same(first, epoch(2, order=(5, 3, 1, 0, 2, 4)))
    assert not same(first, epoch(3))
    assert not same(first, epoch(2, seed=1))
    assert not same(first[:1], first[1:2])  # the same clip at another place


def test_nothing_is_drawn_unless_asked(tmp_path: Path) -> None:
    clip = long_clip(tmp_path)
    assert np.array_equal(samples_of(ClipDataset([clip], TOKENIZER, RATE)), clip.read(RATE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0}, "rate: expected samples a second, found 0"),
        ({"speeds": []}, "speeds: expected positive numbers"),
        ({"speeds": [1.0, -0.5]}, r"speeds: expected positive numbers, found \[1\.0, -0\.5\]"),
        ({"noise_snr_db": (10.0, 5.0)}, r"noise_snr_db: expected \(low, high\)"),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipDataset([], TOKENIZER, **options)
