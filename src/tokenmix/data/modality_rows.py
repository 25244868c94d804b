"""Captions, pictures and speech as rows of tokens of one vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

BYTES = 256
START, TEXT, TEXT_END, IMAGE, IMAGE_END, SPEECH, SPEECH_END = range(BYTES, BYTES + 7)
TEXT_TOKENS = SPEECH_END + 1
_MARKS = {"text": (TEXT, TEXT_END), "image": (IMAGE, IMAGE_END), "speech": (SPEECH, SPEECH_END)}


@dataclass(frozen=True)
class PairTokens:
    """Pairs as tokens, each modality in its own numbers from 0.

    Args:
        captions: N texts; their bytes are tokens.
        images: (N, tokens) int64 codes, or (N, tokens, F) floats: patches that stay numbers.
        image_codes: how many codes there are; 1 where pictures are patches.
        speech: for each pair (tokens,) int64 codes, or None where nothing is said; None: no speech at all.
        speech_codes: how many there are.
    """

    captions: Sequence[str]
    images: Tensor
    image_codes: int
    speech: Sequence[Tensor | None] | None = None
    speech_codes: int = 0

    @property
    def modalities(self) -> dict[str, dict[str, Any]]:
        """For `MixtureOfTransformersConfig`; patches are learned by diffusion."""
        found: dict[str, dict[str, Any]] = {"text": {"vocab_size": TEXT_TOKENS}}
        span = {"begin": IMAGE, "end": IMAGE_END, "length": self.images.shape[1]}
        if self.images.is_floating_point():
            found["image"] = {"input_size": self.images.shape[2], "objective": "diffusion", **span}
        else:
            found["image"] = {"vocab_size": self.image_codes, **span}
        if self.speech is not None:
            found["speech"] = {"vocab_size": self.speech_codes, "begin": SPEECH, "end": SPEECH_END}
        return found

    def span(self, name: str, pair: int) -> Tensor:
        """The tokens of one modality of a pair between its marks; empty where there are none."""
        begin, end = _MARKS[name]
        if name == "text":
            inner = torch.tensor(list(self.captions[pair].encode()), dtype=torch.int64)
        elif name == "image":
            codes = self.images[pair]
            inner = TEXT_TOKENS + (torch.zeros(len(codes), dtype=torch.int64) if codes.dim() == 2 else codes)
        else:
            said = None if self.speech is None else self.speech[pair]
            if said is None:
                return torch.empty(0, dtype=torch.int64)
            inner = TEXT_TOKENS + self.image_codes + said
        return torch.cat([torch.tensor([begin]), inner, torch.tensor([end])])

    def row(self, pair: int, order: Sequence[str]) -> Tensor:
        """(L,) tokens: the start, and the spans of a pair one after the other.

        Example:
            >>> tokens = PairTokens(["hi"], torch.tensor([[0, 1]]), image_codes=4)
            >>> tokens.row(0, ["text", "image"]).tolist()
            [256, 257, 104, 105, 258, 259, 263, 264, 260]
        """
        return torch.cat([torch.tensor([START]), *(self.span(name, pair) for name in order)])


class ModalityRows(Dataset[dict[str, Any]]):
    """Pairs as rows whose spans come in an order drawn for each pair and epoch, so every modality learns from every.

    Patches get a noise level, from 0 to 1, or to 0.5 where the caption comes after the picture and has to be read from
    it (as in Transfusion, arXiv 2408.11039, section 3.2, which does so in four cases of five).

    Args:
        tokens: of all pairs.
        ids: (n,) of those that are rows.
        seed: of the orders. What is drawn for a pair depends on seed, epoch and pair alone.

    Example:
        >>> rows = ModalityRows(PairTokens(["a", "b"], torch.zeros(2, 3, dtype=torch.int64), 4), torch.tensor([1]))
        >>> len(rows), rows[0]["input_ids"].shape
        (1, torch.Size([9]))
    """

    def __init__(self, tokens: PairTokens, ids: Tensor, seed: int = 0) -> None:
        self.tokens, self.ids, self.seed, self.epoch = tokens, ids, seed, 0
        self.names = list(tokens.modalities)

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the rows from now on belong to."""
        self.epoch = epoch

    def order(self, pair: int) -> list[str]:
        """Of a pair's spans in this epoch."""
        return self._draw(pair)[0]

    def noise_level(self, pair: int) -> float:
        """Of a pair's patches in this epoch."""
        order, share = self._draw(pair)
        return share * (0.5 if order.index("image") < order.index("text") else 1.0)

    def _draw(self, pair: int) -> tuple[list[str], float]:
        generator = np.random.default_rng([self.seed, self.epoch, pair])
        return [self.names[i] for i in generator.permutation(len(self.names))], generator.random()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = int(self.ids[index])
        row: dict[str, Any] = {"input_ids": self.tokens.row(pair, self.order(pair))}
        if self.tokens.images.is_floating_point():
            row |= {"patches": self.tokens.images[pair], "noise_level": self.noise_level(pair)}
        return row


def collate_modalities(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of `MixtureOfTransformersForCausalLM`: right-padded tokens, labels, and features and their noise level.

    Example:
        >>> batch = collate_modalities([{"input_ids": torch.tensor([256, 1])}, {"input_ids": torch.tensor([256])}])
        >>> batch["attention_mask"].tolist(), batch["labels"].tolist()
        ([[1, 1], [1, 0]], [[256, 1], [256, -100]])
    """
    tokens = [row["input_ids"] for row in rows]
    ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in tokens])[:, None]
    batch = {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.masked_fill(~mask, -100)}
    if "patches" in rows[0]:
        size = rows[0]["patches"].shape[1]
        features = torch.zeros(*ids.shape, size)
        features[(ids == TEXT_TOKENS) & mask] = torch.cat([row["patches"] for row in rows])
        batch["features"] = features
        batch["noise_level"] = torch.tensor([row["noise_level"] for row in rows])[:, None].expand(ids.shape)
    return batch
