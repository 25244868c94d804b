"""Blocks and stacks: norm, mixer, feed-forward, and patterns of named mixers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenmix.feed_forward import FEED_FORWARDS
from tokenmix.layout import Layout, put_tokens, take_tokens
from tokenmix.mixer import TokenMixer, build_mixer, check_positive
from tokenmix.stack_state import StackState
from tokenmix.state import MixerState

__all__ = ["NORMS", "MixerBlock", "Stack", "StackState", "resolve_pattern"]

NORMS: dict[str, Callable[..., nn.Module]] = {"rmsnorm": nn.RMSNorm, "layernorm": nn.LayerNorm}


class MixerBlock(nn.Module):
    """x += mixer(norm(x)); x += feed_forward(norm(x)), the second where there is a feed-forward.

    With `parallel`, as in GPT-NeoX: x += mixer(norm_1(x)) + feed_forward(norm_2(x)).

    Args:
        mixer: any token mixer.
        feed_forward: "swiglu", "gelu", or None for a block of the mixer alone (Mamba's).
        feed_forward_dim: inner width of the feed-forward; default its own.
        norm: "rmsnorm" or "layernorm".
        norm_eps: added to the variance.
        dropout: on both branches, before they are added.
        mixer_dropout: on the mixer's branch instead; default that of `dropout` (GAM's paper has none there).
        feed_forward_bias: biases in the feed-forward.
        parallel: both branches read the block's input.

    Raises:
        ValueError: unknown norm or feed-forward.

    Example:
        >>> from tokenmix.mixers import GAM
        >>> MixerBlock(GAM(16, slots=8))(torch.zeros(1, 3, 16)).shape
        torch.Size([1, 3, 16])
    """

    def __init__(
        self,
        mixer: TokenMixer,
        *,
        feed_forward: str | None = "swiglu",
        feed_forward_dim: int | None = None,
        norm: str = "rmsnorm",
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        mixer_dropout: float | None = None,
        feed_forward_bias: bool = False,
        parallel: bool = False,
    ) -> None:
        super().__init__()
        self.parallel = parallel
        dim = mixer.dim
        if mixer_dropout is None:
            mixer_dropout = dropout
        for name, share in (("dropout", dropout), ("mixer_dropout", mixer_dropout)):
            if not 0 <= share < 1:
                raise ValueError(f"{name}: expected at least 0 and below 1, found {share}")
        if norm_eps <= 0:
            raise ValueError(f"norm_eps: expected a positive number, found {norm_eps}")
        make_norm = _choose("norm", norm, NORMS)
        self.mixer_norm = make_norm(dim, eps=norm_eps)
        self.mixer = mixer
        self.feed_forward_norm: nn.Module | None = None
        self.feed_forward: nn.Module | None = None
        if feed_forward is not None:
            self.feed_forward_norm = make_norm(dim, eps=norm_eps)
            make = _choose("feed_forward", feed_forward, FEED_FORWARDS)
            self.feed_forward = make(dim, feed_forward_dim, bias=feed_forward_bias)
        self.mixer_dropout = nn.Dropout(mixer_dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        layout: Layout | None = None,
        state: MixerState | None = None,
        last: Tensor | None = None,
    ) -> Tensor:
        """(B, L, dim) to (B, L, dim), or to (B, 1, dim) of the tokens at `last` (B,); the state is the mixer's."""
        branch = self.mixer(self.mixer_norm(x), layout, state)
        if last is not None:
            x, branch = take_tokens(x, last[:, None]), take_tokens(branch, last[:, None])
        mixed = x + _drop(self.mixer_dropout, branch)
        feed_forward, norm = self.feed_forward, self.feed_forward_norm
        if feed_forward is None or norm is None:
            return mixed
        return mixed + _drop(self.dropout, feed_forward(norm(x if self.parallel else mixed)))


