"""A head on a `MixerModel`: which mixers it can use, and how it reads what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor
from transformers.cache_utils import Cache

from tokenmix.blocks import Stack
from tokenmix.layout import Layout
from tokenmix.mixer import TokenMixer
from tokenmix.models.base import MixerPreTrainedModel
from tokenmix.models.cache import CACHE_ARGUMENT, take_cache
from tokenmix.models.config import MixerConfig
from tokenmix.models.inputs import input_shape, refuse_misspelt, token_layout
from tokenmix.models.model import MixerModel


class Read(NamedTuple):
    """What a head gets from the model below it.

    Attributes:
        x: (B, L, hidden_size) features.
        layout: where the tokens live, for the loss.
        hidden_states: the features before and after each layer, where they were asked for.
        cache: the cache, where there is one.
    """

    x: Tensor
    layout: Layout
    hidden_states: tuple[Tensor, ...] | None
    cache: Cache | None


class MixerHead(MixerPreTrainedModel):
    """A model with a head: `model` is the `MixerModel` below it.

    Args:
        config: sizes, mixers and pattern.
    """

    model_class: type[MixerModel] = MixerModel

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config)
        self.model = self.model_class(config)

    @property
    def stack(self) -> Stack:
        """The layers."""
        return self.model.stack

    def _require_causality(self, causal: bool, task: str) -> None:
        """Refuse a pattern with a mixer that reads the future, or one that does not."""
        for letter, mixer in zip(self.stack.letters, self.stack.mixers, strict=True):
            if mixer.is_causal != causal and not (causal and self._reads_spans(mixer)):
                wanted = "causal mixers" if causal else "mixers that read both ways"
                found = "reads the future" if causal else "reads only the past"
                described = f"{letter!r}: {self.config.mixers[letter]}, which {found}"
                hint = "" if causal or mixer.causal == "always" else ' (set "causal": False)'
                raise ValueError(f"mixers: {task} needs {wanted}, found {described}{hint}")

    def _reads_spans(self, mixer: TokenMixer) -> bool:
        """Whether a mixer that reads the future does so where the model's task allows it."""
        return False

    def _read(
        self,
        others: dict[str, Any],
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        segment_ids: Tensor | None,
        output_hidden_states: bool | int | Sequence[int] | None,
        *,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        one_document: bool = False,
    ) -> Read:
        """Run the model below.

        Args:
            others: keywords that the head's forward does not name.
            one_document: a row must be one document, since there is one answer a row.
        """
        refuse_misspelt(others, type(self).__name__)
        cache = take_cache(cache, past_key_values)
        shape = input_shape(input_ids, inputs_embeds, self.config.hidden_size)
        columns = None if cache is None else int(cache.get_seq_length())
        layout = token_layout(shape, attention_mask, position_ids, segment_ids, columns)
        if one_document and layout.segments is not None:
            name = "position_ids" if segment_ids is None else "segment_ids"
            raise ValueError(
                f"{name}: expected one document a row, since {type(self).__name__} gives one answer a row, found "
                f"rows that are packed{' (places that do not go up by one)' if segment_ids is None else ''}"
            )
        outputs = self.model(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            layout=layout,
            cache=cache,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        return Read(outputs.last_hidden_state, layout, outputs.hidden_states, getattr(outputs, CACHE_ARGUMENT))
