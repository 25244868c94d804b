"""Everything that touches transformers' cache: what mixers remember, kept where `generate` keeps what attention remembers.

transformers renamed the argument `past_key_values` to `cache` in 5.24. `CACHE_ARGUMENT` is the name of the version in
use; a model's `forward` takes both and asks `take_cache`. A stack of mixers then asks `prepare_stack` for its states, and
calls `advance_stack` after it has read its tokens; a mixer in the place of one attention asks `mixer_layer`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, EncoderDecoderCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from tokenmix.blocks import Stack, StackState
from tokenmix.mixer import TokenMixer
from tokenmix.state import MixerState

_OUTPUT_FIELDS = {field.name for field in dataclasses.fields(CausalLMOutputWithPast)}
CACHE_ARGUMENT = "cache" if "cache" in _OUTPUT_FIELDS else "past_key_values"


class MixerCacheLayer(CacheLayerMixin):
    """The memory of one mixer, as a layer of any of transformers' caches.

    Args:
        siblings: the list of layers that this one is in. The masks of real attention layers depend on how their
            caches grow, and transformers may ask this layer for their sizes.

    Attributes:
        state: what the mixer remembers; None before its first tokens.
        columns: tokens read so far a row, padding included (what transformers calls the sequence length).

    Example:
        >>> MixerCacheLayer().get_mask_sizes(3)
        (3, 0)
    """

    # transformers leaves the mask of a single token away where a layer says False, also for static caches, whose
    # attention would then read slots that nobody has written
    is_compileable = True
    supports_early_init = False

    def __init__(self, siblings: Sequence[Any] = ()) -> None:
        super().__init__()
        self.siblings = siblings
        self.state: MixerState | None = None
        self.columns = 0
        self._unpadded = 0  # how many of the last columns held real tokens in every row

    def prepare(self, mixer: TokenMixer, batch: int, like: Tensor) -> MixerState:
        """The state to read and advance, made for `batch` rows at the first call, of the device and dtype of `like`."""
        if self.state is None:
            self.state = mixer.init_state(batch, device=like.device, dtype=like.dtype)
            self.keys = self.values = like.new_empty(batch, 0)  # Whisper's generate takes the rows of a cache apart
        self.is_initialized = True
        return self.state

    def advance(self, length: int, mask: Tensor | None) -> None:
        """Count a chunk of `length` columns, after the mixer has read it.

        Args:
            length: columns of the chunk.
            mask: (B, length) bool, True where a token is real; None where all are.
        """
        self.columns += length
        if mask is None:
            self._unpadded += length
        else:
            self._unpadded = int(mask.all(dim=0).flip(0).long().cumprod(0).sum())

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Refused: this layer holds no keys.

        Raises:
            TypeError: always.
        """
        raise TypeError("MixerCacheLayer: expected a mixer to read it, found an attention that adds keys and values")

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Refused: see `lazy_initialization`."""
        self.lazy_initialization(key_states, value_states)
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Tokens read so far a row, padding included."""
        return self.columns

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the mask for the next `query_length` tokens: those of attention, where there is any."""
        for layer in self.siblings:
            if not isinstance(layer, MixerCacheLayer) and not getattr(layer, "is_sliding", False):
                if hasattr(layer, "get_mask_sizes"):
                    length, offset = layer.get_mask_sizes(query_length)
                    return length, offset
        return self.columns + query_length, 0

    def get_max_length(self) -> int:
        """-1: there is no limit."""
        return -1

    def offload(self) -> None:
        """Nothing: a state stays on the device of its mixer."""

    def prefetch(self) -> None:
        """Nothing: see `offload`."""

    def reset(self) -> None:
        """Forget everything."""
        self.state, self.columns, self._unpadded, self.is_initialized = None, 0, 0, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows `beam_idx` (n,), in that order; rows may repeat (beam search)."""
        if self.state is not None:
            self.state.reorder(beam_idx)
            self.keys = self.values = self.keys.new_empty(len(beam_idx), 0)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices`: (n,) integers, or (B,) bool."""
        self.reorder_cache(indices.nonzero()[:, 0] if indices.dtype == torch.bool else indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row `repeats` times, in place of the row."""
        if self.state is not None:
            rows = torch.arange(self.state.batch_size, device=self.state.seen.device)
            self.reorder_cache(rows.repeat_interleave(repeats))

    def check_crop(self, tokens_to_remove: int) -> None:
        """Raise what `crop` would raise, and change nothing."""
        if tokens_to_remove > 0:
            raise ValueError(f"tokens_to_remove: expected 0 or minus the number of tokens, found {tokens_to_remove}")
        count = -tokens_to_remove
        if count == 0 or self.state is None:
            return
        if count > self.columns:
            raise ValueError(f"tokens_to_remove: expected at most the {self.columns} tokens read, found {count}")
        if count > self._unpadded or not bool((self.state.seen == self.state.length).all()):
            raise ValueError(
                f"crop({tokens_to_remove}): rows hold padding among the tokens to forget, or different numbers "
                "of real tokens; crop such rows one by one"
            )
        self.state.check_crop(self.state.length - count)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens of every row.

        Args:
            tokens_to_remove: minus their number, as in transformers 5; 0 changes nothing.

        Raises:
            ValueError: for a positive number, for a mixer whose memory cannot go back, or if the tokens
                to forget include padding.
        """
        self.check_crop(tokens_to_remove)
        if tokens_to_remove and self.state is not None:
            self.state.crop(self.state.length + tokens_to_remove)
            self.columns += tokens_to_remove
            self._unpadded += tokens_to_remove

    def activate_past_recording(self) -> None:
        """Nothing to record: a state either keeps every token, or cannot go back."""

    @property
    def is_croppable(self) -> bool:
        """Whether the mixer keeps all its tokens, so that `crop` can go back."""
        return self.state is not None and not any(tensor.numel() for tensor in self.state.tensors.values())

    @property
    def batch_size(self) -> int:
        """Number of rows.

        Raises:
            AttributeError: before the first tokens, as transformers expects.
        """
        if self.state is None:
            raise AttributeError("batch_size: not known before the first tokens")
        return self.state.batch_size


class MixerCache(Cache):
    """Memory of any stack of causal mixers, for the models of `tokenmix.models` and their `generate`.

    It is empty until a model first reads tokens with it, and is advanced in place from then on. Any other cache of
    transformers serves as well; this one also tells its size, and crops all layers or none.

    Example:
        >>> MixerCache().get_seq_length()
        0
    """

    def __init__(self) -> None:
        super().__init__(layers=[])

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
    layer = layers[index]
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
    mixers = enumerate(stack.mixers)
    return StackState([mixer_layer(cache, i).prepare(mixer, like.shape[0], like) for i, mixer in mixers])


def advance_stack(cache: Cache, length: int, mask: Tensor | None) -> None:
    """Count a chunk in every layer, after a stack has read it; see `MixerCacheLayer.advance`."""
    for layer in cache.layers:
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


def check_cache(value: object) -> None:
    """Refuse what is no cache (to be replaced: a model's `forward` calls `take_cache`, see the top of this file)."""
    take_cache(None, value)  # type: ignore[arg-type]  # that is what is checked
