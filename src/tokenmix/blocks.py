"""Blocks and stacks: norm, mixer, feed-forward, and patterns of named mixers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenmix.block import NORMS, MixerBlock, at_last, make_norm
from tokenmix.layout import Layout, put_tokens, take_tokens
from tokenmix.mixer import TokenMixer, build_mixer, check_positive
from tokenmix.routed import Routed, per_token, untie, with_route
from tokenmix.stack_state import StackState
from tokenmix.state import MixerState

__all__ = ["NORMS", "MixerBlock", "Routed", "Stack", "StackState", "resolve_pattern", "untie"]


class Stack(nn.Module):
    """Layers of named mixers in a repeating pattern, and a final norm.

    Args:
        dim: width of the features.
        mixers: a description for each letter, such as {"m": {"mixer": "mamba2"}, "a": {"mixer": "attention"}}.
        pattern: letters, one a layer, repeated until there are `layers`: "mma".
        layers: number of layers; default the length of the pattern.
        feed_forward: as in `MixerBlock`, or a mapping from letters to it.
        feed_forward_dim, norm, norm_eps, norm_placement, dropout, mixer_dropout, feed_forward_bias, modalities: as in
            `MixerBlock`; the final norm is routed too. Tokens are sorted once a call, and once more where a mixer
            without an order of its own meets padding.
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
        norm_placement: str = "pre",
        dropout: float = 0.0,
        mixer_dropout: float | None = None,
        feed_forward_bias: bool = False,
        parallel_residual: bool = False,
        final_norm: bool = True,
        modalities: int | None = None,
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
                norm_placement=norm_placement,
                dropout=dropout,
                mixer_dropout=mixer_dropout,
                feed_forward_bias=feed_forward_bias,
                parallel=parallel_residual,
                modalities=modalities,
            )
            for letter in self.letters
        )
        self.norm = make_norm(dim, norm, norm_eps, modalities) if final_norm else nn.Identity()
        self.modalities = modalities
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
        if self.modalities is not None:
            layout.validate(x.shape[0], x.shape[1], x.device)
            layout = with_route(layout, self.modalities)
        states = [None] * len(self.layers) if state is None else state.states
        for block, layer_state in zip(self.layers, states, strict=True):
            if hidden_states is not None:
                hidden_states.append(_restore(x, order))
                x = hidden_states[-1] if order is None else take_tokens(hidden_states[-1], order)  # for its gradient
            if last_only and block is self.layers[-1]:
                last = _last_real(x, layout)
                return per_token(self.norm, block(x, layout, layer_state, last), at_last(layout, last))
            x = self.run_block(block, x, layout, layer_state)
        x = _restore(per_token(self.norm, x, layout), order)
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


def _restore(x: Tensor, order: Tensor | None) -> Tensor:
    return x if order is None else put_tokens(x, order)
