"""The description of a FIT model."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from tokenmix.mixer import TokenMixer, build_mixer, check_divides, check_positive, get_mixer
from tokenmix.models.config_fields import drop_code_fields, in_groups, refuse_misspelt_fields
from tokenmix.models.fit.layers import parse_layers
from tokenmix.models.stack import ModelStack

_ATTENTION = {"mixer": "attention", "heads": 4, "bias": True}


@strict
class FITConfig(PreTrainedConfig):
    """Configuration of `FITModel` and `FITForCausalLM`.

    Args:
        vocab_size: number of tokens in the vocabulary; default 256, which is bytes, where there is no `input_size`.
        input_size: width of the features that are read instead of tokens.
        hidden_size: D, width of the tokens' features.
        latent_size: D_l, width of the latents.
        group_size: n, tokens a group.
        latents: m, latents a group.
        max_groups: t, most groups of a document; the latents start from a table of [t * m, D_l].
        layers: local layers, in parentheses, and global ones, stage by stage: "(2)4(2)".
        causal: whether a token reads the past only (the paper's FIT-AR).
        local_mixer: description of the mixer of the tokens of a group. Where it says nothing of `causal`, it gets that
            of the model.
        latent_mixer: of the latents of all groups. In a causal model, "attention" gets `group`: the latents of a group
            see each other.
        cross_heads: heads of the cross-attentions; default the smaller number of the two mixers that have heads.
        cross_query_norm: normalise what reads in a cross-attention, and not only what is read.
        feed_forward: "gelu", "swiglu" or None.
        intermediate_size, latent_intermediate_size: widths inside the feed-forwards; default 4 times D and D_l.
        bias: biases in feed-forwards and cross-attentions; those of a mixer are its own option.
        norm_eps: added to the variance in all layer norms.
        dropout: share of features dropped in training, after the branches of local and global layers.
        output_bias: whether the language model's output layer has a bias.
        initializer_range: standard deviation of linear layers and embeddings outside the mixers, which draw their own
            parameters as published; default hidden_size ** -0.5.
        rescale_residual: start the last projection of each branch divided by the square root of the number of
            branches that are added to the tokens, or to the latents.
        tie_word_embeddings: whether the output layer is the embedding.
        use_cache: whether the language model returns a cache in inference.
        pad_token_id, bos_token_id, eos_token_id: special tokens, where there are any.
        kwargs: what transformers keeps in every configuration.

    Raises:
        ValueError, TypeError: sizes that do not fit, an unknown mixer or option (with the nearest names), or a mixer
            that reads the future in a causal model, or only the past in one that is not.

    Example:
        >>> config = FITConfig(hidden_size=64, latent_size=96, group_size=16, latents=4, max_groups=32)
        >>> config.max_position_embeddings, config.num_hidden_layers
        (512, 8)

    Source:
        Chen and Li 2023, arXiv 2305.12689. Norms, biases, heads and widths of the cross-attentions are those of the
        authors' code (google-research/pix2seq), which norms what reads in a cross-attention too; with
        cross_query_norm=False only what is read is normed. Sizes are ours.
    """

    model_type = "fit"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "past_key_values", "latents", "latent_mask"]

    vocab_size: int | None = None
    input_size: int | None = None
    hidden_size: int = 256
    latent_size: int = 256
    group_size: int = 32
    latents: int = 4
    max_groups: int = 64
    layers: str = "(2)4(2)"
    causal: bool = True
    local_mixer: dict[str, Any] | str = dataclasses.field(default_factory=lambda: dict(_ATTENTION))
    latent_mixer: dict[str, Any] | str = dataclasses.field(default_factory=lambda: dict(_ATTENTION))
    cross_heads: int | None = None
    cross_query_norm: bool = True
    feed_forward: str | None = "gelu"
    intermediate_size: int | None = None
    latent_intermediate_size: int | None = None
    bias: bool = True
    norm_eps: float = 1e-6
    dropout: float | int = 0.0
    output_bias: bool = True
    initializer_range: float | None = None
    rescale_residual: bool = True
    tie_word_embeddings: bool = True
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        drop_code_fields(kwargs)
        refuse_misspelt_fields(FITConfig, kwargs)
        for name, instead in (("num_hidden_layers", "layers"), ("max_position_embeddings", "max_groups * group_size")):
            if name in kwargs:
                raise ValueError(f"{name}: expected {instead} to say it, found {name}={kwargs[name]!r}")
        if self.vocab_size is not None and self.input_size is not None:
            raise ValueError(
                f"input_size: expected either vocab_size or input_size, found {self.vocab_size} and {self.input_size}"
            )
        if self.vocab_size is None and self.input_size is None:
            self.vocab_size = 256
        optional = ("vocab_size", "input_size", "intermediate_size", "latent_intermediate_size", "cross_heads")
        for name in ("hidden_size", "latent_size", "group_size", "latents", "max_groups", *optional):
            if name not in optional or getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if self.initializer_range is None:
            self.initializer_range = self.hidden_size**-0.5
        for name in ("initializer_range", "norm_eps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a positive number, found {getattr(self, name)}")
        parse_layers(self.layers)
        self.local_mixer = self._complete("local_mixer")
        self.latent_mixer = self._complete("latent_mixer")
        local, latent = self.check_mixers()
        width = min(self.hidden_size, self.latent_size)
        if self.cross_heads is None:
            found: list[Any] = [getattr(mixer, "heads", None) for mixer in (local, latent)]
            self.cross_heads = min((heads for heads in found if isinstance(heads, int)), default=math.gcd(8, width))
        check_divides("cross_heads", self.cross_heads, "min(hidden_size, latent_size)", width)
        super().__post_init__(**kwargs)

    def check_mixers(self) -> tuple[TokenMixer, TokenMixer]:
        """Refuse mixers that read what the mode forbids; models ask again, since a field may have been set later.

        Returns:
            A local and a latent mixer, without memory for their weights.

        Raises:
            ValueError: such a mixer.
        """
        with torch.device("meta"):
            local = self._check_mixer("local_mixer", self.hidden_size, 1)
            latent = self._check_mixer("latent_mixer", self.latent_size, self.latents)
            self.build_stack("local", 1)
            self.build_stack("latent", 1)
        return local, latent

    @property
    def num_hidden_layers(self) -> int:
        """Local and global layers together."""
        return sum(sum(stage) for stage in parse_layers(self.layers))

    @property
    def max_position_embeddings(self) -> int:
        """Most tokens of a document: max_groups * group_size."""
        return self.max_groups * self.group_size

    def build_stack(self, which: str, layers: int) -> ModelStack:
        """So many local ("local") or global ("latent") layers, without a final norm."""
        local = which == "local"
        return ModelStack(
            self.hidden_size if local else self.latent_size,
            {"a": self._described(f"{which}_mixer")},
            "a",
            layers=layers,
            feed_forward=self.feed_forward,
            feed_forward_dim=self.intermediate_size if local else self.latent_intermediate_size,
            feed_forward_bias=self.bias,
            norm="layernorm",
            norm_eps=self.norm_eps,
            dropout=self.dropout,
            final_norm=False,
        )

    def _complete(self, name: str) -> dict[str, Any]:
        """The description with what the model says of it."""
        given = getattr(self, name)
        described = {"mixer": given} if isinstance(given, str) else dict(given)
        if "mixer" not in described:
            raise ValueError(f"{name}: expected a key 'mixer' with the mixer's name, found keys {sorted(described)}")
        try:
            optional = get_mixer(described["mixer"]).causal == "optional"
        except (ValueError, TypeError) as error:
            raise type(error)(f"{name}: {error}") from error
        if optional:
            described.setdefault("causal", self.causal)
        return described

    def _described(self, name: str) -> dict[str, Any]:
        """The description; in a causal model, attention lets the latents of a group see each other."""
        described: dict[str, Any] = getattr(self, name)
        return in_groups(described, self.latents) if name == "latent_mixer" and self.causal else described

    def _check_mixer(self, name: str, dim: int, group: int) -> TokenMixer:
        """Build it, and refuse one that reads what it should not."""
        described = self._described(name)
        try:
            mixer = build_mixer(described, dim)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{name}: {error}") from error
        in_groups = self.causal and mixer.step > 1
        if mixer.is_causal != self.causal and not in_groups:
            wanted = "a causal mixer" if self.causal else "a mixer that reads both ways"
            found = "reads only the past" if mixer.is_causal else "reads the future"
            raise ValueError(f"{name}: expected {wanted} with causal={self.causal}, found {described}, which {found}")
        if mixer.needs:
            raise ValueError(
                f"{name}: expected a mixer of sequences, found {described}, which needs {', '.join(mixer.needs)}"
            )
        if in_groups and group % mixer.step:
            wanted = "1" if group == 1 else f"a divisor of latents={group}"
            raise ValueError(f"{name}: expected group to be {wanted}, or it reads the future, found {mixer.step}")
        return mixer
