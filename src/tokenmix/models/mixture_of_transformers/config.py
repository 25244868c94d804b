"""The description of a Mixture-of-Transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor

from tokenmix.mixer import check_positive
from tokenmix.models.config import MixerConfig
from tokenmix.models.stack import ModelStack
from tokenmix.models.stack_fields import build_stack
from tokenmix.nearest import nearest

OBJECTIVES = ("regression", "diffusion")
_KEYS = ("vocab_size", "input_size", "objective", "begin", "end", "length")


@strict
class MixtureOfTransformersConfig(MixerConfig):
    """Configuration of `MixtureOfTransformersModel` and `MixtureOfTransformersForCausalLM`.

    All modalities share one vocabulary: the tokens of the first modality come first, then those of the second, and so
    on, so a token's id says which modality it is of.

    Args:
        modalities: name -> what its tokens are, in the order of their numbers (kept as a list, each with its "name",
            since transformers sorts the keys that it writes). {"vocab_size": n} has n discrete tokens;
            {"input_size": F, "objective": "regression" or "diffusion"} has F real numbers a token (a patch) and one id
            that stands in its place. For `ModalityGrammar`: "begin", the id of the token (of another modality) that a
            span follows; "end", the id of the one behind it; "length", the number of tokens where it is fixed.
        untied: norms, feed-forwards and the projections of mixers have parameters for each modality; False is the
            dense model with the same embeddings and heads.
        norm_placement: "post_branch" as published, or "pre".
        feature_loss_weight: factor of the squared error of a continuous token against the nats of a discrete one (5 in
            Transfusion, between the means of both).
        intermediate_size: default 2/3 * 4 * hidden_size, rounded up to a multiple of 256, as published.
        vocab_size: the sum over modalities, and nothing else.
        kwargs: the fields of `tokenmix.models.MixerConfig`. In "attention" layers the tokens of a modality with
            objective "diffusion" read their span to its end; other mixers read it causally.

    Raises:
        ValueError, TypeError: a modality that is neither, or both; an unknown key (with the nearest); what
            `MixerConfig` refuses.

    Example:
        >>> config = MixtureOfTransformersConfig(
        ...     hidden_size=32,
        ...     mixers={"a": {"mixer": "attention", "heads": 4, "rope": True}},
        ...     modalities={"text": {"vocab_size": 100}, "image": {"vocab_size": 256}},
        ... )
        >>> config.vocab_size, config.first_token("image"), config.intermediate_size
        (356, 100, 256)

    Source:
        Liang et al. 2024, arXiv 2411.04996; continuous modalities: Zhou et al. 2024 (Transfusion), arXiv 2408.11039.
    """

    model_type = "mixture_of_transformers"

    modalities: dict[str, Any] | list[Any] = dataclasses.field(default_factory=lambda: {"text": {"vocab_size": 256}})
    untied: bool = True
    norm_placement: str = "post_branch"
    feature_loss_weight: float | int = 5.0
    vocab_size: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        self._settle_modalities()
        if not isinstance(self.untied, bool):
            raise TypeError(f"untied: expected True or False, found {self.untied!r}")
        total = sum(token_count(spec) for spec in self.specs.values())
        if self.vocab_size not in (0, total):
            raise ValueError(f"vocab_size: expected {total}, the sum over modalities, found {self.vocab_size}")
        self.vocab_size = total
        for name, spec in self.specs.items():
            for key in ("begin", "end"):
                value = spec.get(key)
                if value is not None and (type(value) is not int or not 0 <= value < total):
                    raise ValueError(f"modalities: {name}: {key}: expected an id below {total}, found {value!r}")
                if value is not None and value in self.token_range(name):
                    raise ValueError(f"modalities: {name}: {key}: expected a token of another modality, found {value}")
            if spec.get("begin") is not None and spec.get("begin") == spec.get("end"):
                raise ValueError(f"modalities: {name}: end: expected another token than begin, found {spec['end']}")
        begins = [spec["begin"] for spec in self.specs.values() if spec.get("begin") is not None]
        if len(set(begins)) < len(begins):
            raise ValueError(f"modalities: begin: expected a token of its own for each span, found {begins}")
        if self.intermediate_size is None and self.feed_forward is not None:
            self.intermediate_size = -(-int(8 * self.hidden_size / 3) // 256) * 256
        if self.feature_loss_weight < 0:
            raise ValueError(f"feature_loss_weight: expected at least 0, found {self.feature_loss_weight}")
        super().__post_init__(**kwargs)

    def _settle_modalities(self) -> None:
        """A list of mappings with a name each, whichever of both forms came."""
        given: Any = self.modalities
        if isinstance(given, Mapping):
            given = [{"name": name, **_mapping(name, spec)} for name, spec in given.items()]
        if not isinstance(given, list) or not given:
            raise ValueError(f"modalities: expected {{name: {{'vocab_size': n}}, ...}}, found {self.modalities!r}")
        names = [_mapping(str(index), spec).get("name") for index, spec in enumerate(given)]
        if None in names or len(set(names)) < len(names):
            raise ValueError(f"modalities: expected a name of its own for each, found {names}")
        for spec in given:
            _check_spec(spec["name"], {key: value for key, value in spec.items() if key != "name"})
        self.modalities = [dict(spec) for spec in given]

    @property
    def specs(self) -> dict[str, dict[str, Any]]:
        """What the tokens of each modality are, by its name, in the order of their numbers."""
        settled: Any = self.modalities  # a list of mappings
        return {spec["name"]: spec for spec in settled}

    @property
    def names(self) -> list[str]:
        """Of the modalities, in the order of their numbers."""
        return list(self.specs)

    def first_token(self, name: str) -> int:
        """The id of a modality's first token.

        Raises:
            ValueError: an unknown modality, with the nearest.
        """
        total = 0
        for other, spec in self.specs.items():
            if other == name:
                return total
            total += token_count(spec)
        raise ValueError(f"name: unknown modality {name!r}; {nearest(name, self.names)}")

    def token_range(self, name: str) -> range:
        """The ids of a modality's tokens."""
        first = self.first_token(name)
        return range(first, first + token_count(self.specs[name]))

    def modality_of(self, tokens: Tensor) -> Tensor:
        """The number of each token's modality.

        Example:
            >>> import torch
            >>> config = MixtureOfTransformersConfig(modalities={"a": {"vocab_size": 2}, "b": {"vocab_size": 3}})
            >>> config.modality_of(torch.tensor([[0, 1, 2, 4]])).tolist()
            [[0, 0, 1, 1]]
        """
        modality = tokens.new_zeros(tokens.shape)
        for name in self.names[1:]:
            modality = modality + (tokens >= self.first_token(name))
        return modality

    def continuous(self, objective: str | None = None) -> dict[str, int]:
        """Names of continuous modalities, with their numbers; those of one objective alone, where one is given."""
        return {
            name: number
            for number, (name, spec) in enumerate(self.specs.items())
            if "input_size" in spec and objective in (None, spec["objective"])
        }

    @property
    def feature_size(self) -> int:
        """Numbers a token of the widest continuous modality; 0 where none is."""
        return max((self.specs[name]["input_size"] for name in self.continuous()), default=0)

    def build_stack(self) -> ModelStack:
        """The layers that this configuration describes."""
        return build_stack(
            self,
            mixers={letter: self._with_spans(spec) for letter, spec in self.mixers.items()},
            parallel_residual=self.parallel_residual,
            norm_placement=self.norm_placement,
            modalities=len(self.modalities) if self.untied else None,
        )

    def _with_spans(self, spec: Any) -> Any:
        spans = list(self.continuous("diffusion").values())
        described = {"mixer": spec} if isinstance(spec, str) else dict(spec)
        if not spans or described.get("mixer") != "attention":
            return spec
        described.pop("causal", None)
        return described | {"mixer": "span_attention", "spans": spans}


