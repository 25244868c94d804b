"""The one interface of everything that mixes tokens, and the registry that builds it by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from tokenmix.attention_weights import AttentionShape, AttentionWeights
from tokenmix.layout import Layout, put_tokens, take_tokens
from tokenmix.nearest import nearest
from tokenmix.ops import common
from tokenmix.state import MixerState

Causality = Literal["always", "optional", "never"]


class TokenMixer(nn.Module):
    """A rule for which tokens a token may read, and how.

    Features (B, L, dim) in, features (B, L, dim) out. Residuals, norms and feed-forwards belong to
    `tokenmix.blocks`. A mixer implements `mix`; `forward` checks the input, brings the real tokens of
    each row to its front where order matters, zeroes padding on entry and exit, and keeps count in
    the state. So `mix` meets right padding only.

    Class attributes say what the mixer is, and `tokenmix.laws.check_mixer` checks what they say:

    - `causal`: "always", "optional" or "never" (an instance says which it is in `is_causal`);
    - `needs`: Layout fields it cannot do without;
    - `cost`: growth of the arithmetic in the length L, such as "L", "L*w" or "L^2";
    - `equivariance`: such as ("permutation",) or ("se3",); an instance may narrow it;
    - `step`: of how many tokens the chunks are made that it reads with a state: 1 for a causal instance, 0 for one that
      takes no state, and more for one that is causal in whole groups of tokens only (and so says is_causal=False);
    - `ordered`: whether the place of a token in its row matters (convolutions, scans, windows);
    - `paper`: authors, year, arXiv id; `lora_targets`: names of the projections that LoRA adapts;
      `residual_projection`: name of the last one, which deep models start smaller; `norms_its_input`: whether it begins
      with a norm of its own; `shared_modules`: names of linear layers and norms that read something else than tokens
      (edges, codes), and so have no parameters for each modality.

    Args:
        dim: width of the features.
        is_causal: whether this instance reads only the past.

    Example:
        >>> class Mean(TokenMixer):
        ...     causal = "never"
        ...     def mix(self, x, layout, state):
        ...         counts = x.shape[1] if layout.mask is None else layout.counts()[:, None, None].clamp(min=1)
        ...         return (x.sum(1, keepdim=True) / counts).expand_as(x)
        >>> Mean(dim=4)(torch.ones(1, 3, 4)).shape
        torch.Size([1, 3, 4])
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    causal: Causality = "never"
    needs: tuple[str, ...] = ()
    cost: str = "L^2"
    equivariance: tuple[str, ...] = ()
    ordered: bool = True
    lora_targets: tuple[str, ...] = ()
    residual_projection: ClassVar[str | None] = None
    norms_its_input: ClassVar[bool] = False
    shared_modules: ClassVar[tuple[str, ...]] = ()

    def __init__(self, dim: int, *, is_causal: bool | None = None) -> None:
        super().__init__()
        check_positive("dim", dim)
        self.dim = dim
        if is_causal is None:
            is_causal = self.causal != "never"
        if not isinstance(is_causal, bool):
            raise TypeError(f"causal: expected True or False, found {is_causal!r}")
        if (is_causal and self.causal == "never") or (not is_causal and self.causal == "always"):
            raise ValueError(f"causal: {type(self).__name__} is causal {self.causal!r}, found causal={is_causal}")
        self.is_causal = is_causal
        self.step = int(is_causal)
        self._signature: tuple[object, ...] | None = None

    def forward(self, x: Tensor, layout: Layout | None = None, state: MixerState | None = None) -> Tensor:
        """Mix tokens.

        Args:
            x: (B, L, dim) features.
            layout: where the tokens live; default a plain sequence without padding.
            state: from `init_state`; read, and advanced in place. The same call serves prefill,
                chunks and single steps.

        Returns:
            (B, L, dim); zero at padding.

        Raises:
            ValueError, TypeError: input of another shape, type or device, a layout that does not fit or
                lacks a field that the mixer needs, or a state for a mixer that is not causal.
        """
        layout = self._check(x, layout, state)
        order = None
        if self.ordered:
            layout, order = layout.aligned(streamed=state is not None)
            if order is not None:
                x = take_tokens(x, order)
        if layout.mask is not None:
            x = x.masked_fill(~layout.mask[..., None], 0)
        y = self.mix(x, layout, state)
        if state is not None:
            state.advance(x.shape[1], layout)
        if layout.mask is not None:
            y = y.masked_fill(~layout.mask[..., None], 0)
        return y if order is None else put_tokens(y, order)

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        """What a mixer implements: as `forward`, for checked input with padding zeroed (and last, if `ordered`)."""
        raise TypeError(f"{type(self).__name__} must implement mix(x, layout, state)")

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> MixerState:
        """An empty memory for `batch_size` rows.

        Args:
            batch_size: number of rows.
            device, dtype: of what depends on activations; default those of the parameters. States of
                recurrences are float32 in any case.

        Raises:
            ValueError: if this mixer is not causal.
        """
        if self.step == 0:
            raise ValueError(f"{type(self).__name__} is not causal here, so it has no state to run step by step")
        parameter = next(self.parameters(), torch.empty(0))
        state = MixerState(batch_size, device=device or parameter.device)
        self.fill_state(state, dtype or parameter.dtype)
        state.sign(type(self).__name__)
        return state

    def fill_state(self, state: MixerState, dtype: torch.dtype) -> None:
        """What a causal mixer implements to declare its tensors in an empty state."""

    def state_numel(self, length: int) -> int:
        """Numbers kept for one row after `length` tokens (the laws compare it with the state's bytes)."""
        state = self.init_state(1, device="meta", dtype=torch.float32)
        state.length = length
        return state.nbytes // 4

    def reach(self, layout: Layout, length: int) -> Tensor | None:
        """(B, L, L) bool, True at [b, i, j] where output i of one layer may depend on token j; None if not known."""
        return None

    def reset_parameters(self) -> None:
        """Draw the parameters anew, as published."""

    @classmethod
    def options_like(cls, attention: AttentionShape) -> dict[str, Any]:
        """Constructor options that fit the mixer to the attention it takes the place of; explicit ones go before."""
        return {"causal": attention.causal} if cls.causal == "optional" else {}

    def take_attention(self, weights: AttentionWeights) -> tuple[str, ...]:
        """Copy what there is a place for of the attention it replaces, and say what: of "q", "k", "v" and "o"."""
        return ()

    def _check(self, x: Tensor, layout: Layout | None, state: MixerState | None) -> Layout:
        who = type(self).__name__
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"x: expected a floating point tensor, found {getattr(x, 'dtype', type(x).__name__)}")
        if x.dim() != 3 or x.shape[2] != self.dim:
            raise ValueError(f"x: {who} expected shape (B, L, dim={self.dim}), found {tuple(x.shape)}")
        if x.shape[0] < 1 or x.shape[1] < 1:
            raise ValueError(f"x: {who} expected at least one row and one token, found shape {tuple(x.shape)}")
        if layout is None:
            layout = Layout()
        elif not isinstance(layout, Layout):
            raise TypeError(f"layout: expected a tokenmix.Layout, found {type(layout).__name__}")
        if self.needs and (missing := [field for field in self.needs if getattr(layout, field) is None]):
            raise ValueError(f"layout: {who} needs {', '.join(missing)}, found only {list(layout.fields())}")
        layout.validate(x.shape[0], x.shape[1], x.device)
        if state is not None:
            if self.step == 0:
                raise ValueError(f"state: {who} is not causal here and takes none")
            if not isinstance(state, MixerState):
                raise TypeError(f"state: {who} expected a MixerState from init_state, found {type(state).__name__}")
            if self._signature is None:
                self._signature = self.init_state(1, device="meta").signature
            if state.signature != self._signature:
                raise ValueError(f"state: expected one made by this {who}, {self._signature}, found {state.signature}")
            if state.batch_size != x.shape[0]:
                raise ValueError(f"state: expected one for {x.shape[0]} rows, found {state.batch_size}")
        return layout


