"""Where in a row the answer stands, from a stack of any mixers, as a Hugging Face model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import QuestionAnsweringModelOutput
from transformers.utils.generic import can_return_tuple

from tokenmix.layout import Layout
from tokenmix.models.config import MixerConfig
from tokenmix.models.head import MixerHead
from tokenmix.models.inputs import can_look, input_shape


class MixerForQuestionAnswering(MixerHead):
    """Finds the answer in a row of question and context: a `MixerModel`, and two logits a token, start and end.

    Padding is never chosen: its logits are the smallest number of their type.

    Args:
        config: sizes, mixers and pattern. Mixers that read both ways suit the task; causal ones are allowed.

    Example:
        >>> mixers = {"a": {"mixer": "attention", "heads": 2, "rope": True, "causal": False}}
        >>> model = MixerForQuestionAnswering(MixerConfig(hidden_size=32, mixers=mixers))
        >>> model(torch.tensor([[72, 105]])).start_logits.shape
        torch.Size([1, 2])
    """

    accepts_loss_kwargs = False  # the loss is a mean over rows: Trainer averages it over accumulated batches

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config)
        self.classifier_dropout = nn.Dropout(config.classifier_dropout)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput:
        """Logits of where the answer starts and of where it ends (its last token).

        Args:
            input_ids, attention_mask, position_ids, inputs_embeds, output_hidden_states: as in `MixerModel`.
            start_positions, end_positions: (B,) columns of the answer's first and last token. L or more: the answer
                is not in the row, which then has no loss (0 where no row has one). The loss is the mean of both.
            segment_ids: None; a row is one document here.

        Raises:
            ValueError, TypeError: inputs that do not fit together, packed rows, or answers in the padding.
        """
        shape = input_shape(input_ids, inputs_embeds, self.config.hidden_size)
        if (start_positions is None) != (end_positions is None):
            raise ValueError("start_positions: expected together with end_positions, found one of them")
        read = self._read(
            kwargs,
            input_ids,
            inputs_embeds,
            attention_mask,
            position_ids,
            segment_ids,
            output_hidden_states,
            one_document=True,
        )
        logits = self.qa_outputs(self.classifier_dropout(read.x))
        if read.layout.mask is not None:
            logits = logits.masked_fill(~read.layout.mask[..., None], torch.finfo(logits.dtype).min)
        start_logits, end_logits = logits.unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            start_positions = _columns("start_positions", start_positions, shape, read.layout)
            end_positions = _columns("end_positions", end_positions, shape, read.layout)
            loss = (_mean_loss(start_logits, start_positions) + _mean_loss(end_logits, end_positions)) / 2
        return QuestionAnsweringModelOutput(
            loss=loss, start_logits=start_logits, end_logits=end_logits, hidden_states=read.hidden_states
        )


def _mean_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Mean cross entropy of the rows whose position is inside, as in transformers; 0, not NaN, where there is none."""
    outside = logits.shape[1]
    positions = positions.long().clamp(max=outside)
    summed = F.cross_entropy(logits.float(), positions, ignore_index=outside, reduction="sum")
    return summed / (positions < outside).sum().clamp(min=1)


def _columns(name: str, positions: Tensor, shape: tuple[int, int], layout: Layout) -> Tensor:
    """(B,) columns, refused where no answer can be (values are looked at on the CPU, outside torch.compile)."""
    if not isinstance(positions, Tensor) or positions.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name}: expected int64, found {getattr(positions, 'dtype', type(positions).__name__)}")
    if tuple(positions.shape) not in ((shape[0],), (shape[0], 1)):
        raise ValueError(f"{name}: expected shape {(shape[0],)}, found {tuple(positions.shape)}")
    positions = positions.reshape(-1)
    if can_look(positions):
        if int(positions.min()) < 0:
            raise ValueError(f"{name}: expected columns from 0, found {int(positions.min())}")
        if layout.mask is not None:
            padding = ~layout.mask.gather(1, positions.clamp(max=shape[1] - 1)[:, None].long())[:, 0]
            padding &= positions < shape[1]
            if bool(padding.any()):
                row = int(padding.nonzero()[0])
                raise ValueError(
                    f"{name}: expected a real token, found padding, column {int(positions[row])} of row {row}"
                )
    return positions
