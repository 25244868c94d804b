"""Where spans of a modality begin and end, for generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import LogitsProcessor

if TYPE_CHECKING:
    from tokenmix.models.mixture_of_transformers.config import MixtureOfTransformersConfig


class ModalityGrammar(LogitsProcessor):
    """Lets only those tokens follow that the configuration's spans allow.

    A modality with "begin" is a span's: its tokens follow that token and one another alone. After "length" of them, or
    where there is no length after at least one, comes "end" (any token that is not a span's, where none is named).
    All other places take tokens of the other modalities. A continuous modality has no tokens to draw: its "begin" is
    followed by its "end". Stop there (`eos_token_id`), and `sample_features` draws the span.

    Args:
        config: of which the modalities tell.

    Example:
        >>> from tokenmix.models.mixture_of_transformers import MixtureOfTransformersConfig
        >>> image = {"vocab_size": 2, "begin": 1, "end": 2, "length": 2}
        >>> grammar = ModalityGrammar(MixtureOfTransformersConfig(modalities={"t": {"vocab_size": 3}, "image": image}))
        >>> (grammar(torch.tensor([[0, 1]]), torch.zeros(1, 5)) > -1).tolist()
        [[False, False, False, True, True]]
        >>> (grammar(torch.tensor([[1, 3, 4]]), torch.zeros(1, 5)) > -1).tolist()
        [[False, False, True, False, False]]
    """

    def __init__(self, config: MixtureOfTransformersConfig) -> None:
        self.config = config
        self.spans = {name: spec for name, spec in config.specs.items() if spec.get("begin") is not None}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, vocabulary) scores, -inf where a token may not follow (B, L) tokens."""
        ids = torch.arange(self.config.vocab_size, device=scores.device)
        outside = torch.ones_like(ids, dtype=torch.bool)
        for name in {*self.spans, *self.config.continuous()}:
            outside &= ~self._own(name, ids)
        allowed = outside.expand(scores.shape)
        for name, spec in self.spans.items():
            own, run = self._own(name, ids), self._run(name, input_ids)
            inside = (run > 0) | (input_ids[:, -1] == spec["begin"])
            length, end = spec.get("length"), spec.get("end")
            after = outside if end is None else ids == end
            if "input_size" in spec:
                allowed = torch.where(inside[:, None], after, allowed)
                continue
            full = run >= length if length is not None else run > 0
            here = torch.where(full[:, None], after, own)
            if length is None:
                here = here | (own & full[:, None])
            allowed = torch.where(inside[:, None], here, allowed)
        return scores.masked_fill(~allowed[:, : scores.shape[1]], -torch.inf)

    def _own(self, name: str, ids: Tensor) -> Tensor:
        tokens = self.config.token_range(name)
        return (ids >= tokens.start) & (ids < tokens.stop)

    def _run(self, name: str, input_ids: Tensor) -> Tensor:
        """(B,) tokens of a modality at the end of each row."""
        return self._own(name, input_ids).long().flip(1).cumprod(1).sum(1)
