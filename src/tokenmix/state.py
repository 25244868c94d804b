"""What a causal mixer remembers between calls: named tensors, batch first, advanced in place."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from tokenmix.counters import Counted, Counters, chunk_places, document_starts
from tokenmix.layout import Layout

__all__ = ["MixerState", "chunk_places", "document_starts"]


class MixerState(Counted):
    """The memory of one mixer for a batch of rows.

    Four kinds of tensors, all with the batch first:

    - fixed (`put`): rewritten at each call, such as the state of a recurrence;
    - recent (`recent`, `roll`): the last `size` tokens, such as the inputs of a convolution; right-aligned, so that
      the newest is last;
    - rings (`ring`, `overwrite`): the last `size` tokens, token t in slot t mod `size`, such as the keys of a sliding
      window: nothing moves when a token comes;
    - growing (`grow`, `append`): one slot a real token, such as the keys of full attention.

    A row's slots hold its real tokens only, without holes, whatever padding the chunks carried. Without gradients,
    all but recent ones are written in place.

    Attributes:
        counters: what it has counted, `seen`, `place`, `segment`, `length`, `uniform` and `packed`; the states of a
            stack share it, see `tokenmix.counters.Counters`.
        signature: which mixer made it, and the shapes it holds a row; another mixer refuses it.

    Example:
        >>> state = MixerState(batch_size=2)
        >>> state.put("h", torch.zeros(2, 4))
        >>> state.nbytes
        32
    """

    def __init__(self, batch_size: int, *, device: torch.device | str | None = None) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, found {batch_size}")
        self.counters = Counters.start(batch_size, device)
        self.tensors: dict[str, Tensor] = {}
        self._growing: dict[str, Tensor] = {}  # (B, H, capacity, D)
        self._reserved = 0  # tokens to make place for when growing tensors are next allocated
        self.signature: tuple[object, ...] = ()

    # ------------------------------------------------------------------ what mixers call

    def put(self, name: str, value: Tensor) -> None:
        """Set a fixed tensor; without gradients it is written into the storage that is there."""
        old = self.tensors.get(name)
        if old is None or old.shape != value.shape or _must_not_write(old):
            self.tensors[name] = value
        else:
            old.copy_(value)

    def get(self, name: str) -> Tensor:
        """A fixed or recent tensor."""
        return self.tensors[name]

    def recent(self, name: str) -> Tensor:
        """(B, size, ...) last tokens, oldest first; those of earlier documents, or of before the start, are zero.

        It is not for writing, since it may be what the state holds.
        """
        value = self.tensors[name]
        if not self.packed:
            return value
        kept = self.recent_mask(value.shape[1]).reshape(value.shape[:2] + (1,) * (value.dim() - 2))
        return value.masked_fill(~kept, 0)

    def recent_mask(self, size: int) -> Tensor:
        """(B, size) bool: which of the last `size` slots hold a token of the current document."""
        slots = torch.arange(size, 0, -1, device=self.place.device)
        return slots <= self.place[:, None]

    def roll(self, name: str, values: Tensor, counts: Tensor | None = None) -> None:
        """Push a chunk's (B, L, ...) values into a recent tensor; what `recent` gave before stays as it is.

        Args:
            name: a tensor of shape (B, size, ...) set by `put`.
            values: the chunk, real tokens first in each row.
            counts: (B,) real tokens a row; None means all L.
        """
        old = self.tensors[name]
        size = old.shape[1]
        joined = torch.cat([old, values.to(old.dtype)], dim=1)
        if counts is None:
            last = joined[:, joined.shape[1] - size :]
            self.tensors[name] = last if values.shape[1] == 1 else last.clone()  # a view would keep the whole chunk
            return
        index = counts[:, None] + torch.arange(size, device=joined.device)
        index = index.reshape(index.shape + (1,) * (joined.dim() - 2)).expand(-1, -1, *joined.shape[2:])
        self.tensors[name] = joined.gather(1, index)

    def grow(self, name: str, heads: int, width: int, dtype: torch.dtype) -> None:
        """Declare a growing tensor of `heads` x `width` numbers a token."""
        self._growing[name] = torch.empty(self.seen.shape[0], heads, 0, width, dtype=dtype, device=self.seen.device)

    def append(self, name: str, values: Tensor) -> Tensor:
        """Write a chunk behind each row's tokens; call before `advance`.

        Args:
            name: what `grow` declared.
            values: (B, heads, L, width), real tokens first in each row.

        Returns:
            (B, heads, length + L, width): slot j of row b is that row's token j; slots beyond the
            row's own count hold nothing of use and must be masked.
        """
        buffer, needed = self._growing[name], self.length + values.shape[2]
        if buffer.shape[2] == 0:
            buffer = buffer.to(values.dtype)  # that of the activations, which autocast may have narrowed
        values = values.to(buffer.dtype)
        if buffer.shape[2] < needed or _must_not_write(buffer):
            capacity = needed if torch.is_grad_enabled() else self._capacity(needed, buffer.shape[2])
            larger = buffer.new_empty(*buffer.shape[:2], capacity, buffer.shape[3])
            larger[:, :, : self.length] = buffer[:, :, : self.length]
            buffer = larger
        if self.uniform:
            buffer[:, :, self.length : needed] = values
        else:
            buffer[:, :, self.length : needed] = 0  # shorter rows leave slots open
            slots = self.seen[:, None] + torch.arange(values.shape[2], device=values.device)
            buffer.scatter_(2, slots[:, None, :, None].expand_as(values), values)
        self._growing[name] = buffer
        return buffer[:, :, :needed]

    def ring(self, name: str, heads: int, size: int, width: int, dtype: torch.dtype) -> None:
        """Declare a ring of `size` tokens, of `heads` x `width` numbers each."""
        shape = (self.seen.shape[0], heads, size, width)
        self.tensors[name] = torch.zeros(shape, dtype=dtype, device=self.seen.device)

    def overwrite(self, name: str, values: Tensor, counts: Tensor | None = None) -> Tensor:
        """Write a chunk over the oldest tokens of a ring; call before `advance`.

        Args:
            name: what `ring` declared.
            values: (B, heads, L, width), real tokens first in each row.
            counts: (B,) real tokens a row; None means all L.

        Returns:
            (B, heads, size, width), the ring: slot t mod `size` of a row holds its token t.
        """
        ring, seen, length = self.tensors[name], self.seen, values.shape[2]
        size = ring.shape[2]
        if self.length == 0 and ring.dtype != values.dtype:
            ring = self.tensors[name] = ring.to(values.dtype)  # that of the activations, as in `append`
        values = values.to(ring.dtype)
        if length == 1 and counts is None and not _must_not_write(ring):
            if self.uniform:
                ring.select(2, self.length % size).copy_(values[:, :, 0])
            else:
                ring.scatter_(2, (seen % size)[:, None, None, None].expand_as(values), values)
            return ring
        if counts is None:
            values, seen = values[:, :, -size:], seen + max(length - size, 0)
        newest = seen + (values.shape[2] if counts is None else counts) - 1
        slots = torch.arange(size, device=ring.device)
        token = newest[:, None] - (newest[:, None] - slots) % size  # (B, size): which is in each slot from now on
        index = torch.where(token >= seen[:, None], size + token - seen[:, None], slots)[:, None, :, None]
        self.put(name, torch.cat([ring, values], dim=2).gather(2, index.expand_as(ring)))
        return self.tensors[name]

    def in_order(self, name: str) -> Tensor:
        """(B, heads, size - 1, width) of a ring's tokens, all but the oldest, the newest last."""
        ring = self.tensors[name]
        size = ring.shape[2]
        if self.uniform:
            return ring.roll(-(self.length % size), 2)[:, :, 1:]
        index = (self.seen[:, None] + torch.arange(1, size, device=ring.device)) % size
        return ring.gather(2, index[:, None, :, None].expand(-1, ring.shape[1], -1, ring.shape[3]))

    def ages(self, size: int) -> Tensor:
        """(B, size) int64: how long before the next token the one stands that a ring's slot holds, or will hold (0)."""
        return (self.seen[:, None] - torch.arange(size, device=self.seen.device)) % size

    def starts(self, layout: Layout) -> Tensor | None:
        """(B, L) bool: first tokens of documents in an aligned chunk; None where the chunk holds no new document."""
        return self.counters.starts(layout)

    def advance(self, length: int, layout: Layout) -> None:
        """Count an aligned chunk of `length` tokens; `TokenMixer.forward` calls it after `mix`."""
        self.counters = self.counters.after(length, layout)

    # ------------------------------------------------------------------ what users call

    def reorder(self, index: Tensor) -> None:
        """Keep the rows `index` (n,) integers, in that order; rows may repeat (beam search, repetition, selection)."""
        integers = isinstance(index, Tensor) and index.dtype in (torch.int64, torch.int32)
        if not integers or index.dim() != 1 or index.numel() == 0:
            found = (index.dtype, tuple(index.shape)) if isinstance(index, Tensor) else type(index).__name__
            raise ValueError(f"index: expected integers of shape (n,) with n at least 1, found {found}")
        self._apply(lambda tensor: tensor.index_select(0, index.to(tensor.device)))
        self.counters = self.counters.reordered(index)

    def detach(self) -> None:
        """Cut the graph, for truncated backpropagation through time."""
        self._apply(Tensor.detach)

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens of each row.

        Raises:
            ValueError: if the mixer holds more than growing tensors (a recurrence cannot be undone), if
                `length` is negative, or if the cut lies before the row's current document.
        """
        self.check_crop(length)
        if length < self.length:
            self.counters = self.counters.cropped(length)

    def reserve(self, length: int) -> None:
        """Make place for `length` tokens when growing tensors are next allocated, so that they need not grow again.

        Raises:
            ValueError: a length that is not an integer of at least 0.
        """
        self._reserved = check_length(length)

    def check_crop(self, length: int) -> None:
        """Raise what `crop` would raise, and change nothing."""
        if not isinstance(length, int) or length < 0:
            raise ValueError(f"length: expected an integer of at least 0, found {length!r}")
        if length >= self.length:
            return
        if any(tensor.numel() for tensor in self.tensors.values()):
            raise ValueError(
                f"crop(length={length}): this state has seen {self.length} tokens and cannot go back, since "
                f"{sorted(self.tensors)} keep a summary of the past; only states that keep every token can"
            )
        if bool((self.place < self.seen - length).any()):
            raise ValueError(f"crop(length={length}): the cut lies before the current document of a row")

    def clone(self) -> MixerState:
        """An independent copy; gradients flow through it, as through `Tensor.clone`."""
        other = copy.copy(self)
        other.tensors, other._growing = dict(self.tensors), dict(self._growing)
        other._apply(Tensor.clone)
        return other

    def __deepcopy__(self, memo: dict[int, object]) -> MixerState:
        return self.clone()

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return self.seen.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept: fixed and recent tensors, and the filled slots of growing ones.

        Growing tensors may have reserved up to as much again; counters are left out.
        """
        fixed = sum(tensor.nbytes for tensor in self.tensors.values())
        slots = sum(b.shape[0] * b.shape[1] * b.shape[3] * b.element_size() for b in self._growing.values())
        return fixed + slots * self.length

    def sign(self, owner: str) -> None:
        """Note whose state this is; `TokenMixer.init_state` calls it."""
        fixed = [(name, tuple(tensor.shape[1:])) for name, tensor in sorted(self.tensors.items())]
        growing = [(name, b.shape[1], b.shape[3]) for name, b in sorted(self._growing.items())]
        self.signature = (owner, *fixed, *growing)

    def _capacity(self, needed: int, there: int) -> int:
        """Slots to allocate: what was reserved, within reason, and beyond that twice as many as there are."""
        reserved = min(self._reserved, max(4 * needed, 1024))
        return reserved if needed <= reserved else max(needed, 2 * there, 16)

    def _apply(self, function: Callable[[Tensor], Tensor]) -> None:
        self.tensors = {name: function(tensor) for name, tensor in self.tensors.items()}
        self._growing = {name: function(tensor) for name, tensor in self._growing.items()}


def check_length(length: int) -> int:
    """The number of tokens that a state is to make place for.

    Raises:
        ValueError: not an integer of at least 0.

    Example:
        >>> check_length(3)
        3
    """
    if isinstance(length, bool) or not isinstance(length, int) or length < 0:
        raise ValueError(f"length: expected an integer of at least 0, found {length!r}")
    return length


def _must_not_write(tensor: Tensor) -> bool:
    """Whether autograd, or inference mode that has ended, forbids writing into a tensor."""
    return torch.is_grad_enabled() or (tensor.is_inference() and not torch.is_inference_mode_enabled())
