"""Mixtures: reproducible rows, levels, lengths, and which voices are heard in which split."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from tokenmix.data.mixtures import PEAK, Mixtures, collate_mixtures, split_speakers

FSDD = Path(__file__).parents[3] / "shared" / "data" / "fsdd"
RATE = 1000


@dataclass
class Tone:
    """A clip: a tone whose pitch tells the speaker, and whose phase tells the take."""

    speaker: str
    take: int = 0
    seconds: float = 0.4
    loudness: float = 0.5
    reads: list[int] = field(default_factory=list)

    def read(self, rate: int) -> NDArray[np.float32]:
        self.reads.append(rate)
        time = np.arange(round(self.seconds * rate)) / rate
        pitch = {"ann": 50, "bob": 120, "cas": 210, "dee": 333}[self.speaker]
        return (self.loudness * np.sin(2 * np.pi * pitch * time + self.take)).astype(np.float32)


def tones(names: str = "ann bob cas", takes: int = 6, **options: Any) -> list[Tone]:
    return [Tone(name, take, **options) for name in names.split() for take in range(takes)]


def build(clips: Any = None, **options: Any) -> Mixtures:
    return Mixtures(clips or tones(), **{"count": 12, "rate": RATE, **options})


def pitches(samples: torch.Tensor) -> set[int]:
    """Speakers' pitches that are loud in some samples."""
    spectrum = torch.fft.rfft(samples * torch.hann_window(len(samples))).abs()
    hertz = torch.fft.rfftfreq(len(samples), 1 / RATE)
    loud = spectrum > 0.25 * spectrum.max()
    return {pitch for pitch in (50, 120, 210, 333) if bool(loud[(hertz - pitch).abs() < 8].any())}


def test_rows_are_the_same_for_any_number_of_workers_and_in_any_order() -> None:
    rows = [build()[i] for i in range(12)]
    for workers in (0, 2):
        loader = DataLoader(build(), batch_size=None, num_workers=workers)
        for row, found in zip(rows, loader, strict=True):
            assert torch.equal(row["labels"], found["labels"])
            assert torch.equal(row["input_values"], found["input_values"])
    backwards = build()
    for i in reversed(range(12)):
        assert torch.equal(backwards[i]["labels"], rows[i]["labels"])


def test_other_seeds_splits_and_indices_give_other_rows() -> None:
    first = build()[0]["labels"]
    for other in (build()[1], build(seed=1)[0], build(split="test")[0]):
        assert other["labels"].shape != first.shape or not torch.equal(other["labels"], first)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_sums_levels_and_lengths(mode: Any) -> None:
    lengths, levels, pairs = [], [], set()
    clips = [Tone(name, take, 0.3 + 0.07 * take) for name in ("ann", "bob", "cas") for take in range(6)]
    mixtures = build(clips, count=60, mode=mode)
    for i in range(60):
        row = mixtures[i]
        labels = row["labels"]
        assert torch.equal(row["input_values"], labels.sum(0))
        assert labels.dtype == row["input_values"].dtype == torch.float32
        peak = max(float(labels.abs().max()), float(row["input_values"].abs().max()))
        assert peak == pytest.approx(PEAK, rel=1e-5)
        lengths.append(labels.shape[1])
        heard = [pitches(source) for source in labels]
        assert len(heard[0]) == len(heard[1]) == 1
        assert heard[0] != heard[1]
        pairs.add((heard[0].pop(), heard[1].pop()))
        real = [source[: int(source.nonzero()[:, 0].max()) + 1] for source in labels]
        powers = [float(source.square().mean()) for source in real]
        levels.append(10 * np.log10(powers[0] / powers[1]))
        if mode == "min":
            assert min(len(source) for source in real) > labels.shape[1] - 12
    assert min(lengths) >= 2 * RATE
    assert max(lengths) <= 3 * RATE
    assert len(set(lengths)) > 5
    assert len(pairs) == 6  # every ordered pair of three speakers
    assert -2.6 < min(levels) < -1.5
    assert 1.5 < max(levels) < 2.6


def test_max_is_never_shorter_than_min_and_pads_the_other() -> None:
    clips = [Tone("ann", take, 0.5) for take in range(4)] + [Tone("bob", take, 0.9) for take in range(4)]
    short, long = build(clips, mode="min"), build(clips, mode="max")
    for i in range(12):
        assert short[i]["labels"].shape[1] == 2000  # four clips of ann
        assert long[i]["labels"].shape[1] == 2700  # three of bob
        quiet = [source for source in long[i]["labels"] if not source[2000:].any()]
        assert len(quiet) == 1


