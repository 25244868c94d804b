"""Mixtures of recorded speakers, made from clips when they are asked for."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

PEAK = 0.9  # largest sample of a row


class SpeechClip(Protocol):
    """What a mixture needs of a clip: who speaks, and the samples (mono float32, 1-D) at a rate."""

    @property
    def speaker(self) -> str:
        """Name of the speaker."""
        ...

    def read(self, rate: int) -> NDArray[np.float32]:
        """(N,) samples."""
        ...


class Mixtures(Dataset[dict[str, Tensor]]):
    """Rows of several people who speak at once: clips of one speaker after the other, added to those of another.

    Row i depends on (seed, split, i) alone: it is the same on any worker, in any order. The speakers of a row differ.
    Each one's clips are drawn at random until there are at least `seconds[0]` of them; a clip is drawn again only when
    all of the speaker's have been. Loudness (root mean square) differs by a number of decibels uniform in `snr`; where
    there are more than two speakers, each one's against the first.

    Args:
        clips: of at least `speakers` speakers, each with some sound.
        count: rows.
        rate: samples a second.
        seconds: shortest and longest row.
        snr: bounds of the loudness of the first speaker against the others, in decibels.
        mode: "min" cuts a row where the first speaker ends; "max" goes on until the last one does.
        speakers: people a row.
        split: name of the split, so that the rows of two splits are drawn apart.
        seed: of everything drawn.

    Raises:
        ValueError: too few speakers, bounds in the wrong order, an unknown mode; when a row is made, silent clips.

    Example:
        >>> from types import SimpleNamespace
        >>> tone = lambda hertz: np.sin(np.arange(800, dtype=np.float32) * hertz / 100)
        >>> clips = [SimpleNamespace(speaker=name, read=lambda rate, f=f: tone(f)) for name, f in (("a", 5), ("b", 9))]
        >>> row = Mixtures(clips, count=3, rate=800, seconds=(2.0, 3.0))[0]
        >>> row["input_values"].shape, row["labels"].shape
        (torch.Size([1600]), torch.Size([2, 1600]))
        >>> torch.equal(row["input_values"], row["labels"].sum(0))
        True

    Source:
        The levels and the two modes are those of WSJ0-2mix: Hershey et al. 2016, arXiv 1508.04306.
    """

    def __init__(
        self,
        clips: Sequence[SpeechClip],
        *,
        count: int,
        rate: int = 8000,
        seconds: tuple[float, float] = (2.0, 3.0),
        snr: tuple[float, float] = (-2.5, 2.5),
        mode: Literal["min", "max"] = "min",
        speakers: int = 2,
        split: str = "train",
        seed: int = 0,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode: expected 'min' or 'max', found {mode!r}")
        if not 0 < seconds[0] <= seconds[1]:
            raise ValueError(f"seconds: expected two positive numbers in order, found {tuple(seconds)}")
        if snr[0] > snr[1]:
            raise ValueError(f"snr: expected two numbers in order, found {tuple(snr)}")
        for name, value, least in (("count", count, 1), ("rate", rate, 1), ("speakers", speakers, 2)):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, found {value}")
        self.by_speaker: dict[str, list[SpeechClip]] = defaultdict(list)
        for clip in clips:
            self.by_speaker[clip.speaker].append(clip)
        if len(self.by_speaker) < speakers:
            raise ValueError(
                f"clips: expected at least {speakers} speakers to mix, found {sorted(self.by_speaker)} in {split!r}"
            )
        self.count, self.rate, self.snr, self.mode, self.speakers = count, rate, snr, mode, speakers
        self.shortest, self.longest = (round(bound * rate) for bound in seconds)
        self.split, self.seed = split, seed
        self._names = sorted(self.by_speaker)
        self._kept: dict[tuple[str, int], NDArray[np.float32]] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Samples "input_values" (N,) of the mixture and "labels" (speakers, N), whose sum it is."""
        if not 0 <= index < self.count:
            raise IndexError(f"index: expected 0 to {self.count - 1}, found {index}")
        random = np.random.default_rng([self.seed, zlib.crc32(self.split.encode()), index])
        names = [self._names[i] for i in random.choice(len(self._names), self.speakers, replace=False)]
        voices = [self._speak(name, random) for name in names]
        length = (min if self.mode == "min" else max)(len(voice) for voice in voices)
        gains = [0.0, *(-random.uniform(*self.snr) for _ in names[1:])]
        sources = np.zeros((self.speakers, length), dtype=np.float32)
        for source, voice, gain in zip(sources, voices, gains, strict=True):
            voice = voice[:length]
            source[: len(voice)] = voice / np.sqrt(np.mean(voice**2)) * 10 ** (gain / 20)
        sources *= PEAK / max(np.abs(sources.sum(0)).max(), np.abs(sources).max())
        labels = torch.from_numpy(sources)
        return {"input_values": labels.sum(0), "labels": labels}

    def _speak(self, name: str, random: np.random.Generator) -> NDArray[np.float32]:
        """Clips of one speaker in a random order, for as long as a row is."""
        clips, order, parts, length = self.by_speaker[name], list[int](), list[NDArray[np.float32]](), 0
        while length < self.shortest:
            if not order:
                order = list(random.permutation(len(clips)))
                if parts and length == 0:
                    raise ValueError(f"clips: expected samples of speaker {name!r}, found only empty clips")
            parts.append(self._read(name, int(order.pop())))
            length += len(parts[-1])
        voice = np.concatenate(parts)[: self.longest]
        if not np.any(voice[: self.shortest]):
            raise ValueError(f"clips: expected sound of speaker {name!r}, found silence")
        return voice

    def _read(self, name: str, place: int) -> NDArray[np.float32]:
        if (name, place) not in self._kept:
            self._kept[name, place] = np.asarray(self.by_speaker[name][place].read(self.rate), dtype=np.float32)
        return self._kept[name, place]


