"""Parameters for each modality in a module that has none."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from tokenmix.ops.common import check_positive
from tokenmix.routed.base import RoutedModule
from tokenmix.routed.leaves import RoutedLinear, RoutedNorm

M = TypeVar("M", bound=nn.Module)


def untie(module: M, modalities: int) -> M:
    """Give a module's linear layers and norms parameters for each modality, all equal to those it has.

    The module is changed in place, and computes what it did. Its own code must call them by `per_token`, as all
    mixers and feed-forwards of this library do. Everything else (convolutions, decays, slots, codebooks) stays shared,
    as in Mixture-of-Mamba.

    Args:
        module: a mixer, a feed-forward, a norm, or a linear layer.
        modalities: n.

    Returns:
        The module, or what takes its place where it is itself a linear layer or a norm.

    Raises:
        ValueError: modalities below 1.

    Example:
        >>> from tokenmix.mixers import Mamba2
        >>> mixer = untie(Mamba2(16, state_size=4, head_dim=8), 3)
        >>> mixer.in_proj.weight.shape, mixer.conv1d.weight.shape
        (torch.Size([3, 76, 16]), torch.Size([40, 1, 4]))

    Source: Liang et al. 2024, arXiv 2411.04996; Mamba: Liang et al. 2025 (Mixture-of-Mamba), arXiv 2501.16295.
    """
    check_positive("modalities", modalities)
    whole: Any = module
    if isinstance(module, nn.Linear):
        whole = RoutedLinear.from_dense(module, modalities)
    elif isinstance(module, (nn.RMSNorm, nn.LayerNorm)):
        whole = RoutedNorm.from_dense(module, modalities)
    if whole is not module:
        return whole
    shared = getattr(module, "shared_modules", ())
    for name, child in module.named_children():
        if not isinstance(child, RoutedModule) and name not in shared:
            setattr(module, name, untie(child, modalities))
    return module
