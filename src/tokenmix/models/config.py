"""The description of a model whose layers are any mixers."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from tokenmix.mixer import check_positive
from tokenmix.models.config_fields import drop_code_fields, refuse_misspelt_fields
from tokenmix.models.pooling import POOLINGS
from tokenmix.models.stack import ModelStack
from tokenmix.models.stack_fields import build_stack, settle_initializer, settle_layers


@strict
class MixerConfig(PreTrainedConfig):
    """Configuration of `MixerModel` and its heads: named mixers, a pattern that places them, and the sizes around.

    Args:
        vocab_size: number of tokens in the vocabulary; 256 is bytes.
        hidden_size: width of the features.
        num_hidden_layers: number of layers; default the length of the pattern.
        mixers: a letter -> the description of a mixer (its name under "mixer", and its options).
        pattern: letters of the layers from the first to the last, repeated as often as needed: "mma".
        feed_forward: "swiglu", "gelu" or None, for all layers or as a mapping from letter.
        intermediate_size: width inside the feed-forward; default that of `tokenmix.blocks.Stack`.
        feed_forward_bias: biases in the feed-forward.
        parallel_residual: mixer and feed-forward of a layer read the same input, as in GPT-NeoX.
        norm, norm_eps: "rmsnorm" or "layernorm", and what is added to the variance.
        position: "learned" adds an embedding of the place in the document; "none" leaves order to the mixers.
        max_position_embeddings: number of learned places; only for position="learned".
        dropout, mixer_dropout: share of features dropped in training, after every branch or after the mixers
            alone (default: the same).
        initializer_range: standard deviation of linear layers and embeddings outside the mixers, which draw
            their own parameters as published; default hidden_size ** -0.5, which is GPT-2's 0.02 at width 2,500
            and larger below, where 0.02 trains far more slowly.
        rescale_residual: start the last projection of each branch divided by the square root of the number of
            branches, as GPT-2 and mamba_ssm do.
        pooling: what `MixerForSequenceClassification` reads of a row: "last", "mean" or "first"; default "last" for
            causal mixers and "mean" otherwise.
        classifier_dropout: share of features dropped in training before the layer that classifies rows or tokens.
        tie_word_embeddings: whether the output layer is the embedding.
        use_cache: whether inference returns a cache.
        pad_token_id, bos_token_id, eos_token_id: special tokens, where there are any.
        kwargs: what transformers keeps in every configuration, such as num_labels, id2label and problem_type.
            `auto_map` and `custom_pipelines` are dropped: the code of these models is never a checkpoint's.

    Raises:
        ValueError: a letter without a mixer, a mixer without a letter, an unknown mixer or option (with the
            nearest names), or a value that the mixer refuses.

    Example:
        >>> config = MixerConfig(
        ...     hidden_size=64,
        ...     mixers={"m": {"mixer": "mamba2", "head_dim": 16}, "a": {"mixer": "attention", "heads": 4}},
        ...     pattern="mma",
        ... )
        >>> config.num_hidden_layers
        3
    """

    model_type = "tokenmix"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "past_key_values"]

    vocab_size: int = 256
    hidden_size: int = 256
    num_hidden_layers: int | None = None
    mixers: dict[str, Any] = dataclasses.field(default_factory=lambda: {"a": {"mixer": "attention", "rope": True}})
    pattern: str = "a"
    feed_forward: str | dict[str, str | None] | None = "swiglu"
    intermediate_size: int | None = None
    feed_forward_bias: bool = False
    parallel_residual: bool = False
    norm: str = "rmsnorm"
    norm_eps: float = 1e-5
    position: str = "none"
    max_position_embeddings: int | None = None
    dropout: float | int = 0.0
    mixer_dropout: float | int | None = None
    initializer_range: float | None = None
    rescale_residual: bool = True
    pooling: str | None = None
    classifier_dropout: float | int = 0.0
    tie_word_embeddings: bool = True
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        drop_code_fields(kwargs)
        refuse_misspelt_fields(type(self), kwargs)
        for name in ("vocab_size", "hidden_size", "intermediate_size"):
            if name != "intermediate_size" or self.intermediate_size is not None:
                check_positive(name, getattr(self, name))
        settle_initializer(self)
        if self.pooling is not None and self.pooling not in POOLINGS:
            raise ValueError(f"pooling: expected one of {POOLINGS} or None, found {self.pooling!r}")
        if not 0 <= self.classifier_dropout < 1:
            raise ValueError(f"classifier_dropout: expected at least 0 and below 1, found {self.classifier_dropout}")
        if self.position not in ("none", "learned"):
            raise ValueError(f"position: expected 'none' or 'learned', found {self.position!r}")
        if (self.position == "learned") != (self.max_position_embeddings is not None):
            raise ValueError(
                "max_position_embeddings: expected a number with position='learned' and None otherwise, found "
                f"{self.max_position_embeddings} with position={self.position!r}"
            )
        if self.max_position_embeddings is not None and self.max_position_embeddings < 1:
            raise ValueError(f"max_position_embeddings: expected at least 1, found {self.max_position_embeddings}")
        settle_layers(self)
        super().__post_init__(**kwargs)

    def build_stack(self) -> ModelStack:
        """The layers that this configuration describes."""
        return build_stack(self, parallel_residual=self.parallel_residual)