check_positive = common.check_positive  # for mixers and models


def set_parameter(parameter: nn.Parameter, value: Tensor) -> None:
    """Initialise a parameter, unless Hugging Face's loader has marked it as loaded from a checkpoint."""
    if not getattr(parameter, "_is_hf_initialized", False):
        with torch.no_grad():
            parameter.copy_(value)


@torch.no_grad()
def copy_linear(linear: nn.Linear, weight: Tensor, bias: Tensor | None = None) -> None:
    """Set a linear layer to a matrix and a bias; a layer with a bias gets zeros where none is given."""
    linear.weight.copy_(weight)
    if linear.bias is not None:
        linear.bias.zero_() if bias is None else linear.bias.copy_(bias)


def check_divides(name: str, value: int, of_name: str, of: int) -> None:
    """Refuse a value that does not divide another."""
    check_positive(name, value)
    if of % value:
        raise ValueError(f"{name}: expected a divisor of {of_name}={of}, found {value}")


# ---------------------------------------------------------------------- registry

M = TypeVar("M", bound=type[TokenMixer])
_REGISTRY: dict[str, type[TokenMixer]] = {}


def register_mixer(name: str) -> Callable[[M], M]:
    """Make a mixer known under a name, for `build_mixer`, model configs, YAML and the command line.

    Raises:
        ValueError: if another class has the name already.

    Example:
        >>> @register_mixer("identity_example")
        ... class Identity(TokenMixer):
        ...     def mix(self, x, layout, state):
        ...         return x
        >>> build_mixer("identity_example", dim=8).dim
        8
        >>> _ = _REGISTRY.pop("identity_example")
    """

    def register(cls: M) -> M:
        known = _REGISTRY.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"name: {name!r} is taken by {known.__module__}.{known.__qualname__}")
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return register