def test_clips_are_not_repeated_before_all_were_heard() -> None:
    """A speaker of five clips of 0.4 s gives two seconds of five different takes."""
    mixtures = build([Tone(name, take, 0.4) for name in ("ann", "bob") for take in range(5)])
    for i in range(6):
        for source in mixtures[i]["labels"]:
            parts = {tuple((part / part.abs().max()).round(decimals=2)[:40].tolist()) for part in source.split(400)}
            assert len(parts) == 5


def test_three_speakers_and_files_read_once() -> None:
    clips = tones("ann bob cas dee")
    mixtures = build(clips, speakers=3)
    row = mixtures[3]
    assert row["labels"].shape[0] == 3
    assert len({frozenset(pitches(source)) for source in row["labels"]}) == 3
    for i in range(12):
        mixtures[i]
    assert all(len(clip.reads) <= 1 for clip in clips)
    assert {rate for clip in clips for rate in clip.reads} == {RATE}


def test_batches_are_padded() -> None:
    rows = [build([*tones(seconds=0.37)], mode="max")[i] for i in range(4)]
    batch = collate_mixtures(rows)
    for b, row in enumerate(rows):
        n = row["labels"].shape[1]
        assert batch["attention_mask"][b].sum() == n
        assert torch.equal(batch["labels"][b, :, :n], row["labels"])
        assert not batch["labels"][b, :, n:].any()
        assert not batch["input_values"][b, n:].any()


def test_protocols() -> None:
    splits = {name: tones("ann bob cas dee") for name in ("train", "valid", "test")}
    splits["train"] = [clip for clip in splits["train"] if clip.speaker != "bob"]
    closed = split_speakers(splits, "closed")
    assert {clip.speaker for clip in closed["test"]} == {"ann", "cas", "dee"}
    assert not {id(clip) for clip in closed["train"]} & {id(clip) for clip in closed["test"]}
    opened = split_speakers(splits, "open", unseen=2)
    assert {clip.speaker for clip in opened["train"]} == {"ann"}
    assert {clip.speaker for clip in opened["test"]} == {"cas", "dee"}
    assert len(opened["test"]) == 2 * 18
    with pytest.raises(ValueError, match=r"unseen: expected at least 2 speakers on each side of .* found 3"):
        split_speakers(splits, "open", unseen=3)
    with pytest.raises(ValueError, match="protocol: expected 'closed' or 'open', found 'ajar'"):
        split_speakers(splits, "ajar")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ValueError, match="splits: expected clips in 'test', found none"):
        split_speakers({"train": tones()}, "closed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "mean"}, "mode: expected 'min' or 'max', found 'mean'"),
        ({"seconds": (3.0, 2.0)}, "seconds: expected two positive numbers in order"),
        ({"snr": (1.0, -1.0)}, "snr: expected two numbers in order"),
        ({"count": 0}, "count: expected at least 1, found 0"),
        ({"speakers": 1}, "speakers: expected at least 2, found 1"),
        ({"clips": tones("ann")}, r"clips: expected at least 2 speakers to mix, found \['ann'\] in 'train'"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_clips_without_sound_are_named() -> None:
    with pytest.raises(ValueError, match=r"expected sound of speaker '(ann|bob)', found silence"):
        build(tones("ann bob", loudness=0.0))[0]
    with pytest.raises(ValueError, match=r"expected samples of speaker '(ann|bob)', found only empty clips"):
        build(tones("ann bob", seconds=0.0))[0]
    with pytest.raises(IndexError, match="index: expected 0 to 11, found 12"):
        build()[12]


@pytest.mark.skipif(not FSDD.is_dir(), reason="no copy of the Free Spoken Digit Dataset at ../shared/data/fsdd")
def test_recorded_digits() -> None:
    """Real recordings: two to three seconds of two of six people, as loud as asked for."""
    from tokenmix.data.speech.fsdd import load_fsdd

    splits = split_speakers(load_fsdd(FSDD), "closed")
    mixtures = Mixtures(splits["test"], count=8, split="test")
    assert len(mixtures.by_speaker) == 6
    for i in range(8):
        row = mixtures[i]
        assert 16_000 <= row["input_values"].shape[0] <= 24_000
        power = row["labels"].square().mean(1)
        assert abs(10 * float((power[0] / power[1]).log10())) < 2.6
