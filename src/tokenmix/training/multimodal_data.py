"""Pairs made ready for a Mixture-of-Transformers: pictures and speech as tokens of trained tokenisers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import set_seed

from tokenmix.data.modality_rows import PairTokens
from tokenmix.data.pairs import PairData, load_pairs, pixels
from tokenmix.mixer import check_positive
from tokenmix.models.tokenisers import (
    ImageTokeniser,
    ImageTokeniserConfig,
    SpeechTokeniser,
    SpeechTokeniserConfig,
)
from tokenmix.training.tokeniser import train_tokeniser

_ROWS = 256  # encoded at a time


@dataclass
class PairsConfig:
    """Which pairs, and how they become tokens."""

    name: str = "unicode_glyphs"
    """A source of `tokenmix.data.pairs.load_pairs`, or "my_file.py:NAME" for one that the file registers."""
    folder: str | None = None
    """Where its files are, if it has no place of its own."""
    size: int = 32
    """Side of the pictures in pixels."""
    speech: Literal["auto", "none", "espeak", "recorded"] = "auto"
    """"auto": spoken by espeak-ng where that is installed."""
    options: dict[str, Any] = field(default_factory=dict)
    """More keywords of the source."""
    limit: int | None = None
    """So many pairs to train on at most, the first of them."""
    pictures: Literal["tokens", "patches"] = "tokens"
    """Codes of a tokeniser, or patches of pixels that a diffusion loss learns."""
    patch_size: int = 4
    """Side of a patch; a picture is (size / patch_size)^2 tokens."""
    codes: int = 256
    """Of each tokeniser."""
    tokeniser_steps: int = 600
    """Updates of each tokeniser."""
    seed: int = 0
    """Of the tokenisers."""


class PreparedPairs(NamedTuple):
    """Pairs with their tokens.

    Args:
        data: pictures, captions and splits.
        tokens: of all pairs.
        image_tokeniser: None where pictures are patches.
        train: ids to train on.
        description: a line for the table.
    """

    data: PairData
    tokens: PairTokens
    image_tokeniser: ImageTokeniser | None
    train: Tensor
    description: str

    def pictures(self, spans: Tensor) -> Tensor:
        """(n, tokens) codes or (n, tokens, F) patches -> (n, C, S, S) pixels from 0 to 1."""
        if self.image_tokeniser is not None:
            return self.image_tokeniser.decode(spans)
        return from_patches(spans, self.data.images.shape[1], self.data.images.shape[2])


def prepare_pairs(
    config: PairsConfig, folder: str | os.PathLike[str], begin: Callable[[], None] | None = None
) -> PreparedPairs:
    """Load pairs, train the tokenisers (or read those of an earlier start), and make tokens of pictures and speech.

    Args:
        config: which, and how.
        folder: for the tokenisers.
        begin: called once the pairs are there, before anything is written.

    Raises:
        ValueError, FileNotFoundError, ModuleNotFoundError: an unknown source, or something that is missing.
    """
    place = Path(folder)
    with PartialState().main_process_first():  # what is drawn or synthesised is written once
        data = load(config)
        frames = None if data.speech is None else _log_mels(config, data)
    if begin is not None:
        begin()
    train = data.train if config.limit is None else data.train[: config.limit]
    images, tokeniser = _picture_tokens(config, data, train, place / "image_tokeniser")
    speech = None if frames is None else _speech_tokens(config, data, frames, train, place / "speech_tokeniser")
    codes = 1 if tokeniser is None else config.codes
    tokens = PairTokens(data.captions, images, codes, speech, 0 if speech is None else config.codes)
    said = "" if speech is None else f", {sum(s is not None for s in speech):,} of them spoken"
    counts = f"{len(train):,} / {len(data.val):,} / {len(data.test):,}"
    return PreparedPairs(data, tokens, tokeniser, train, f"{data.name}: {counts} pairs{said}; {data.source}")


def to_patches(pictures: Tensor, patch_size: int) -> Tensor:
    """(n, C, S, S) from 0 to 1 -> (n, (S / p)^2, C p^2) from -1 to 1, row by row of the grid.

    Example:
        >>> to_patches(torch.zeros(2, 1, 8, 8), 4).shape
        torch.Size([2, 4, 16])
    """
    cut = torch.nn.functional.unfold(pictures, patch_size, stride=patch_size)
    return cut.transpose(1, 2) * 2 - 1


def from_patches(patches: Tensor, channels: int, size: int) -> Tensor:
    """The inverse of `to_patches`, within 0 and 1.

    Example:
        >>> pictures = torch.rand(2, 3, 8, 8)
        >>> torch.allclose(from_patches(to_patches(pictures, 4), 3, 8), pictures, atol=1e-6)
        True
    """
    side = round((patches.shape[2] / channels) ** 0.5)
    columns = ((patches + 1) / 2).transpose(1, 2)
    return torch.nn.functional.fold(columns, size, side, stride=side).clamp(0, 1)


def load(config: PairsConfig) -> PairData:
    """The pairs that a configuration names, with speech where it asks for it."""
    if config.limit is not None:
        check_positive("limit", config.limit)
    options: dict[str, Any] = {"folder": config.folder, "size": config.size, **config.options}
    if config.speech != "auto":
        return load_pairs(config.name, speech=config.speech, sampling_rate=8000, **options)
    try:
        return load_pairs(config.name, speech="espeak", sampling_rate=8000, **options)
    except ImportError:  # the extra `synth` is not installed
        return load_pairs(config.name, **options)


def _picture_tokens(
    config: PairsConfig, data: PairData, train: Tensor, folder: Path
) -> tuple[Tensor, ImageTokeniser | None]:
    pictures = pixels(data.images)
    if config.pictures == "patches":
        return to_patches(pictures, config.patch_size), None
    channels = data.images.shape[1]
    sizes: dict[str, Any] = {"image_size": config.size, "num_channels": channels, "patch_size": config.patch_size}
    set_seed(config.seed)
    tokeniser = ImageTokeniser(ImageTokeniserConfig(codes=config.codes, **sizes))
    tokeniser = _trained(config, tokeniser, pictures[train], folder)
    return torch.cat([tokeniser.encode(part) for part in pictures.split(_ROWS)]), tokeniser


def _log_mels(config: PairsConfig, data: PairData) -> list[Tensor | None]:
    """(frames, mels) of what is said with each pair."""
    front = SpeechTokeniser(_speech_config(config, data))
    waves: Any = data.speech
    found = (waves[pair] for pair in range(len(waves)))
    return [None if wave is None else front.features(torch.from_numpy(wave)[None])[0][0] for wave in found]


def _speech_config(config: PairsConfig, data: PairData) -> SpeechTokeniserConfig:
    return SpeechTokeniserConfig(codes=config.codes, sampling_rate=data.sampling_rate)


def _speech_tokens(
    config: PairsConfig, data: PairData, frames: list[Tensor | None], train: Tensor, folder: Path
) -> list[Tensor | None]:
    known = [found for i in train.tolist() if (found := frames[i]) is not None]
    set_seed(config.seed)
    tokeniser = _trained(config, SpeechTokeniser(_speech_config(config, data)), known, folder)
    return [None if found is None else tokeniser.encode(found[None])[0][0] for found in frames]


def _trained(config: PairsConfig, tokeniser: Any, rows: Any, folder: Path) -> Any:
    """A tokeniser trained by all processes, or that of an earlier start."""
    if not (folder / "config.json").exists():
        train_tokeniser(tokeniser, rows, folder=folder / "training", steps=config.tokeniser_steps)
        if PartialState().is_main_process:
            tokeniser.save_pretrained(folder)
        PartialState().wait_for_everyone()
    return type(tokeniser).from_pretrained(folder).eval()