class Stack(nn.Module):
    """Layers of named mixers in a repeating pattern, and a final norm.

    Args:
        dim: width of the features.
        mixers: a description for each letter, such as {"m": {"mixer": "mamba2"}, "a": {"mixer": "attention"}}.
        pattern: letters, one a layer, repeated until there are `layers`: "mma".
        layers: number of layers; default the length of the pattern.
        feed_forward: as in `MixerBlock`, or a mapping from letters to it.
        feed_forward_dim, norm, norm_eps, dropout, mixer_dropout, feed_forward_bias: as in `MixerBlock`.
        parallel_residual: `parallel` of every block.
        final_norm: whether a norm follows the last layer.

    Attributes:
        letters: the pattern, written out for every layer.
        gradient_checkpointing: recompute each layer in the backward pass (training without a state).

    Raises:
        ValueError: an empty pattern, a letter without a mixer, a mixer whose letter is not in the pattern, or what a
            mixer refuses.

    Example:
        >>> mixers = {"a": {"mixer": "attention", "heads": 2}, "g": {"mixer": "gam", "slots": 8}}
        >>> stack = Stack(16, mixers, "gga", layers=6)
        >>> stack.letters
        'ggagga'
        >>> state = stack.init_state(batch_size=1)
        >>> x = torch.randn(1, 5, 16)
        >>> steps = torch.cat([stack(token, state=state) for token in x.split(1, dim=1)], dim=1)
        >>> torch.allclose(steps, stack(x), atol=1e-5)
        True
    """

    block_class: type[MixerBlock] = MixerBlock

    def __init__(
        self,
        dim: int,
        mixers: Mapping[str, Mapping[str, Any]],
        pattern: str,
        *,
        layers: int | None = None,
        feed_forward: str | Mapping[str, str | None] | None = "swiglu",
        feed_forward_dim: int | None = None,
        norm: str = "rmsnorm",
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        mixer_dropout: float | None = None,
        feed_forward_bias: bool = False,
        parallel_residual: bool = False,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.letters = resolve_pattern(pattern, mixers, layers)
        by_letter = feed_forward if isinstance(feed_forward, Mapping) else dict.fromkeys(mixers, feed_forward)
        unknown = sorted(set(by_letter) - set(mixers))
        if unknown:
            raise ValueError(f"feed_forward: expected letters of mixers {sorted(mixers)}, found {unknown}")
        self.layers = nn.ModuleList(
            self.block_class(
                build_mixer(mixers[letter], dim),
                feed_forward=by_letter.get(letter, "swiglu"),
                feed_forward_dim=feed_forward_dim,
                norm=norm,
                norm_eps=norm_eps,
                dropout=dropout,
                mixer_dropout=mixer_dropout,
                feed_forward_bias=feed_forward_bias,
                parallel=parallel_residual,
            )
            for letter in self.letters
        )
        self.norm = _choose("norm", norm, NORMS)(dim, eps=norm_eps) if final_norm else nn.Identity()
        self.gradient_checkpointing = False

    @property
    def mixers(self) -> list[TokenMixer]:
        """The mixers, one a layer."""
        return [block.mixer for block in self.layers]  # type: ignore[misc]  # every layer is a MixerBlock

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> StackState:
        """Empty memories of all layers; see `TokenMixer.init_state`."""
        state = StackState([mixer.init_state(batch_size, device=device, dtype=dtype) for mixer in self.mixers])
        state.share_counters()
        return state

    def forward(
        self,
        x: Tensor,
        layout: Layout | None = None,
        state: StackState | None = None,
        *,
        hidden_states: list[Tensor] | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Run all layers, and the final norm where there is one.

        Args:
            x: (B, L, dim).
            layout: where the tokens live. Rows are brought into order once, for all layers.
            state: from `init_state`, advanced in place.
            hidden_states: a list that receives the input of each layer and the output.
            last_only: give the last real token of each row alone; the last feed-forward then has less to do.

        Returns:
            (B, L, dim), or (B, 1, dim).

        Raises:
            ValueError, TypeError: input that does not fit, as in `TokenMixer.forward`.
        """
        if state is not None and (not isinstance(state, StackState) or len(state.states) != len(self.layers)):
            given = f"{len(state.states)}" if isinstance(state, StackState) else type(state).__name__
            raise ValueError(f"state: expected a StackState of {len(self.layers)} layers, found {given}")
        layout = Layout() if layout is None else layout
        if not isinstance(layout, Layout):
            raise TypeError(f"layout: expected a tokenmix.Layout, found {type(layout).__name__}")
        if not isinstance(x, Tensor) or x.dim() != 3 or x.shape[2] != self.dim:
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"x: expected shape (B, L, dim={self.dim}), found {found}")
        order = None
        if all(mixer.ordered for mixer in self.mixers):
            layout.validate(x.shape[0], x.shape[1], x.device)
            layout, order = layout.aligned(streamed=state is not None)
        if order is not None:
            x = take_tokens(x, order)
        states = [None] * len(self.layers) if state is None else state.states
        for block, layer_state in zip(self.layers, states, strict=True):
            if hidden_states is not None:
                hidden_states.append(_restore(x, order))
                x = hidden_states[-1] if order is None else take_tokens(hidden_states[-1], order)  # for its gradient
            if last_only and block is self.layers[-1]:
                return self.norm(block(x, layout, layer_state, _last_real(x, layout)))
            x = self.run_block(block, x, layout, layer_state)
        x = _restore(self.norm(x), order)
        if hidden_states is not None:
            hidden_states.append(x)
        return x

    def run_block(self, block: nn.Module, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        """One layer, recomputed in the backward pass if that is asked for."""
        if self.gradient_checkpointing and self.training and state is None:
            return checkpoint(block, x, layout, use_reentrant=False)
        y: Tensor = block(x, layout, state)
        return y


def resolve_pattern(pattern: str, mixers: Mapping[str, Any], layers: int | None = None) -> str:
    """Write a pattern out, one letter a layer.

    Raises:
        ValueError: as `Stack`.

    Example:
        >>> resolve_pattern("mma", {"m": {}, "a": {}}, layers=5)
        'mmamm'
    """
    if not pattern:
        raise ValueError("pattern: expected at least one letter, found an empty string")
    missing = sorted(set(pattern) - set(mixers))
    if missing:
        raise ValueError(f"pattern: expected letters of mixers {sorted(mixers)}, found {missing} in {pattern!r}")
    if layers is not None:
        check_positive("layers", layers)
        if layers < len(pattern):
            raise ValueError(f"pattern: expected at most layers={layers} letters, found {len(pattern)} in {pattern!r}")
    letters = (pattern * -(-(layers or len(pattern)) // len(pattern)))[: layers or len(pattern)]
    unused = sorted(set(mixers) - set(letters))
    if unused:
        raise ValueError(f"mixers: {unused} named but not used by pattern {letters!r}")
    return letters


def _last_real(x: Tensor, layout: Layout) -> Tensor:
    """(B,) index of the last real token of each row; 0 where there is none."""
    if layout.mask is None:
        return torch.full(x.shape[:1], x.shape[1] - 1, device=x.device)
    return (layout.mask * torch.arange(x.shape[1], device=x.device)).amax(1)


def _drop(dropout: nn.Module, x: Tensor) -> Tensor:
    """Dropout, which costs nothing where it does nothing."""
    return dropout(x) if dropout.training else x


def _restore(x: Tensor, order: Tensor | None) -> Tensor:
    return x if order is None else put_tokens(x, order)


def _choose(name: str, value: str, known: Mapping[str, Callable[..., nn.Module]]) -> Callable[..., nn.Module]:
    if value not in known:
        raise ValueError(f"{name}: expected one of {sorted(known)}, found {value!r}")
    return known[value]
