"""What mixers remember, where `generate` keeps what attention remembers: with its layers, all that touches caches.

transformers renamed the argument `past_key_values` to `cache` in 5.24. `CACHE_ARGUMENT` is the name of the version in
use; a model's `forward` takes both and asks `take_cache`. A stack of mixers then asks `prepare_stack` for its states,
and calls `advance_stack` after it has read its tokens; a mixer in the place of one attention asks `mixer_layer`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from tokenmix.blocks import Stack, StackState
from tokenmix.models.cache_layer import MixerCacheLayer

_OUTPUT_FIELDS = {field.name for field in dataclasses.fields(CausalLMOutputWithPast)}
CACHE_ARGUMENT = "cache" if "cache" in _OUTPUT_FIELDS else "past_key_values"


class MixerCache(Cache):
    """Memory of any stack of causal mixers, for the models of `tokenmix.models` and their `generate`.

    It is empty until a model first reads tokens with it, and is advanced in place from then on. Any other cache of
    transformers serves as well; this one also tells its size, crops all layers or none, and can make place beforehand.

    Args:
        reserve: tokens to make place for at the first call; beyond that, growing tensors double.

    Example:
        >>> MixerCache().get_seq_length()
        0
    """

    def __init__(self, reserve: int = 0) -> None:
        super().__init__(layers=[])
        self.reserve = reserve

    def __repr__(self) -> str:
        return f"MixerCache(columns={self.get_seq_length()}, nbytes={self.nbytes})"

    @property
    def state(self) -> StackState | None:
        """The states of all layers; None before the first tokens."""
        return stack_state(self)

    @property
    def columns(self) -> int:
        """Tokens read so far a row, padding included."""
        return int(self.get_seq_length())

    @property
    def nbytes(self) -> int:
        """Bytes in use by the states."""
        return cache_bytes(self)

    def reset(self) -> None:
        """Forget everything, also which model it was for."""
        self.layers.clear()

    def crop(self, tokens_to_remove: int) -> None:
        """See `MixerCacheLayer.crop`; nothing changes if any layer refuses."""
        for layer in self.layers:
            if isinstance(layer, MixerCacheLayer):
                layer.check_crop(tokens_to_remove)
        super().crop(tokens_to_remove)

    def detach(self) -> None:
        """Cut the graph, for truncated backpropagation through time."""
        if (state := self.state) is not None:
            state.detach()

    @property
    def is_compileable(self) -> bool:
        """False: shapes change from step to step."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Whether tokens were read."""
        return self.state is not None

    @property
    def is_croppable(self) -> bool:
        """Whether every layer keeps all its tokens, so that `crop` can go back."""
        return bool(self.layers) and all(layer.is_croppable for layer in self.layers)


def mixer_layer(cache: Cache, index: int) -> MixerCacheLayer:
    """The layer of a cache that holds a mixer's memory; put there, in place of an empty one, at the first call.

    Raises:
        TypeError: not one of transformers' caches.
        ValueError: a cache for fewer layers, or one that holds keys of attention there (such as a prefix).

    Example:
        >>> cache = MixerCache()
        >>> mixer_layer(cache, 1) is mixer_layer(cache, 1), len(cache)
        (True, 2)
    """
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    if not isinstance(cache, Cache):
        raise TypeError(f"{CACHE_ARGUMENT}: expected a transformers Cache, found {type(cache).__name__}")
    layers = cache.layers
    while len(layers) <= index:
        if isinstance(cache, MixerCache):
            layers.append(MixerCacheLayer(layers))
        elif cache.layer_class_to_replicate is not None:
            layers.append(cache.layer_class_to_replicate())
        else:
            raise ValueError(f"{CACHE_ARGUMENT}: expected a cache of more than {index} layers, found {len(layers)}")
    layer: Any = layers[index]
    if not isinstance(layer, MixerCacheLayer):
        if getattr(layer, "is_initialized", False) and int(layer.get_seq_length()) > 0:
            raise ValueError(
                f"{CACHE_ARGUMENT}: layer {index} is a mixer, which cannot read the keys and values of the "
                f"{type(layer).__name__} found there (a prefix, or the cache of another model)"
            )
        layer = layers[index] = MixerCacheLayer(layers)
    return layer


def stack_state(cache: Cache) -> StackState | None:
    """The states of a cache whose layers are all mixers, as one; None before the first tokens."""
    states = [layer.state for layer in cache.layers if isinstance(layer, MixerCacheLayer) and layer.state is not None]
    return StackState(states) if states else None


def prepare_stack(cache: Cache, stack: Stack, like: Tensor) -> StackState:
    """The states of a stack that `forward` reads and advances, made at the first call; like is (B, L, dim)."""
    layers = [mixer_layer(cache, i) for i in range(len(stack.layers))]
    fresh = all(layer.state is None for layer in layers)
    pairs = zip(layers, stack.mixers, strict=True)
    state = StackState([layer.prepare(mixer, like.shape[0], like) for layer, mixer in pairs])
    if fresh:
        state.share_counters()
        state.reserve(cache.reserve if isinstance(cache, MixerCache) else 0)
    return state


def prepare_whole(cache: Cache, model: Any, like: Tensor) -> MixerCacheLayer:
    """The one layer of a cache that holds all that a model remembers, made by its `init_state` at the first call.

    Args:
        cache: of any kind of transformers'.
        model: whose `init_state` makes a state.
        like: (B, ...) features, of whose rows, device and dtype it is.
    """
    layer = mixer_layer(cache, 0)
    fresh = layer.state is None
    state = layer.prepare(model, like.shape[0], like)
    if fresh and isinstance(cache, MixerCache):
        state.reserve(cache.reserve)
    return layer


def advance_stack(cache: Cache, length: int, mask: Tensor | None) -> None:
    """Count a chunk in every layer, after a stack has read it; see `MixerCacheLayer.advance`."""
    for layer in cache.layers:
        if isinstance(layer, MixerCacheLayer):
            layer.advance(length, mask)


def cache_bytes(cache: Cache) -> int:
    """Bytes in use by any cache: states of mixers, keys and values of attention.

    Example:
        >>> cache_bytes(MixerCache())
        0
    """
    if isinstance(cache, EncoderDecoderCache):
        return cache_bytes(cache.self_attention_cache) + cache_bytes(cache.cross_attention_cache)
    total = 0
    for layer in cache.layers:
        if isinstance(layer, MixerCacheLayer):
            total += 0 if layer.state is None else layer.state.nbytes
        else:
            tensors = (getattr(layer, name, None) for name in ("keys", "values"))
            total += sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
    return total


def take_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """The cache of a call, under its name of transformers 5.24 or the one before.

    Raises:
        TypeError: neither None nor a transformers Cache. ValueError: both are given.
    """
    if cache is not None and past_key_values is not None:
        raise ValueError("cache: expected either cache or past_key_values, found both")
    found = past_key_values if cache is None else cache
    if found is not None and not isinstance(found, Cache):
        raise TypeError(f"{CACHE_ARGUMENT}: expected a transformers Cache, found {type(found).__name__}")
    return found
