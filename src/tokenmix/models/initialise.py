"""How a Hugging Face model draws the parameters of its mixers: as published, and never over what was loaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokenmix.blocks import MixerBlock
from tokenmix.mixer import TokenMixer


@torch.no_grad()
def initialise_mixer(mixer: TokenMixer) -> None:
    """Draw a mixer's parameters anew as its paper does, except those that a checkpoint brought.

    For the `_init_weights` of a Hugging Face model, which asks parts before wholes: what its generic rule drew for
    the linear layers inside the mixer is drawn over. The loader marks what it loaded with `_is_hf_initialized`, and
    that is put back, so a mixer of a user need not know the mark.

    Such a model must also say that its `is_custom_code` is False: for code that transformers takes for a
    stranger's, it skips a module whose own parameters are all loaded, which is vacuously so for a mixer that is
    made of projections alone.

    Args:
        mixer: the mixer; it may be built on the meta device and filled since.

    Raises:
        TypeError: not a mixer.

    Example:
        >>> from tokenmix.mixers import Attention
        >>> mixer = Attention(8, heads=2)
        >>> mixer.k_proj.weight._is_hf_initialized = True
        >>> before = [p.detach().clone() for p in (mixer.k_proj.weight, mixer.o_proj.weight)]
        >>> initialise_mixer(mixer)
        >>> torch.equal(mixer.k_proj.weight, before[0]), torch.equal(mixer.o_proj.weight, before[1])
        (True, False)
    """
    if not isinstance(mixer, TokenMixer):
        raise TypeError(f"mixer: expected a TokenMixer, found {type(mixer).__name__}")
    redraw(mixer)


@torch.no_grad()
def redraw(module: nn.Module) -> None:
    """Call a module's `reset_parameters`, and put back what a checkpoint brought.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> layer.weight._is_hf_initialized = True
        >>> before = layer.weight.detach().clone()
        >>> redraw(layer)
        >>> torch.equal(layer.weight, before)
        True
    """
    tensors = [*module.parameters(), *module.buffers()]
    loaded = [tensor for tensor in tensors if is_loaded(tensor)]
    if len(loaded) == len(tensors):
        return
    values = [tensor.clone() for tensor in loaded]
    reset: Any = module.reset_parameters
    reset()
    for tensor, value in zip(loaded, values, strict=True):
        tensor.copy_(value)


@torch.no_grad()
def rescale_residual(block: MixerBlock, factor: float) -> None:
    """Multiply the last projection of each of a block's branches, unless it was loaded.

    Args:
        block: the block, its parameters drawn.
        factor: what GPT-2 and mamba_ssm take is the number of branches in the model ** -0.5.

    Example:
        >>> from tokenmix.mixers import Attention
        >>> block = MixerBlock(Attention(8, heads=2))
        >>> before = block.mixer.o_proj.weight.detach().clone()
        >>> rescale_residual(block, 0.5)
        >>> torch.equal(block.mixer.o_proj.weight, before / 2)
        True
    """
    last: list[nn.Module | None] = [getattr(block.feed_forward, "down_proj", None)]
    if block.mixer.residual_projection is not None:
        last.append(block.mixer.get_submodule(block.mixer.residual_projection))
    for projection in last:
        if projection is not None:
            rescale_weight(projection, factor)


@torch.no_grad()
def rescale_weight(projection: nn.Module, factor: float) -> None:
    """Multiply the weight of a projection, unless it was loaded.

    Example:
        >>> projection = nn.Linear(2, 2)
        >>> before = projection.weight.detach().clone()
        >>> rescale_weight(projection, 0.5)
        >>> torch.equal(projection.weight, before / 2)
        True
    """
    weight = projection.weight
    if isinstance(weight, Tensor) and not is_loaded(weight):
        weight.mul_(factor)


def is_loaded(tensor: Tensor) -> bool:
    """Whether transformers' loader has marked a tensor as read from a checkpoint."""
    return bool(getattr(tensor, "_is_hf_initialized", False))
