"""Faults that a test must notice; `TOKENMIX_FAULT` plants one of them in the process of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import tokenmix.models.base
import tokenmix.models.inputs
from tokenmix.mixer import TokenMixer
from tokenmix.models.base import MixerPreTrainedModel
from tokenmix.models.cache import MixerCacheLayer
from tokenmix.state import MixerState


def _ignored_mask() -> None:
    tokenmix.models.inputs.padding_mask = lambda attention_mask: None


def _stale_state() -> None:
    put = MixerState.put

    def put_once(self: MixerState, name: str, value: torch.Tensor) -> None:
        if name not in self.tensors or name == "conv":
            put(self, name, value)

    MixerState.put = put_once


def _lost_convolution_state() -> None:
    MixerState.roll = lambda self, name, values, counts=None: None


def _no_reorder() -> None:
    MixerCacheLayer.reorder_cache = lambda self, beam_idx: None


def _untied_weights() -> None:
    MixerPreTrainedModel.tie_weights = lambda self, *args, **kwargs: None


def _no_initialisation() -> None:
    tokenmix.models.base.initialise_mixer = lambda mixer: None


def _look_ahead() -> None:
    forward = TokenMixer.forward

    def read_the_next(self: TokenMixer, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return forward(self, x + 0.5 * x.roll(-1, dims=1), *args, **kwargs)

    TokenMixer.forward = read_the_next


FAULTS: dict[str, Callable[[], None]] = {
    "ignored mask": _ignored_mask,
    "stale state": _stale_state,
    "lost convolution state": _lost_convolution_state,
    "no reorder": _no_reorder,
    "untied weights": _untied_weights,
    "no initialisation": _no_initialisation,
    "look-ahead": _look_ahead,
}
