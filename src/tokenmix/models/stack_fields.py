"""The fields of a configuration that describe a stack of mixers, checked and built in one place."""

from __future__ import annotations

from typing import Any

import torch

from tokenmix.models.stack import ModelStack


def build_stack(config: Any, **options: Any) -> ModelStack:
    """The layers that a configuration with the fields of `tokenmix.models.MixerConfig` describes.

    Args:
        config: the configuration.
        options: more of `tokenmix.blocks.Stack`, or `mixers` in place of the configuration's.
    """
    return ModelStack(
        config.hidden_size,
        options.pop("mixers", config.mixers),
        config.pattern,
        layers=config.num_hidden_layers,
        feed_forward=config.feed_forward,
        feed_forward_dim=config.intermediate_size,
        feed_forward_bias=config.feed_forward_bias,
        norm=config.norm,
        norm_eps=config.norm_eps,
        dropout=config.dropout,
        mixer_dropout=config.mixer_dropout,
        **options,
    )


def settle_initializer(config: Any) -> None:
    """Give initializer_range its default, hidden_size ** -0.5.

    Raises:
        ValueError: one that is not positive.
    """
    if config.initializer_range is None:
        config.initializer_range = config.hidden_size**-0.5
    if config.initializer_range <= 0:
        raise ValueError(f"initializer_range: expected a positive number, found {config.initializer_range}")


def settle_layers(config: Any) -> ModelStack:
    """Build the stack without memory for its weights, and give num_hidden_layers its default, the stack's layers.

    Raises:
        ValueError, TypeError: what the stack or one of its mixers refuses.
    """
    with torch.device("meta"):
        stack: ModelStack = config.build_stack()
    if config.num_hidden_layers is None:
        config.num_hidden_layers = len(stack.layers)
    return stack
