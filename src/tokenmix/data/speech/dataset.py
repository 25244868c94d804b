"""Clips as a data set for training, and batches of them."""

from __future__ import annotations

import csv
import os
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tokenmix.data.speech.audio import AudioError
from tokenmix.data.speech.augment import Augment
from tokenmix.data.speech.clip import Clip

NAMED = 10  # bad files that a message names
IGNORED = -100  # transformers' mark of a place without a label


class ClipDataset(Dataset[dict[str, Any] | None]):
    """Samples and labels of clips; bad audio is left out, counted and named, and does not end a training.

    An item is {"input_values": (N,) float32, "labels": list of tokens}, or None for audio that cannot be read, which
    `collate` leaves out. What is drawn for augmentation is a function of seed, epoch and place, so that it depends
    neither on the number of workers nor on where a run was stopped; the sampler or the trainer says the epoch by
    `set_epoch`.

    Args:
        clips: the clips.
        tokenizer: makes labels of their texts.
        rate: samples a second.
        strict: raise at bad audio instead.
        speeds, gain_db, noise_snr_db, noise, noise_share: of `Augment`, for training only; by default none.
        seed: of what is drawn.

    Attributes:
        skipped: reasons by name of the clips that could not be read so far (in this process: a worker has its own).
        lengths: samples of each clip, as its header tells, for batches of like lengths.

    Raises:
        ValueError: a rate or an option of augmentation that is none.

    Example:
        >>> from tokenmix.data.speech import Clip, build_ctc_tokenizer
        >>> class Silence:
        ...     def read(self, rate):
        ...         return np.zeros(rate // 2, dtype=np.float32)
        >>> clip = Clip("no", "nobody", "en", "silence", 0.5, Silence())
        >>> dataset = ClipDataset([clip], build_ctc_tokenizer(["no"]), rate=8000)
        >>> dataset[0]["input_values"].shape, dataset[0]["labels"], dataset.lengths
        (torch.Size([4000]), [5, 6], [4000])
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        tokenizer: Any,
        rate: int = 16000,
        *,
        strict: bool = False,
        speeds: Sequence[float] | None = None,
        gain_db: tuple[float, float] | None = None,
        noise_snr_db: tuple[float, float] | None = None,
        noise: Literal["white", "pink"] = "white",
        noise_share: float = 0.5,
        seed: int = 0,
    ) -> None:
        if rate < 1:
            raise ValueError(f"rate: expected samples a second, found {rate}")
        augment = Augment(speeds, gain_db, noise_snr_db, noise, noise_share)
        self.augment = None if speeds is gain_db is noise_snr_db is None else augment
        self.clips, self.tokenizer, self.rate, self.strict = list(clips), tokenizer, rate, strict
        self.seed = seed
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # workers that persist see it change
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def lengths(self) -> list[int]:
        """Samples of each clip, as far as its header tells."""
        return [round(clip.seconds * self.rate) for clip in self.clips]

    def set_epoch(self, epoch: int) -> None:
        """The epoch, on which augmentation depends."""
        self._epoch[0] = epoch

    @property
    def epoch(self) -> int:
        """The epoch that augmentation draws for."""
        return int(self._epoch[0])

    def __getitem__(self, index: int) -> dict[str, Any] | None:
        clip = self.clips[index]
        try:
            samples = clip.read(self.rate)
        except AudioError as error:
            if self.strict:
                raise
            self._skip(clip, error)
            return None
        if self.augment is not None:
            samples = self.augment(samples, self.rate, random.Random(f"{self.seed} {self.epoch} {index}"))
        labels: list[int] = self.tokenizer(clip.text).input_ids
        return {"input_values": torch.from_numpy(np.ascontiguousarray(samples)), "labels": labels}

    def check(self, *, full: bool = False, report: str | os.PathLike[str] | None = None) -> dict[str, str]:
        """Leave out clips whose audio is bad, before anything is trained.

        Args:
            full: decode every clip, which also finds what is cut off or holds NaN; else only those are read whose
                header could not be.
            report: a file to write all of them to, with tabs between name and reason; none if there are none.

        Returns:
            Reasons by name of the clips that are left out.

        Raises:
            AudioError: if strict and one is bad; it names the first ten.
        """
        bad: dict[str, str] = {}
        kept = []
        for clip in self.clips:
            try:
                if full or clip.seconds <= 0:
                    clip.read(self.rate)
                kept.append(clip)
            except AudioError as error:
                bad[clip.name] = str(error)
        if bad and self.strict:
            raise AudioError(f"{len(bad)} bad files: {name_some(bad)}")
        self.clips = kept
        self.skipped |= bad
        if bad and report is not None:
            Path(report).parent.mkdir(parents=True, exist_ok=True)
            with Path(report).open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, delimiter="\t").writerows([("name", "reason"), *bad.items()])
        return bad

    def _skip(self, clip: Clip, error: AudioError) -> None:
        if clip.name not in self.skipped:
            self.skipped[clip.name] = str(error)
            print(f"left out, {len(self.skipped)} so far: {error}", file=sys.stderr)


def name_some(bad: Mapping[str, str]) -> str:
    """The reasons of the first few files of `ClipDataset.check`, in a sentence.

    Example:
        >>> name_some({"a.wav": "a.wav: found an empty file"})
        'a.wav: found an empty file'
    """
    return "; ".join(list(bad.values())[:NAMED]) + (" ..." if len(bad) > NAMED else "")


def collate(items: Sequence[dict[str, Any] | None], pad_to_multiple_of: int | None = None) -> dict[str, Tensor]:
    """A batch: samples padded with zeros behind each row's end, and labels padded with -100.

    Items that are None are left out. Where none is left, the batch is one row of one padded sample without a label,
    which has no token and so no loss.

    Args:
        items: of a `ClipDataset`.
        pad_to_multiple_of: N is a multiple of this many samples.

    Returns:
        input_values (B, N) float32, attention_mask (B, N) int64, labels (B, S) int64.

    Raises:
        ValueError: a multiple below 1.

    Example:
        >>> rows = [{"input_values": torch.ones(n), "labels": [7] * n} for n in (1, 3)]
        >>> batch = collate([*rows, None])
        >>> batch["attention_mask"].tolist(), batch["labels"].tolist()
        ([[1, 0, 0], [1, 1, 1]], [[7, -100, -100], [7, 7, 7]])
    """
    if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
        raise ValueError(f"pad_to_multiple_of: expected a positive number, found {pad_to_multiple_of}")
    kept = [item for item in items if item is not None]
    lengths = torch.tensor([len(item["input_values"]) for item in kept] or [0])
    longest, multiple = max(int(lengths.max()), 1), pad_to_multiple_of or 1
    longest += -longest % multiple
    audio = torch.zeros(len(lengths), longest)
    labels = torch.full((len(lengths), max((len(item["labels"]) for item in kept), default=0) or 1), IGNORED)
    for row, item in enumerate(kept):
        audio[row, : lengths[row]] = item["input_values"]
        labels[row, : len(item["labels"])] = torch.tensor(item["labels"], dtype=torch.int64)
    return {
        "input_values": audio,
        "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
        "labels": labels,
    }
