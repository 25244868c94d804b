"""A masked language model whose layers are any mixers that read both ways, as a Hugging Face model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils.generic import can_return_tuple

from tokenmix.models.config import MixerConfig
from tokenmix.models.head import MixerHead
from tokenmix.models.inputs import input_shape
from tokenmix.models.labels import at_real_tokens, check_labels


class MixerForMaskedLM(MixerHead):
    """Predicts masked tokens from both sides: a `MixerModel`, and a linear layer over the vocabulary.

    The layer is that of `MixerForCausalLM`, so the weights of one serve the other, as far as the mixers do.

    Args:
        config: sizes, mixers and pattern.

    Raises:
        ValueError: a causal mixer in the pattern, which could not read what follows the mask.

    Example:
        >>> import torch
        >>> mixers = {"a": {"mixer": "attention", "heads": 2, "rope": True, "causal": False}}
        >>> model = MixerForMaskedLM(MixerConfig(hidden_size=32, mixers=mixers))
        >>> model(torch.tensor([[72, 105]])).logits.shape
        torch.Size([1, 2, 256])
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config)
        self._require_causality(False, "a masked language model")
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
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
    ) -> MaskedLMOutput:
        """Predict the token at each place.

        Args:
            input_ids, attention_mask, position_ids, inputs_embeds, segment_ids, output_hidden_states: as in
                `MixerModel`; documents packed in a row do not see each other.
            labels: (B, L) tokens, -100 where there is nothing to predict; padding is not predicted. Not shifted.
            kwargs: `num_items_in_batch` divides the summed loss (exact gradient accumulation).

        Raises:
            ValueError, TypeError: inputs that do not fit together; the message says which.
        """
        if labels is not None:
            shape = input_shape(input_ids, inputs_embeds, self.config.hidden_size)
            check_labels(labels, shape, self.config.vocab_size, "vocab_size")
        read = self._read(
            kwargs, input_ids, inputs_embeds, attention_mask, position_ids, segment_ids, output_hidden_states
        )
        logits = self.lm_head(read.x)
        loss = None
        if labels is not None:
            labels = at_real_tokens(labels, read.layout)
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=read.hidden_states)