def _mapping(name: str, spec: Any) -> Mapping[str, Any]:
    if not isinstance(spec, Mapping):
        raise TypeError(f"modalities: {name}: expected a mapping such as {{'vocab_size': n}}, found {spec!r}")
    return spec


def _check_spec(name: str, spec: Mapping[str, Any]) -> None:
    for key in spec:
        if key not in _KEYS:
            raise ValueError(f"modalities: {name}: unknown key {key!r}; {nearest(key, _KEYS)}")
    if ("vocab_size" in spec) == ("input_size" in spec):
        raise ValueError(f"modalities: {name}: expected either vocab_size or input_size, found {sorted(spec)}")
    size = "vocab_size" if "vocab_size" in spec else "input_size"
    check_positive(f"modalities: {name}: {size}", spec[size])
    if spec.get("length") is not None:
        check_positive(f"modalities: {name}: length", spec["length"])
    objective = spec.get("objective")
    if (size == "input_size") != (objective in OBJECTIVES):
        wanted = f"one of {OBJECTIVES}" if size == "input_size" else "none for discrete tokens"
        raise ValueError(f"modalities: {name}: objective: expected {wanted}, found {objective!r}")


def token_count(spec: Mapping[str, Any]) -> int:
    """Ids of a modality: of its tokens, or the one that stands for a patch."""
    return int(spec.get("vocab_size", 1))
