"""A language model whose layers are any causal mixers, as a Hugging Face model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils.generic import can_return_tuple

from tokenmix.blocks import MixerBlock
from tokenmix.layout import Layout
from tokenmix.mixer import TokenMixer
from tokenmix.models.cache import MixerCache, check_cache
from tokenmix.models.config import MixerConfig
from tokenmix.models.inputs import (
    check_features,
    check_tokens,
    predictable,
    refuse_misspelt,
    token_layout,
    token_places,
)


class MixerForCausalLM(PreTrainedModel, GenerationMixin):
    """Predicts the next token: embedding, a stack of any causal mixers, and a linear layer over the vocabulary.

    It trains with `Trainer`, runs with `generate` (greedy, sampling, beams, left-padded batches; assisted
    decoding where every mixer keeps all its tokens), and is saved and loaded as any transformers model.

    Args:
        config: sizes, mixers and pattern.

    Raises:
        ValueError: a mixer in the pattern that is not causal.

    Example:
        >>> model = MixerForCausalLM(MixerConfig(hidden_size=32, mixers={"m": {"mixer": "mamba"}}, pattern="mm"))
        >>> model(torch.tensor([[72, 105]])).logits.shape
        torch.Size([1, 2, 256])
    """

    config: MixerConfig
    config_class = MixerConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MixerBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}
    _keep_in_fp32_modules_strict = [r"\.A_log$", r"\.D$", r"\.dt_bias$"]

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.max_position_embeddings is not None:
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.stack = config.build_stack()
        for letter, mixer in zip(self.stack.letters, self.stack.mixers, strict=True):
            if not mixer.is_causal:
                raise ValueError(
                    f"mixers: a language model needs causal mixers, found {letter!r}: "
                    f"{config.mixers[letter]}, which reads the future"
                )
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        memory = self.stack.init_state(1, device="meta")
        self._is_stateful = any(state.tensors for state in memory.states)  # transformers then refuses assisted decoding
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: MixerCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        segment_ids: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the token after each token.

        Args:
            input_ids: (B, L) tokens.
            attention_mask: (B, L) or, with a cache, (B, tokens read + L): 1 for real tokens, 0 for padding,
                which may stand anywhere.
            position_ids: (B, L) or (1, L) places; default the count of real tokens. Without a mask and a
                cache, places that do not go up by one mark the documents packed in a row.
            past_key_values: a cache to continue; it is advanced in place.
            inputs_embeds: (B, L, hidden_size) features instead of `input_ids`.
            labels: (B, L) tokens, -100 where there is nothing to predict; shifted here. The first token of a
                document, padding, and the token after padding are not predicted.
            use_cache: return a cache; default the config's choice, but not in training or with labels.
            segment_ids: the document that each token of a packed row belongs to; shape as `attention_mask`.
            logits_to_keep: predict after the last n tokens only (0: all), or after the tokens at these indices.
            output_hidden_states: also return the features before and after each layer.
            kwargs: `num_items_in_batch` divides the summed loss (exact gradient accumulation).

        Raises:
            ValueError, TypeError: inputs that do not fit together; the message says which.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("input_ids: expected either input_ids or inputs_embeds, found both or neither")
        check_cache(past_key_values)
        if labels is not None and not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            raise ValueError(f"logits_to_keep: expected 0 where labels are given, found {logits_to_keep}")
        refuse_misspelt(kwargs)
        if input_ids is not None:
            check_tokens("input_ids", input_ids, self.embed_tokens.num_embeddings)
            x = self.embed_tokens(input_ids)
        else:
            x = check_features(inputs_embeds, self.config.hidden_size)
        shape = (x.shape[0], x.shape[1])
        if labels is not None:
            check_tokens("labels", labels, self.config.vocab_size, lowest=-100)
            if tuple(labels.shape) != shape:
                raise ValueError(f"labels: expected shape {shape}, found {tuple(labels.shape)}")
        columns = None if past_key_values is None else past_key_values.columns
        layout = token_layout(shape, attention_mask, position_ids, segment_ids, columns)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and labels is None
        cache = MixerCache() if past_key_values is None and use_cache else past_key_values
        if cache is not None and cache.state is None:
            cache.state = self.stack.init_state(x.shape[0], device=x.device, dtype=x.dtype)
        if self.config.position == "learned":
            x = x + self._place_features(layout, x.shape[1], cache)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states: list[Tensor] | None = [] if output_hidden_states else None
        x = self.stack(x, layout, None if cache is None else cache.state, hidden_states=hidden_states)
        if cache is not None:
            cache.advance(x.shape[1], layout.mask)
        logits = self.lm_head(slice_logits_to_keep(x, logits_to_keep))
        loss = None
        if labels is not None:
            labels = predictable(labels, layout)
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=cache,
            hidden_states=None if hidden_states is None else tuple(hidden_states),
        )

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        if generation_config.cache_implementation is not None:
            raise ValueError(
                "cache_implementation: expected None, since the states of mixers have their own cache, found "
                f"{generation_config.cache_implementation!r}"
            )
        check_cache(model_kwargs.get("past_key_values"))
        if model_kwargs.get("past_key_values") is None and generation_config.use_cache:
            model_kwargs["past_key_values"] = MixerCache()
        # transformers types self as a protocol of its own models
        return super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)  # type: ignore[misc]

    def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        """In a packed prompt, places count from the start of each document."""
        segment_ids = model_kwargs.get("segment_ids")
        if segment_ids is None:
            return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)
        shape = (segment_ids.shape[0], segment_ids.shape[1])
        layout = token_layout(shape, model_kwargs.get("attention_mask"), None, segment_ids, None)
        return token_places(layout, shape[1], None, segment_ids.device)

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], is_encoder_decoder: bool = False, num_new_tokens: int = 1
    ) -> dict[str, Any]:
        """New tokens belong to the last document of their row."""
        kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder, num_new_tokens)
        if kwargs.get("segment_ids") is not None:
            last = kwargs["segment_ids"][:, -1:].expand(-1, num_new_tokens)
            kwargs["segment_ids"] = torch.cat([kwargs["segment_ids"], last], dim=1)
        return kwargs

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: transformers then asks `_init_weights` of mixers without parameters of their own too.

        For code it takes for a stranger's it skips a module whose direct parameters are all loaded, which is
        vacuously so for a mixer made of projections alone; `_init_weights` minds what was loaded itself.
        """
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Mixers draw their parameters as published, over what the generic rule drew for their parts.

        Parameters that were loaded are marked, and stay as they are.
        """
        if not isinstance(module, TokenMixer):
            super()._init_weights(module)
            if isinstance(module, MixerBlock) and self.config.rescale_residual:
                branches = sum(1 if block.feed_forward is None else 2 for block in self.stack.layers)
                rescale_residual(module, branches**-0.5)
            return
        tensors = [*module.parameters(), *module.buffers()]
        loaded = [tensor for tensor in tensors if getattr(tensor, "_is_hf_initialized", False)]
        if len(loaded) == len(tensors):
            return
        values = [tensor.clone() for tensor in loaded]
        module.reset_parameters()
        for tensor, value in zip(loaded, values, strict=True):
            tensor.copy_(value)

    def _place_features(self, layout: Layout, length: int, cache: MixerCache | None) -> Tensor:
        """(B or 1, L, hidden_size) learned embeddings of the tokens' places in their documents."""
        state = None if cache is None or cache.state is None else cache.state.states[0]
        weight = self.embed_positions.weight
        places = token_places(layout, length, state, weight.device)
        last = int(places.max())
        if last >= weight.shape[0]:
            raise ValueError(
                f"input_ids: expected at most max_position_embeddings={weight.shape[0]} tokens in a document, "
                f"found {last + 1}"
            )
        return self.embed_positions(places)


def rescale_residual(block: MixerBlock, factor: float) -> None:
    """Multiply the last projection of each of a block's branches, unless it was loaded."""
    last = [getattr(block.feed_forward, "down_proj", None)]
    if block.mixer.residual_projection is not None:
        last.append(block.mixer.get_submodule(block.mixer.residual_projection))
    for projection in last:
        if projection is not None and not getattr(projection.weight, "_is_hf_initialized", False):
            projection.weight.mul_(factor)
