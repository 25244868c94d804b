"""Clips as a data set for training, and batches of them."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tokenmix.data.speech.audio import AudioError, Samples, resample
from tokenmix.data.speech.clip import Clip

IGNORED = -100  # transformers' mark of a place without a label


class ClipDataset(Dataset[dict[str, Any] | None]):
    """Samples and labels of clips; bad audio is left out, counted and named, and does not end a training.

    An item is {"input_values": (N,) float32, "labels": list of tokens}, or None for audio that cannot be read. What is
    drawn for augmentation is a function of seed, epoch and place, so that it depends neither on the number of workers
    nor on where a run was stopped.

    Args:
        clips: the clips.
        tokenizer: makes labels of their texts.
        rate: samples a second.
        strict: raise at bad audio instead.
        speeds: play each clip at one of these speeds (0.9 is slower and lower); None plays it as it is.
        noise_snr_db: (low, high) decibels between speech and white noise that is added to half of the clips; None adds
            none.
        seed: of what is drawn.

    Attributes:
        skipped: reasons by name of the clips that could not be read so far.
        lengths: samples of each clip, as its header tells, for batches of like lengths.

    Raises:
        ValueError: a rate, speed or range that is none.

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
        noise_snr_db: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> None:
        if rate < 1:
            raise ValueError(f"rate: expected samples a second, found {rate}")
        if speeds is not None and (not speeds or min(speeds) <= 0):
            raise ValueError(f"speeds: expected positive numbers, found {list(speeds)}")
        if noise_snr_db is not None and noise_snr_db[0] > noise_snr_db[1]:
            raise ValueError(f"noise_snr_db: expected (low, high), found {noise_snr_db}")
        self.clips, self.tokenizer, self.rate, self.strict = list(clips), tokenizer, rate, strict
        self.speeds, self.noise_snr_db, self.seed, self.epoch = speeds, noise_snr_db, seed, 0
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def lengths(self) -> list[int]:
        """Samples of each clip, as far as its header tells."""
        return [int(clip.seconds * self.rate) for clip in self.clips]

    def set_epoch(self, epoch: int) -> None:
        """The epoch, on which augmentation depends."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any] | None:
        clip = self.clips[index]
        try:
            samples = clip.read(self.rate)
        except AudioError as error:
            if self.strict:
                raise
            self._skip(clip, error)
            return None
        samples = self._augment(samples, random.Random(f"{self.seed} {self.epoch} {index}"))
        labels: list[int] = self.tokenizer(clip.text).input_ids
        return {"input_values": torch.from_numpy(np.ascontiguousarray(samples)), "labels": labels}

    def check(self, *, full: bool = False) -> dict[str, str]:
        """Leave out clips whose audio is bad, before anything is trained.

        Args:
            full: decode every clip, which also finds what is cut off or holds NaN; else only headers are looked at.

        Returns:
            Reasons by name of the clips that are left out.

        Raises:
            AudioError: the first one, if strict.
        """
        bad: dict[str, str] = {}
        kept = []
        for clip in self.clips:
            try:
                if full or clip.seconds <= 0:
                    clip.read(self.rate)
                kept.append(clip)
            except AudioError as error:
                if self.strict:
                    raise
                bad[clip.name] = str(error)
        self.clips = kept
        self.skipped |= bad
        return bad

    def _skip(self, clip: Clip, error: AudioError) -> None:
        if clip.name not in self.skipped:
            self.skipped[clip.name] = str(error)
            print(f"left out, {len(self.skipped)} so far: {error}", file=sys.stderr)

    def _augment(self, samples: Samples, draw: random.Random) -> Samples:
        if self.speeds is not None:
            speed = draw.choice(list(self.speeds))
            samples = resample(samples, round(self.rate * speed), self.rate)
        if self.noise_snr_db is not None and draw.random() < 0.5:
            power = float(np.square(samples).mean()) * 10 ** (-draw.uniform(*self.noise_snr_db) / 10)
            noise = np.random.default_rng(draw.getrandbits(32)).standard_normal(len(samples))
            samples = (samples + power**0.5 * noise).astype(np.float32)
        return samples


def collate(items: Sequence[dict[str, Any] | None]) -> dict[str, Tensor]:
    """A batch: samples padded with zeros behind each row's end, and labels padded with -100.

    Items that are None are left out. Where none is left, the batch is one row of one padded sample without a label,
    which has no token and so no loss.

    Args:
        items: of a `ClipDataset`.

    Returns:
        input_values (B, N) float32, attention_mask (B, N) int64, labels (B, S) int64.

    Example:
        >>> rows = [{"input_values": torch.ones(n), "labels": [7] * n} for n in (1, 3)]
        >>> batch = collate([*rows, None])
        >>> batch["attention_mask"].tolist(), batch["labels"].tolist()
        ([[1, 0, 0], [1, 1, 1]], [[7, -100, -100], [7, 7, 7]])
    """
    kept = [item for item in items if item is not None]
    if not kept:
        nothing = torch.zeros(1, 1)
        return {"input_values": nothing, "attention_mask": nothing.long(), "labels": nothing.long() + IGNORED}
    audio = [item["input_values"] for item in kept]
    labels = [torch.tensor(item["labels"], dtype=torch.int64) for item in kept]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_values": pad(audio, batch_first=True),
        "attention_mask": pad([torch.ones(len(row), dtype=torch.int64) for row in audio], batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=IGNORED),
    }
