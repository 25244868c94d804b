"""Training and scoring a tokeniser."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tokenmix.models.tokenisers import ImageTokeniser, SpeechTokeniser, code_perplexity
from tokenmix.training.epoch_sampler import EpochTrainer
from tokenmix.training.run import Trained, TrainingConfig, train_or_resume

_MEASURED = 1024  # rows that the scale is measured on, about


def train_tokeniser(
    model: ImageTokeniser | SpeechTokeniser,
    data: Sequence[Tensor] | Tensor,
    *,
    folder: str | os.PathLike[str],
    steps: int = 2500,
    batch_size: int = 16,
    learning_rate: float = 4e-3,
    save_steps: int = 500,
    seed: int = 0,
    trainer: dict[str, Any] | None = None,
) -> Trained:
    """Train a tokeniser, from the folder's last whole checkpoint if there is one; the result is bit for bit the same.

    A model that was never trained is first told the mean and the deviation of each channel. A spectrogram starts at
    another of its first r frames in each epoch, since its tokens might as well.

    Args:
        model: with the weights that it starts from; trained in place, and in evaluation afterwards.
        data: pictures (N, C, S, S) from 0 to 1, or a log-Mel spectrogram (T, mels) a row.
        folder: for checkpoints.
        steps: updates.
        batch_size: rows an update.
        learning_rate: its peak, after 20 updates of warm-up; it falls to 0 by a cosine.
        save_steps: updates between two checkpoints.
        seed: of the order of the rows, and of where spectrograms start.
        trainer: more keywords of transformers' TrainingArguments.

    Returns:
        The log and the time.

    Raises:
        ValueError, TypeError: no rows, or rows that the model refuses.

    Example:
        >>> import tempfile
        >>> from tokenmix.models.tokenisers import ImageTokeniserConfig
        >>> model = ImageTokeniser(ImageTokeniserConfig(image_size=8, hidden_size=8, codes=4))
        >>> folder, quiet = tempfile.mkdtemp(), {"disable_tqdm": True, "logging_strategy": "no"}
        >>> train_tokeniser(model, torch.rand(16, 1, 8, 8), steps=2, batch_size=4, folder=folder, trainer=quiet).steps
        {...}
        2
    """
    if len(data) == 0:
        raise ValueError("data: expected at least one row, found none")
    if not model.quantiser.initialised:
        some = [data[i] for i in range(0, len(data), -(-len(data) // _MEASURED))]
        batch = {name: value.to(model.device) for name, value in collate_rows(model, some).items()}
        model.fit_scale(**batch)
    config = TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=0.0,
        log_steps=max(10, steps // 20),
        save_steps=save_steps,
        seed=seed,
        trainer=trainer or {},
    )
    spread = model.config.frames_per_token if isinstance(model, SpeechTokeniser) else 1
    rows, collator = _Rows(data, spread, seed), partial(collate_rows, model)
    run = train_or_resume(model, config, folder, trainer_class=EpochTrainer, train_dataset=rows, data_collator=collator)
    model.eval()
    return run


@dataclass(frozen=True)
class TokeniserScores:
    """How well a tokeniser does.

    Args:
        error: mean squared error, in the units of the input: pixels from 0 to 1, or logarithms of energies.
        scaled_error: the same after each channel is scaled by the deviation that the model was told, as in its loss.
        perplexity: of all tokens, see `tokenmix.models.tokenisers.code_perplexity`.
        used: codes among them.
    """

    error: float
    scaled_error: float
    perplexity: float
    used: int


@torch.no_grad()
def score_tokeniser(
    model: ImageTokeniser | SpeechTokeniser, data: Sequence[Tensor] | Tensor, *, batch_size: int = 128
) -> TokeniserScores:
    """Encode and decode rows, and compare; the model is left as it is.

    Args:
        model: trained.
        data: as for `train_tokeniser`.
        batch_size: rows at a time, which changes nothing but the time.

    Raises:
        ValueError, TypeError: no rows, or rows that the model refuses.

    Example:
        >>> from tokenmix.models.tokenisers import ImageTokeniserConfig
        >>> model = ImageTokeniser(ImageTokeniserConfig(image_size=8, hidden_size=8, codes=4))
        >>> scores = score_tokeniser(model, torch.rand(16, 1, 8, 8))
        >>> scores.error == scores.scaled_error, 1 <= scores.used <= 4
        (True, True)
    """
    if len(data) == 0:
        raise ValueError("data: expected at least one row, found none")
    total, count, tokens = torch.zeros(2, dtype=torch.float64), 0, []
    for start in range(0, len(data), batch_size):
        rows = [data[i] for i in range(start, min(start + batch_size, len(data)))]
        batch = {name: value.to(model.device) for name, value in collate_rows(model, rows).items()}
        if isinstance(model, ImageTokeniser):
            found = model.encode(batch["pixels"])
            difference = (model.decode(found) - batch["pixels"]).movedim(1, -1).flatten(0, -2)
        else:
            found, _ = model.encode(**batch)
            frames = batch["features"]
            real = torch.arange(frames.shape[1], device=frames.device) < batch["lengths"][:, None]
            difference = (model.decode(found)[:, : frames.shape[1]] - frames)[real]
        for i, value in enumerate((difference, difference / model.scale.deviation)):
            total[i] += value.double().square().sum().cpu()
        count += difference.numel()
        tokens.append(found[found >= 0])
    every = torch.cat(tokens)
    error, scaled = (total / count).tolist()
    return TokeniserScores(error, scaled, code_perplexity(every, model.config.codes).item(), len(every.unique()))


def collate_rows(model: ImageTokeniser | SpeechTokeniser, rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """A batch of pictures, or of spectrograms padded with zeros behind each row's end.

    Raises:
        ValueError: pictures of unlike shapes, or rows that are no spectrograms with the model's bands.

    Example:
        >>> from tokenmix.models.tokenisers import SpeechTokeniserConfig
        >>> model = SpeechTokeniser(SpeechTokeniserConfig(num_mel_bins=2, hidden_size=4))
        >>> batch = collate_rows(model, [torch.ones(3, 2), torch.ones(1, 2)])
        >>> batch["features"].shape, batch["lengths"].tolist()
        (torch.Size([2, 3, 2]), [3, 1])
    """
    if isinstance(model, ImageTokeniser):
        if len(shapes := {tuple(row.shape) for row in rows}) > 1:
            raise ValueError(f"data: expected pictures of one shape, found {sorted(shapes)}")
        return {"pixels": torch.stack(list(rows))}
    bands = model.config.num_mel_bins
    for row in rows:
        if row.dim() != 2 or row.shape[1] != bands:
            raise ValueError(f"data: expected rows of shape (T, num_mel_bins={bands}), found {tuple(row.shape)}")
    lengths = torch.tensor([len(row) for row in rows])
    return {"features": torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), "lengths": lengths}


class _Rows(Dataset[Tensor]):
    """Rows, without the first few of their frames: how many is a function of seed, epoch and place."""

    def __init__(self, data: Sequence[Tensor] | Tensor, spread: int, seed: int) -> None:
        self.data, self.spread, self.seed, self.epoch = data, spread, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that is next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Tensor:
        row = self.data[index]
        if self.spread == 1 or len(row) <= 1:
            return row
        drawn = random.Random(f"{self.seed} {self.epoch} {index}")
        return row[drawn.randrange(min(self.spread, len(row))) :]
