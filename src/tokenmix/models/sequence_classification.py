"""A class or a number for each row, from a stack of any mixers, as a Hugging Face model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from tokenmix.models.config import MixerConfig
from tokenmix.models.head import MixerHead
from tokenmix.models.inputs import can_look, input_shape
from tokenmix.models.labels import label_count
from tokenmix.models.pooling import pool


class MixerForSequenceClassification(MixerHead):
    """Classifies rows, or predicts numbers for them: a `MixerModel`, pooling, dropout, and a linear layer.

    `config.pooling` says which tokens of a row count:

    - "last": the last real token, the default where all mixers are causal, since it alone has read the whole row;
    - "mean": the mean of the real tokens, the default elsewhere;
    - "first": the first real token, for rows that begin with a [CLS] token.

    `config.problem_type` is "single_label_classification" (cross entropy), "multi_label_classification" (binary cross
    entropy of each label) or "regression" (squared error). Where it is None, the first labels decide, as everywhere in
    transformers: one label is regression, integers are single labels, floats are multiple labels.

    Args:
        config: sizes, mixers, pattern, and `num_labels` or `id2label`.

    Raises:
        ValueError: pooling "first" for causal mixers, whose first token has read nothing.

    Example:
        >>> config = MixerConfig(hidden_size=32, mixers={"m": {"mixer": "mamba"}}, pattern="m", num_labels=3)
        >>> model = MixerForSequenceClassification(config)
        >>> model(torch.tensor([[72, 105]])).logits.shape
        torch.Size([1, 3])
    """

    accepts_loss_kwargs = False  # the loss is a mean over rows: Trainer averages it over accumulated batches

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config)
        causal = self.model.is_causal
        self.pooling = config.pooling or ("last" if causal else "mean")
        if self.pooling == "first" and causal:
            raise ValueError(
                "pooling: expected 'last' or 'mean', since all mixers are causal and the first token reads nothing "
                "but itself, found 'first'"
            )
        self.classifier_dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, label_count(config))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        segment_ids: Tensor | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits of each row.

        Args:
            input_ids, attention_mask, position_ids, inputs_embeds, output_hidden_states: as in `MixerModel`. Without
                a mask every token counts, padding tokens too.
            labels: (B,) classes; (B, num_labels) floats for several labels or regression; (B,) floats for the
                regression of one number.
            segment_ids: None; a row is one document here.

        Raises:
            ValueError, TypeError: inputs that do not fit together, or packed rows; the message says which.
        """
        batch, _ = input_shape(input_ids, inputs_embeds, self.config.hidden_size)
        if labels is not None:
            check_row_labels(labels, batch, self.config)
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
        pooled = pool(read.x, read.layout.mask, self.pooling)
        logits = self.classifier(self.classifier_dropout(pooled))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits.float(), config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=read.hidden_states)


def check_row_labels(labels: Tensor, batch: int, config: MixerConfig) -> None:
    """Refuse labels that do not fit the problem, given or inferred as transformers does.

    Raises:
        ValueError, TypeError: another shape, type or value (values are looked at on the CPU, outside torch.compile).

    Example:
        >>> check_row_labels(torch.tensor([2]), 1, MixerConfig(num_labels=2))
        Traceback (most recent call last):
        ...
        ValueError: labels: expected 0 to num_labels - 1 = 1 for single_label_classification, found 2
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels: expected a tensor, found {type(labels).__name__}")
    classes, integers = label_count(config), labels.dtype in (torch.int64, torch.int32)
    problem = config.problem_type
    if problem is None:
        problem = "single_label_classification" if integers else "multi_label_classification"
        if classes == 1:
            problem = "regression"
    single = problem == "single_label_classification"
    if integers != single:
        wanted = "integers" if single else "floats"
        raise TypeError(f"labels: expected {wanted} for {problem} of num_labels={classes}, found {labels.dtype}")
    shapes: list[tuple[int, ...]] = [(batch,)] if single else [(batch, classes)]
    if problem == "regression" and classes == 1:
        shapes = [(batch,), (batch, 1)]
    if tuple(labels.shape) not in shapes:
        raise ValueError(f"labels: expected shape {shapes[0]} for {problem}, found {tuple(labels.shape)}")
    if single and can_look(labels):
        wrong = (labels < 0) | (labels >= classes)
        if bool(wrong.any()):
            raise ValueError(
                f"labels: expected 0 to num_labels - 1 = {classes - 1} for {problem}, found {labels[wrong][0].item()}"
            )
