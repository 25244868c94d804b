"""The description of a Block Transformer."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from tokenmix.mixer import check_divides, check_positive
from tokenmix.models.block_transformer.published import published
from tokenmix.models.config_fields import drop_code_fields, in_groups, refuse_misspelt_fields
from tokenmix.models.stack import ModelStack

EMBEDDERS = ("lookup", "projection", "cls")
TOKEN_DECODERS = ("prefix", "summation", "cross_attention")
_ATTENTION = {"mixer": "attention", "heads": 8, "rope": True}


@strict
class BlockTransformerConfig(PreTrainedConfig):
    """Configuration of `BlockTransformerModel` and `BlockTransformerForCausalLM`.

    Args:
        vocab_size: number of tokens in the vocabulary; 256 is bytes.
        block_length: L_B, tokens a block.
        hidden_size: D, width of the block decoder.
        token_hidden_size: width of the token decoder; default `hidden_size`.
        embedder: how a block becomes its embeddings: "lookup" (embeddings of hidden_size / L_B, side by side),
            "projection" (embeddings of hidden_size, and a linear layer over the block) or "cls" (a small encoder over
            the block, read at tokens of its own).
        block_embeddings: embeddings a block, a divisor of `block_length`; those of a block see each other where the
            mixer is "attention" (which then gets its `group`), and else the earlier ones.
        cls_tokens, cls_layers, cls_heads: of the "cls" embedder; its tokens are 3, or 1 where the width is no multiple.
        token_decoder: how the token decoder reads the block decoder: "prefix" (expanded to vectors before the
            block's tokens), "summation" (added to them) or "cross_attention".
        expansion: vectors that an embedding of the block decoder expands to; default 2 for "prefix", and as many as
            a block has tokens for the others.
        cross_heads: heads of the cross-attention.
        block_mixers, block_pattern, num_block_layers: mixers of the block decoder, their places, and how many layers.
        token_mixers, token_pattern, num_token_layers: of the token decoder.
        feed_forward, intermediate_size, token_intermediate_size, feed_forward_bias, parallel_residual, norm, norm_eps,
            dropout, mixer_dropout: as in `tokenmix.models.MixerConfig`, for both decoders.
        random_offset: in training, leave 0 to L_B - 1 places empty at the start of each row that has no positions, so
            that the model knows prompts of any length (the paper's random-length padding).
        max_position_embeddings: most tokens of a document; None for no limit.
        initializer_range: standard deviation of embeddings and linear layers outside the mixers, but for the bridge
            and the projection, which start as published; default hidden_size ** -0.5.
        initialize_mixers: draw the parameters of mixers as their own papers do; False draws their linear layers as all
            others, with zero biases.
        rescale_residual: start the last projection of each branch divided by the square root of the number of
            branches of its decoder.
        tie_word_embeddings: whether the output layer is the token decoder's embedding.
        use_cache: whether inference returns a cache.
        pad_token_id, bos_token_id, eos_token_id: special tokens, where there are any.
        kwargs: what transformers keeps in every configuration.

    Raises:
        ValueError: sizes that do not fit, an unknown mixer, letter or option (with the nearest names), or a mixer that
            is not causal.

    Example:
        >>> config = BlockTransformerConfig(
        ...     hidden_size=64,
        ...     block_mixers={"m": {"mixer": "mamba2", "head_dim": 16}},
        ...     block_pattern="mm",
        ...     token_mixers={"g": {"mixer": "gam", "slots": 32}},
        ...     token_pattern="gg",
        ... )
        >>> config.num_hidden_layers
        4

    Source:
        Ho et al. 2024, arXiv 2406.02657; defaults of the authors' configs, but for norm, feed-forward and rotary
        positions, which are `MixerConfig`'s; `paper` gives the published settings.
    """

    model_type = "block_transformer"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "past_key_values"]

    vocab_size: int = 256
    block_length: int = 4
    hidden_size: int = 256
    token_hidden_size: int | None = None
    embedder: str = "lookup"
    block_embeddings: int = 1
    cls_tokens: int | None = None
    cls_layers: int = 3
    cls_heads: int = 4
    token_decoder: str = "prefix"
    expansion: int | None = None
    cross_heads: int = 8
    block_mixers: dict[str, Any] = dataclasses.field(default_factory=lambda: {"a": dict(_ATTENTION)})
    block_pattern: str = "a"
    num_block_layers: int | None = None
    token_mixers: dict[str, Any] = dataclasses.field(default_factory=lambda: {"a": dict(_ATTENTION)})
    token_pattern: str = "a"
    num_token_layers: int | None = None
    feed_forward: str | dict[str, str | None] | None = "swiglu"
    intermediate_size: int | None = None
    token_intermediate_size: int | None = None
    feed_forward_bias: bool = False
    parallel_residual: bool = False
    norm: str = "rmsnorm"
    norm_eps: float = 1e-5
    dropout: float | int = 0.0
    mixer_dropout: float | None = None
    random_offset: bool = True
    max_position_embeddings: int | None = None
    initializer_range: float | None = None
    initialize_mixers: bool = True
    rescale_residual: bool = True
    tie_word_embeddings: bool = False
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        drop_code_fields(kwargs)
        refuse_misspelt_fields(BlockTransformerConfig, kwargs)
        optional = (
            "token_hidden_size", "intermediate_size", "token_intermediate_size", "expansion", "cls_tokens",
            "max_position_embeddings",
        )  # fmt: skip
        sizes = ("vocab_size", "block_length", "hidden_size", "block_embeddings", "cls_layers")
        for name in ("block_mixers", "token_mixers"):
            if not isinstance(getattr(self, name), dict):
                raise TypeError(f"{name}: expected {{letter: {{'mixer': name}}}}, found {getattr(self, name)!r}")
        if "num_hidden_layers" in kwargs:
            raise ValueError(
                "num_hidden_layers: expected num_block_layers and num_token_layers, found "
                f"num_hidden_layers={kwargs['num_hidden_layers']!r}"
            )
        for name in (*sizes, "cls_heads", "cross_heads", *optional):
            if name not in optional or getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        for name, known in (("embedder", EMBEDDERS), ("token_decoder", TOKEN_DECODERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {known}, found {getattr(self, name)!r}")
        if self.token_hidden_size is None:
            self.token_hidden_size = self.hidden_size
        if self.cls_tokens is None:
            self.cls_tokens = 1 if self.hidden_size * self.block_embeddings % 3 else 3
        if self.expansion is None:
            self.expansion = 2 if self.token_decoder == "prefix" else self.block_length // self.block_embeddings
        if self.initializer_range is None:
            self.initializer_range = self.hidden_size**-0.5
        if self.initializer_range <= 0:
            raise ValueError(f"initializer_range: expected a positive number, found {self.initializer_range}")
        block, token = self.check_mixers()
        self.num_block_layers, self.num_token_layers = len(block.layers), len(token.layers)
        super().__post_init__(**kwargs)

    def check_mixers(self) -> tuple[ModelStack, ModelStack]:
        """Refuse mixers that read the future; models ask again, since a field may have been set later.

        Returns:
            The block decoder and the token decoder, without memory for their weights.

        Raises:
            ValueError: such a mixer, or sizes of blocks that do not fit.
        """
        self._check_blocks()
        with torch.device("meta"):
            block, token = self.build_block_stack(), self.build_token_stack()
        for name, stack, unit in (("block_mixers", block, self.block_embeddings), ("token_mixers", token, 1)):
            for letter, mixer in zip(stack.letters, stack.mixers, strict=True):
                if not mixer.is_causal and (mixer.step == 0 or unit % mixer.step):
                    raise ValueError(
                        f"{name}: expected causal mixers, found {letter!r}: {getattr(self, name)[letter]}, which reads "
                        "the future"
                    )
        return block, token

    def _check_blocks(self) -> None:
        length, each = self.block_length, self.block_embeddings
        if length % each:
            raise ValueError(f"block_embeddings: expected a divisor of block_length={length}, found {each}")
        if self.embedder == "lookup" and (self.hidden_size * each) % length:
            raise ValueError(
                f"hidden_size: expected a multiple of block_length / block_embeddings = {length // each} for "
                f"embedder='lookup', found {self.hidden_size}"
            )
        if self.embedder == "cls" and self.cls_tokens is not None:
            check_divides("cls_tokens", self.cls_tokens, "hidden_size * block_embeddings", self.hidden_size * each)
            width = self.hidden_size * each // self.cls_tokens
            check_divides("cls_heads", self.cls_heads, "hidden_size * block_embeddings / cls_tokens", width)
        if self.token_decoder == "cross_attention":
            width = self.token_hidden_size or self.hidden_size
            check_divides("cross_heads", self.cross_heads, "token_hidden_size", width)
        if isinstance(self.feed_forward, dict):
            known = set(self.block_mixers) | set(self.token_mixers)
            if unknown := sorted(set(self.feed_forward) - known):
                raise ValueError(f"feed_forward: expected letters of mixers {sorted(known)}, found {unknown}")
        if self.token_decoder == "summation" and self.vectors != length:
            raise ValueError(
                f"expansion: expected block_length / block_embeddings = {length // each} for "
                f"token_decoder='summation', found {self.expansion}"
            )

    @property
    def num_hidden_layers(self) -> int:
        """Layers of both decoders."""
        return int(self.num_block_layers or 0) + int(self.num_token_layers or 0)

    @property
    def vectors(self) -> int:
        """What the token decoder reads of a block: `block_embeddings * expansion` vectors."""
        return self.block_embeddings * int(self.expansion or 0)

    def build_block_stack(self) -> ModelStack:
        """The block decoder."""
        mixers = {letter: in_groups(mixer, self.block_embeddings) for letter, mixer in self.block_mixers.items()}
        return self._build_stack("block", mixers, self.hidden_size, self.intermediate_size)

    def build_token_stack(self) -> ModelStack:
        """The token decoder."""
        width = self.token_hidden_size or self.hidden_size
        return self._build_stack("token", self.token_mixers, width, self.token_intermediate_size)

    def _build_stack(self, which: str, mixers: dict[str, Any], width: int, hidden: int | None) -> ModelStack:
        layers, feed_forward = getattr(self, f"num_{which}_layers"), self.feed_forward
        if layers is not None:
            check_positive(f"num_{which}_layers", layers)
        if isinstance(feed_forward, dict):
            feed_forward = {letter: kind for letter, kind in feed_forward.items() if letter in mixers}
        try:
            return ModelStack(
                width,
                mixers,
                getattr(self, f"{which}_pattern"),
                layers=layers,
                feed_forward=feed_forward,
                feed_forward_dim=hidden,
                feed_forward_bias=self.feed_forward_bias,
                parallel_residual=self.parallel_residual,
                norm=self.norm,
                norm_eps=self.norm_eps,
                dropout=self.dropout,
                mixer_dropout=self.mixer_dropout,
            )
        except (ValueError, TypeError) as error:
            plain = str(error).startswith(("pattern", "mixers"))
            raise type(error)(f"{which}_{error}" if plain else f"{which}_mixers: {error}") from error

    @classmethod
    def paper(cls, size: str, **options: Any) -> BlockTransformerConfig:
        """A published setting: Pythia's layers, and a block of 4 tokens.

        Args:
            size: parameters but for embeddings: "5M", "19M", "85M", "302M", "805M" or "1.2B".
            options: other values of fields.

        Raises:
            ValueError: another size.

        Example:
            >>> config = BlockTransformerConfig.paper("85M")
            >>> config.num_block_layers, config.hidden_size, config.vocab_size
            (6, 768, 50304)
        """
        return cls(**published(size) | options)
