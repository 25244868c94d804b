"""One layer: norm, mixer and feed-forward, each with a residual branch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from tokenmix.feed_forward import FEED_FORWARDS
from tokenmix.layout import Layout, take_tokens
from tokenmix.mixer import TokenMixer
from tokenmix.routed.base import Where, per_token, route_of, token_modality
from tokenmix.routed.leaves import RoutedLinear
from tokenmix.routed.untie import untie
from tokenmix.state import MixerState

NORMS: dict[str, Callable[..., nn.Module]] = {"rmsnorm": nn.RMSNorm, "layernorm": nn.LayerNorm}
NORM_PLACEMENTS = ("pre", "post_branch")


class MixerBlock(nn.Module):
    """x += mixer(norm(x)); x += feed_forward(norm(x)), the second where there is a feed-forward.

    With `norm_placement="post_branch"`, norms come after the branches: x += norm(mixer(x)); x += norm(feed_forward(x)).
    With `parallel`, as in GPT-NeoX: x += mixer(norm_1(x)) + feed_forward(norm_2(x)).

    Args:
        mixer: any token mixer.
        feed_forward: "swiglu", "gelu", or None for a block of the mixer alone (Mamba's).
        feed_forward_dim: inner width of the feed-forward; default its own.
        norm: "rmsnorm" or "layernorm".
        norm_eps: added to the variance.
        norm_placement: "pre", or "post_branch" (Swin v2, Chameleon, Mixture-of-Transformers).
        dropout: on both branches, before they are added.
        mixer_dropout: on the mixer's branch instead; default that of `dropout` (GAM's paper has none there).
        feed_forward_bias: biases in the feed-forward.
        parallel: both branches read the block's input.
        modalities: n; norms, feed-forward and the mixer's projections then have parameters for each, chosen by
            `Layout.modality` (Mixture-of-Transformers). None: the same for all tokens.

    Raises:
        ValueError: unknown norm, placement or feed-forward.

    Example:
        >>> import torch
        >>> from tokenmix.mixers import GAM
        >>> MixerBlock(GAM(16, slots=8))(torch.zeros(1, 3, 16)).shape
        torch.Size([1, 3, 16])

    Source: routed: Liang et al. 2024, arXiv 2411.04996.
    """

    def __init__(
        self,
        mixer: TokenMixer,
        *,
        feed_forward: str | None = "swiglu",
        feed_forward_dim: int | None = None,
        norm: str = "rmsnorm",
        norm_eps: float = 1e-5,
        norm_placement: str = "pre",
        dropout: float = 0.0,
        mixer_dropout: float | None = None,
        feed_forward_bias: bool = False,
        parallel: bool = False,
        modalities: int | None = None,
    ) -> None:
        super().__init__()
        self.parallel, self.norm_placement, self.modalities = parallel, norm_placement, modalities
        dim = mixer.dim
        if mixer_dropout is None:
            mixer_dropout = dropout
        for name, share in (("dropout", dropout), ("mixer_dropout", mixer_dropout)):
            if not 0 <= share < 1:
                raise ValueError(f"{name}: expected at least 0 and below 1, found {share}")
        if norm_placement not in NORM_PLACEMENTS:
            raise ValueError(f"norm_placement: expected one of {NORM_PLACEMENTS}, found {norm_placement!r}")
        self.mixer_norm = make_norm(dim, norm, norm_eps, modalities)
        self.mixer = mixer
        self.feed_forward_norm: nn.Module | None = None
        self.feed_forward: nn.Module | None = None
        if feed_forward is not None:
            self.feed_forward_norm = make_norm(dim, norm, norm_eps, modalities)
            make = choose("feed_forward", feed_forward, FEED_FORWARDS)
            self.feed_forward = make(dim, feed_forward_dim, bias=feed_forward_bias)
        if modalities is not None:
            for part in (self.mixer, self.feed_forward):
                if part is not None:
                    redraw_routed(untie(part, modalities))
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
        pre = self.norm_placement == "pre"
        branch = self.mixer(per_token(self.mixer_norm, x, layout) if pre else x, layout, state)
        where = layout
        if last is not None:
            x, branch, where = take_tokens(x, last[:, None]), take_tokens(branch, last[:, None]), at_last(layout, last)
        if not pre:
            branch = per_token(self.mixer_norm, branch, where)
        mixed = x + _drop(self.mixer_dropout, branch)
        if self.feed_forward is None:
            return mixed
        return mixed + _drop(self.dropout, self._feed(x if self.parallel else mixed, where))

    def _feed(self, x: Tensor, layout: Layout | None) -> Tensor:
        """The branch of the feed-forward; routed tokens are sorted before it and put back behind it."""
        if self.modalities is None or layout is None:
            return self._feed_sorted(x, None)
        route = route_of(layout, self.modalities)
        return route.put(self._feed_sorted(route.take(x), route.sorted()), x)

    def _feed_sorted(self, x: Tensor, where: Where) -> Tensor:
        feed_forward, norm = self.feed_forward, self.feed_forward_norm
        if feed_forward is None or norm is None:
            return x
        if self.norm_placement == "pre":
            y: Tensor = feed_forward(per_token(norm, x, where), where)
            return y
        return per_token(norm, feed_forward(x, where), where)


def make_norm(dim: int, norm: str, eps: float, modalities: int | None) -> nn.Module:
    """A norm by name, routed where there are modalities.

    Example:
        >>> make_norm(8, "rmsnorm", 1e-5, 3)
        RoutedNorm(8, modalities=3, kind='rmsnorm', eps=1e-05)
    """
    made = choose("norm", norm, NORMS)(dim, eps=eps)
    return made if modalities is None else untie(made, modalities)


def redraw_routed(module: nn.Module) -> None:
    """Draw the routed parts of a module anew, so that modalities start apart."""
    if isinstance(module, TokenMixer):
        module.reset_parameters()
        return
    for part in module.modules():
        if isinstance(part, RoutedLinear):
            part.reset_parameters()


def at_last(layout: Layout | None, last: Tensor) -> Layout | None:
    """The layout of the tokens at `last` (B,) alone, as far as routed parameters need it."""
    if layout is None or layout.modality is None:
        return layout
    return Layout(modality=take_tokens(token_modality(layout), last[:, None]))


def _drop(dropout: nn.Module, x: Tensor) -> Tensor:
    """Dropout, which costs nothing where it does nothing."""
    return dropout(x) if dropout.training else x


def choose(name: str, value: str, known: Mapping[str, Callable[..., nn.Module]]) -> Callable[..., nn.Module]:
    """What a name stands for, or an error that tells the names."""
    if value not in known:
        raise ValueError(f"{name}: expected one of {sorted(known)}, found {value!r}")
    return known[value]