def collate_mixtures(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Pad rows to the longest: "input_values" (B, N), "attention_mask" (B, N), "labels" (B, speakers, N).

    Example:
        >>> rows = [{"input_values": torch.ones(n), "labels": torch.ones(2, n)} for n in (2, 3)]
        >>> collate_mixtures(rows)["attention_mask"].tolist()
        [[1, 1, 0], [1, 1, 1]]
    """
    lengths = torch.tensor([len(row["input_values"]) for row in rows])
    longest = int(lengths.max())
    padded = {
        key: torch.stack([torch.nn.functional.pad(row[key], (0, longest - row[key].shape[-1])) for row in rows])
        for key in ("input_values", "labels")
    }
    mask = (torch.arange(longest) < lengths[:, None]).long()
    return {"input_values": padded["input_values"], "attention_mask": mask, "labels": padded["labels"]}


def split_speakers(
    splits: Mapping[str, Sequence[Any]], protocol: Literal["closed", "open"], unseen: int = 2
) -> dict[str, list[Any]]:
    """Clips to train on and to test on.

    Args:
        splits: clips by "train", "test" and other splits, as `tokenmix.data.speech.load_speech` gives them.
        protocol: "closed" tests the speakers of training on clips they were not heard with; "open" keeps the last
            `unseen` speakers in alphabetical order, with all of their clips, for the test.
        unseen: speakers of the test split, if open.

    Returns:
        {"train": clips, "test": clips}.

    Raises:
        ValueError: a split that is missing or empty, an unknown protocol, too few speakers.

    Example:
        >>> from types import SimpleNamespace
        >>> clips = {split: [SimpleNamespace(speaker=s) for s in "abcd"] for split in ("train", "test")}
        >>> found = split_speakers(clips, "open")
        >>> [clip.speaker for clip in found["train"]], sorted({clip.speaker for clip in found["test"]})
        (['a', 'b'], ['c', 'd'])
    """
    for name in ("train", "test"):
        if not splits.get(name):
            raise ValueError(f"splits: expected clips in {name!r}, found none (splits are {sorted(splits)})")
    if protocol == "closed":
        heard = {clip.speaker for clip in splits["train"]}
        return {"train": list(splits["train"]), "test": [clip for clip in splits["test"] if clip.speaker in heard]}
    if protocol != "open":
        raise ValueError(f"protocol: expected 'closed' or 'open', found {protocol!r}")
    everyone = [clip for clips in splits.values() for clip in clips]
    names = sorted({clip.speaker for clip in everyone})
    if len(names) - unseen < 2 or unseen < 2:
        raise ValueError(f"unseen: expected at least 2 speakers on each side of {names}, found {unseen}")
    kept = set(names[-unseen:])
    return {
        "train": [clip for clip in splits["train"] if clip.speaker not in kept],
        "test": [clip for clip in everyone if clip.speaker in kept],
    }
