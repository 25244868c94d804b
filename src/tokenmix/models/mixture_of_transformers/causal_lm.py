"""A Mixture-of-Transformers that predicts the next token of any modality, and denoises or predicts continuous ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from tokenmix.layout import Layout
from tokenmix.mixer import TokenMixer
from tokenmix.mixers.span_attention import SpanAttention
from tokenmix.models.cache import CACHE_ARGUMENT, take_cache
from tokenmix.models.causal_lm import MixerForCausalLM
from tokenmix.models.inputs import call_layout, input_shape, last_tokens, refuse_misspelt
from tokenmix.models.labels import check_labels, check_next_labels
from tokenmix.models.mixture_of_transformers.base import MixtureOfTransformersPreTrainedModel
from tokenmix.models.mixture_of_transformers.grammar import ModalityGrammar
from tokenmix.models.mixture_of_transformers.losses import Features, modality_losses, with_noise
from tokenmix.models.mixture_of_transformers.model import MixtureOfTransformersModel
from tokenmix.stack_state import StackState


@dataclass
class MixtureOfTransformersOutput(CausalLMOutputWithPast):
    """What a Mixture-of-Transformers gives.

    Args:
        modality_losses: (n,) mean loss of each modality's labels: nats a token, or squared error a number; 0 where a
            batch has none. Without gradients.
        modality_counts: (n,) labels of each modality.
        predictions: by name of a continuous modality, (B, L, F): the features of the next token ("regression"), or the
            velocity of this one ("diffusion").
    """

    modality_losses: Tensor | None = None
    modality_counts: Tensor | None = None
    predictions: dict[str, Tensor] | None = None


class MixtureOfTransformersForCausalLM(MixtureOfTransformersPreTrainedModel, MixerForCausalLM):
    """Text, pictures and speech in one sequence: a head over the tokens of all modalities, and one for features.

    The rows of the embedding and of the output layer are those of each modality in turn, and the softmax is over all:
    so a token of another modality can follow, and `generate` switches by itself, with the cache; `grammar` tells it
    where a span must begin and end. Trains with `Trainer`.

    Args:
        config: modalities, sizes, mixers and pattern.

    Raises:
        ValueError: a mixer in the pattern that is not causal.

    Example:
        >>> import torch
        >>> from tokenmix.models.mixture_of_transformers import MixtureOfTransformersConfig
        >>> config = MixtureOfTransformersConfig(
        ...     hidden_size=32,
        ...     mixers={"m": {"mixer": "mamba2", "head_dim": 8, "state_size": 16}},
        ...     pattern="m",
        ...     modalities={"text": {"vocab_size": 100}, "image": {"vocab_size": 256}},
        ... )
        >>> tokens = torch.tensor([[5, 7, 101, 300]])
        >>> output = MixtureOfTransformersForCausalLM(config)(tokens, labels=tokens)
        >>> output.logits.shape, output.modality_counts.tolist()
        (torch.Size([1, 4, 356]), [1, 2])

    Source:
        Liang et al. 2024, arXiv 2411.04996; Transfusion's loss: Zhou et al. 2024, arXiv 2408.11039, equation 4, with
        the velocity in the place of the noise as what is predicted.
    """

    model_class = MixtureOfTransformersModel
    model: MixtureOfTransformersModel

    def _reads_spans(self, mixer: TokenMixer) -> bool:
        return isinstance(mixer, SpanAttention)

    @classmethod
    def from_dense(
        cls, model: PreTrainedModel, modalities: dict[str, dict[str, Any]], **options: Any
    ) -> MixtureOfTransformersForCausalLM:
        """See `tokenmix.models.mixture_of_transformers.dense.from_dense`."""
        from tokenmix.models.mixture_of_transformers.dense import from_dense

        return from_dense(model, modalities, **options)

    @property
    def grammar(self) -> ModalityGrammar:
        """For `generate(logits_processor=[model.grammar])`: spans begin, end and are as long as the config says."""
        return ModalityGrammar(self.config)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        segment_ids: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        past_key_values: Cache | None = None,
        modality_ids: Tensor | None = None,
        features: Tensor | None = None,
        noise_level: Tensor | None = None,
        noise: Tensor | None = None,
        **kwargs: Any,
    ) -> MixtureOfTransformersOutput:
        """Predict the token after each token, and features.

        Args:
            input_ids, attention_mask, position_ids, cache, inputs_embeds, segment_ids, use_cache, logits_to_keep,
                output_hidden_states, past_key_values: as in `MixerForCausalLM`.
            labels: (B, L) tokens, -100 where there is nothing to predict; shifted here. At a continuous token any other
                number asks for its features to be learned.
            modality_ids: (B, L), see `MixtureOfTransformersModel`.
            features: (B, L, F) of continuous tokens, clean. With labels, those of objective "diffusion" are read with
                noise.
            noise_level: (B, L) from 0 to 1; default drawn for each row where there are labels, else 0: the features
                are read as they come.
            noise: (B, L, F); default drawn. With a level and without labels, features come noisy and this is not read.
            kwargs: `num_items_in_batch`, as in `MixerForCausalLM`; and `shift_labels`, with labels: (B, L) tokens that
                stand where they are predicted, all of which are learned in place of `labels`, each as one of the
                modality that its id tells.

        Raises:
            ValueError, TypeError: inputs that do not fit together; the message says which.
        """
        refuse_misspelt(kwargs, type(self).__name__)
        shape = input_shape(input_ids, inputs_embeds, self.config.hidden_size)
        if labels is not None:
            check_next_labels(labels, shape, self.config.vocab_size, logits_to_keep)
            if (aligned := kwargs.get("shift_labels")) is not None:
                check_labels(aligned, shape, self.config.vocab_size, "vocab_size", "shift_labels")
                if features is not None:
                    raise ValueError("shift_labels: expected none with features, which labels alone tell, found some")
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and labels is None
        cache = take_cache(cache, past_key_values)
        layout = call_layout(None, shape, attention_mask, position_ids, segment_ids, cache)
        layout = self.model.with_modality(layout, input_ids, modality_ids)
        if features is not None:
            self.model.check_features(*shape, features, noise_level, noise)
        given = None if features is None else Features(features, noise_level, noise)
        if given is not None and labels is not None:
            given = with_noise(self.config, given, layout)
        outputs = self.model(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            layout=layout,
            cache=cache,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            features=None if given is None else given.read,
            noise_level=None if given is None else given.level,
            return_dict=True,
        )
        x = outputs.last_hidden_state
        logits = self.lm_head(last_tokens(x, logits_to_keep))
        predictions = {name: module.predict(x) for name, module in self.model.features.items()}  # type: ignore[operator]  # a method
        losses = counts = loss = None
        if labels is not None:
            loss, losses, counts = modality_losses(self.config, logits, predictions, labels, given, layout, kwargs)
            if given is None:  # parameters that read and predict features get gradients of 0, and not none
                loss = loss + sum(p.sum() * 0 for p in self.model.features.parameters())
        return MixtureOfTransformersOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            modality_losses=losses,
            modality_counts=counts,
            predictions=predictions or None,
            **{CACHE_ARGUMENT: getattr(outputs, CACHE_ARGUMENT)},
        )

    def read_last(self, input_ids: Tensor, layout: Layout, state: StackState) -> Tensor:
        """As `MixerForCausalLM.read_last`; the ids tell the modality, see `MixtureOfTransformersModel.embed`."""
        return super().read_last(input_ids, self.model.with_modality(layout, input_ids), state)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Features and modalities of the columns that are read; generated tokens have none of their own."""
        inputs: dict[str, Any]
        inputs = super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        tokens = inputs.get("input_ids")
        if tokens is None:
            return inputs
        cache = take_cache(inputs.get("cache"), inputs.get("past_key_values"))
        first = 0 if cache is None else int(cache.get_seq_length())
        size = self.config.feature_size
        if size and inputs.get("features") is None and not kwargs.get("is_first_iteration"):
            inputs["features"] = torch.zeros(len(tokens), 0, size, device=tokens.device)
        for name in ("features", "modality_ids", "noise_level"):
            given = inputs.get(name)
            if given is None:
                continue
            found = given[:, first : first + tokens.shape[1]]
            missing = tokens.shape[1] - found.shape[1]  # tokens that were generated
            if missing and name == "modality_ids":
                found = torch.cat([found, self.config.modality_of(tokens[:, -missing:])], dim=1)
            elif missing:
                found = torch.cat([found, found.new_zeros(len(found), missing, *found.shape[2:])], dim=1)
            inputs[name] = found
        return inputs
