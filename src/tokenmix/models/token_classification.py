"""A class for each token, from a stack of any mixers, as a Hugging Face model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.utils.generic import can_return_tuple

from tokenmix.models.config import MixerConfig
from tokenmix.models.head import MixerHead
from tokenmix.models.inputs import input_shape
from tokenmix.models.labels import at_real_tokens, check_labels, label_count


class MixerForTokenClassification(MixerHead):
    """Classifies each token: a `MixerModel`, dropout, and a linear layer over `config.num_labels` classes.

    Causal mixers classify a token from what stands before it, others from both sides.

    Args:
        config: sizes, mixers, pattern, and `num_labels` or `id2label`.

    Example:
        >>> import torch
        >>> mixers = {"a": {"mixer": "attention", "heads": 2, "rope": True, "causal": False}}
        >>> model = MixerForTokenClassification(MixerConfig(hidden_size=32, mixers=mixers, num_labels=5))
        >>> model(torch.tensor([[72, 105]])).logits.shape
        torch.Size([1, 2, 5])
    """

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config)
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
    ) -> TokenClassifierOutput:
        """Logits of each token's class.

        Args:
            input_ids, attention_mask, position_ids, inputs_embeds, segment_ids, output_hidden_states: as in
                `MixerModel`; documents packed in a row do not see each other.
            labels: (B, L) classes, -100 where there is none; padding has none.
            kwargs: `num_items_in_batch` divides the summed loss (exact gradient accumulation).

        Raises:
            ValueError, TypeError: inputs that do not fit together; the message says which.
        """
        if labels is not None:
            shape = input_shape(input_ids, inputs_embeds, self.config.hidden_size)
            check_labels(labels, shape, label_count(self.config), "num_labels")
        read = self._read(
            kwargs, input_ids, inputs_embeds, attention_mask, position_ids, segment_ids, output_hidden_states
        )
        logits = self.classifier(self.classifier_dropout(read.x))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, at_real_tokens(labels, read.layout), self.config, **kwargs)
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=read.hidden_states)
