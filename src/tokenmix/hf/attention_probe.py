"""A probe of an attention function and its mask function, for queries that read what they must not."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

LENGTH = 7
HEADS, KV_HEADS, WIDTH = 4, 2, 4
TOLERANCE = 1e-5


class AttentionProbeError(ValueError):
    """An attention function and its mask function that together read what they must not."""


class _Setting(NamedTuple):
    """How a row of tokens reaches the attention."""

    name: str
    start: int = 0  # tokens that the cache holds
    room: int = 0  # empty places behind the tokens, of a static cache
    padding: tuple[int, int] = (0, 0)  # on the left and on the right


_SETTINGS = (
    _Setting("a whole row"),
    _Setting("a row with padding on the left", padding=(2, 0)),
    _Setting("a row with padding on the right", padding=(0, 2)),
    _Setting("a chunk after a cache", start=3),
    _Setting("a chunk after a cache, with padding on the left", start=3, padding=(2, 0)),
    _Setting("one token after a cache", start=LENGTH - 1),
    _Setting("the prompt of a static cache", room=3),
    _Setting("the prompt of a static cache, with padding on the left", room=3, padding=(2, 0)),
    _Setting("one token after a static cache", start=LENGTH - 1, room=3),
    _Setting("one token after a static cache, with padding on the left", start=LENGTH - 1, room=3, padding=(2, 0)),
)


@torch.no_grad()
def probe_attention(function: Callable[..., Any], mask_function: Callable[..., Any] | None) -> None:
    """Try a pair on a tiny problem, in the ways in which transformers calls it.

    For a causal module, with and without padding, growing and static caches: changing a token never changes an output
    before it, to the bit; padding and empty places of a cache change nothing; the outputs after a cache are those
    without one; and a token does change its own output. For a module that looks ahead: padding changes nothing.

    Args:
        function: the attention function.
        mask_function: its mask function.

    Raises:
        AttentionProbeError: the pair breaks one of these, or there is no mask function.
    """
    if mask_function is None:
        raise AttentionProbeError(
            "mask_function: expected one beside the attention function; without it, transformers drops every mask"
        )
    noise = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, LENGTH, WIDTH, generator=noise) for heads in (HEADS, KV_HEADS, KV_HEADS))
    for setting in _SETTINGS:
        _probe_causal(function, mask_function, (q, k, v), setting)
    _probe_padding(function, mask_function, (q, k, v))


def _probe_causal(
    function: Callable[..., Any], mask_function: Callable[..., Any], qkv: tuple[Tensor, ...], setting: _Setting
) -> None:
    left, right = setting.padding
    real = slice(left, LENGTH - right)
    plain = _run(function, mask_function, qkv, setting)
    # alone, without padding and without a cache
    alone = _run(function, mask_function, tuple(x[:, :, real] for x in qkv), _Setting("a whole row"))
    shown = alone[:, max(setting.start - left, 0) :]
    kept = plain[:, max(left - setting.start, 0) : LENGTH - right - setting.start]
    error = float((shown - kept).abs().max())
    if not error <= TOLERANCE:
        raise AttentionProbeError(
            f"attention: {setting.name}: outputs differ by {error:.2g} from those of the row alone"
        )
    for token in range(left, LENGTH - right):
        changed = tuple(x.clone() for x in qkv)
        for x in changed:
            x[:, :, token] += 3.0
        moved = (_run(function, mask_function, changed, setting) - plain).abs().amax((0, 2, 3))
        before = moved[max(left - setting.start, 0) : max(token - setting.start, 0)]
        if before.numel() and float(before.max()) > 0:
            raise AttentionProbeError(
                f"attention: {setting.name}: it is not causal; changing token {token} changed an earlier output by "
                f"{float(before.max()):.2g}"
            )
        if token >= setting.start and float(moved[token - setting.start]) == 0:
            raise AttentionProbeError(f"attention: {setting.name}: changing token {token} did not change its output")


def _probe_padding(function: Callable[..., Any], mask_function: Callable[..., Any], qkv: tuple[Tensor, ...]) -> None:
    setting = _Setting("a row that looks ahead, with padding on the right", padding=(0, 2))
    plain = _run(function, mask_function, qkv, setting, causal=False)
    alone = tuple(x[:, :, : LENGTH - 2] for x in qkv)
    error = (_run(function, mask_function, alone, _Setting(""), causal=False) - plain[:, : LENGTH - 2]).abs().max()
    if not float(error) <= TOLERANCE:
        raise AttentionProbeError(f"attention: {setting.name}: padding changed outputs by {float(error):.2g}")


def _run(
    function: Callable[..., Any],
    mask_function: Callable[..., Any],
    qkv: tuple[Tensor, ...],
    setting: _Setting,
    causal: bool = True,
) -> Tensor:
    """(B, Q, H, E) as a layer of a model would call it."""
    q, k, v = qkv
    length = q.shape[2]
    queries, keys = length - setting.start, length + setting.room
    k, v = (nn.functional.pad(x, (0, 0, 0, setting.room), value=7.0) for x in (k, v))
    mask = None
    if any(setting.padding):
        place = torch.arange(length)
        mask = ((place >= setting.padding[0]) & (place < length - setting.padding[1])).expand(2, -1)
    config = SimpleNamespace(is_causal=causal, sliding_window=None)
    made = mask_function(
        batch_size=2,
        q_length=queries,
        kv_length=keys,
        q_offset=torch.tensor(setting.start) if setting.room else setting.start,
        kv_offset=0,
        mask_function=causal_mask_function if causal else bidirectional_mask_function,
        attention_mask=mask,
        allow_is_causal_skip=causal and not (setting.room > 0 and queries == 1),
        allow_is_bidirectional_skip=not causal,
        dtype=q.dtype,
        config=config,
        use_vmap=False,
        device=q.device,
    )
    module = _ProbedAttention(causal, config)
    output: Tensor = function(module, q[:, :, setting.start :], k, v, made, scaling=WIDTH**-0.5, dropout=0.0)[0]
    return output


class _ProbedAttention(nn.Module):
    """A layer, as far as an attention function looks at it."""

    num_key_value_groups = HEADS // KV_HEADS
    layer_idx = 0

    def __init__(self, causal: bool, config: Any) -> None:
        super().__init__()
        self.is_causal, self.config = causal, config
        self.eval()
