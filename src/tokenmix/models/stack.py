"""The stack of `tokenmix.blocks` for transformers: layers that it can recompute, recurrences that stay float32."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from tokenmix.blocks import MixerBlock, Stack
from tokenmix.layout import Layout
from tokenmix.state import MixerState

# what mixers count as the parameters of a recurrence: rounded to 16 bits, long decays become none
FLOAT32_NAMES = ("A_log", "D", "dt_bias")
# transformers looks for these in names, from their start and behind a dot
FLOAT32_PATTERNS = tuple(rf"[^.]+\.{name}$" for name in FLOAT32_NAMES)


class RecomputedBlock(GradientCheckpointingLayer, MixerBlock):
    """A block that `gradient_checkpointing_enable` finds, with whatever arguments it was given."""


class ModelStack(Stack):
    """A stack whose layers are `RecomputedBlock`, and whose recurrences are float32 in a model of any type.

    Args:
        options: those of `tokenmix.blocks.Stack`.

    Example:
        >>> ModelStack(8, {"m": {"mixer": "mamba"}}, "m").half().layers[0].mixer.in_proj.weight.dtype
        torch.float16
    """

    block_class = RecomputedBlock

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        keep_float32(self)

    def run_block(self, block: nn.Module, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        """One layer; with a state it is run once, since a second run would advance the state again."""
        if state is None or not block.gradient_checkpointing:
            y: Tensor = block(x, layout, state)
            return y
        block.gradient_checkpointing = False  # type: ignore[assignment]  # a flag, not a module
        try:
            y = block(x, layout, state)
        finally:
            block.gradient_checkpointing = True  # type: ignore[assignment]  # see above
        return y


def keep_float32(module: nn.Module) -> None:
    """Make the parameters of recurrences float32, where a module was built under another default type.

    Example:
        >>> from tokenmix.mixers import Mamba
        >>> mixer = Mamba(8).half()
        >>> keep_float32(mixer)
        >>> mixer.A_log.dtype, mixer.in_proj.weight.dtype
        (torch.float32, torch.float16)
    """
    for name, parameter in module.named_parameters():
        if name.rpartition(".")[2] in FLOAT32_NAMES:
            parameter.data = parameter.data.to(torch.float32)


def present_patterns(module: nn.Module) -> set[str]:
    """Those of `FLOAT32_PATTERNS` that name a parameter of a module.

    Example:
        >>> present_patterns(nn.Linear(2, 2))
        set()
    """
    names = [name for name, _ in module.named_parameters()]
    return {pattern for pattern in FLOAT32_PATTERNS if any(re.search(pattern, name) for name in names)}