def list_mixers() -> dict[str, type[TokenMixer]]:
    """Registered mixers by name, in alphabetical order."""
    return dict(sorted(_REGISTRY.items()))


def get_mixer(name: str) -> type[TokenMixer]:
    """The class registered under a name.

    Raises:
        ValueError: unknown name, with the nearest ones.
    """
    if not isinstance(name, str):
        raise TypeError(f"mixer: expected a name, found {name!r}")
    if name not in _REGISTRY:
        raise ValueError(f"mixer: unknown name {name!r}; {nearest(name, sorted(_REGISTRY), 3)}")
    return _REGISTRY[name]


def build_mixer(spec: str | Mapping[str, Any], dim: int) -> TokenMixer:
    """Build a mixer from its description.

    Args:
        spec: a name, or a mapping with the name (or a class) under "mixer" and the constructor's keywords.
        dim: width of the features.

    Raises:
        ValueError: unknown name or keyword (with the nearest ones), or a value that the mixer refuses.

    Example:
        >>> build_mixer({"mixer": "sliding_window", "heads": 4, "window": 16}, dim=32).window
        16
    """
    options = {"mixer": spec} if isinstance(spec, str) else dict(spec)
    if "mixer" not in options:
        raise ValueError(f"spec: expected a key 'mixer' with the mixer's name, found keys {sorted(options)}")
    named = options.pop("mixer")
    cls: type[TokenMixer] = named if isinstance(named, type) else get_mixer(named)
    accepted = sorted(p for p in inspect.signature(cls).parameters if p != "dim")
    for key in options:
        if key == "dim":
            raise ValueError("spec: dim is that of the model and cannot be set for one mixer")
        if key not in accepted:
            raise ValueError(
                f"{key}: not an argument of mixer {cls.name or cls.__name__!r}; {nearest(key, accepted, 3)}"
            )
    return cls(dim, **options)
