"""What a causal mixer remembers between calls: named tensors, batch first, advanced in place."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from tokenmix.layout import Layout


class MixerState:
    """The memory of one mixer for a batch of rows.

    Three kinds of tensors, all with the batch first:

    - fixed (`put`): rewritten at each call, such as the state of a recurrence;
    - recent (`recent`, `roll`): the last `size` tokens, such as the inputs of a convolution or the
      keys of a sliding window; right-aligned, so that the newest is last;
    - growing (`append`): one slot a real token, such as the keys of full attention.

    A row's slots hold its real tokens only, without holes, whatever padding the chunks carried.

    Attributes:
        seen: (B,) int64, real tokens read so far.
        place: (B,) int64, real tokens read so far of the document that the row is in.
        segment: (B,) int64, number of the last document (0 before the first token).
        length: the largest `seen`, as a Python integer.
        uniform: True as long as every row has seen the same number of tokens.
        packed: True once a chunk came with segments.
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
        self.seen = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.place = torch.zeros_like(self.seen)
        self.segment = torch.zeros_like(self.seen)
        self.length = 0
        self.uniform = True
        self.tensors: dict[str, Tensor] = {}
        self._growing: dict[str, Tensor] = {}  # (B, H, capacity, D)
        self.signature: tuple[object, ...] = ()
        self.packed = False  # True once documents were packed in a row

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
        """(B, size, ...) last tokens, oldest first; those of earlier documents, or of before the start, are zero."""
        value = self.tensors[name]
        kept = self.recent_mask(value.shape[1]).reshape(value.shape[:2] + (1,) * (value.dim() - 2))
        return value.masked_fill(~kept, 0)

    def recent_mask(self, size: int) -> Tensor:
        """(B, size) bool: which of the last `size` slots hold a token of the current document."""
        slots = torch.arange(size, 0, -1, device=self.place.device)
        return slots <= self.place[:, None]

    def roll(self, name: str, values: Tensor, counts: Tensor | None = None) -> None:
        """Push a chunk's (B, L, ...) values into a recent tensor.

        Args:
            name: a tensor of shape (B, size, ...) set by `put`.
            values: the chunk, real tokens first in each row.
            counts: (B,) real tokens a row; None means all L.
        """
        old = self.tensors[name]
        size = old.shape[1]
        joined = torch.cat([old, values.to(old.dtype)], dim=1)
        if counts is None:
            self.put(name, joined[:, joined.shape[1] - size :])
            return
        index = counts[:, None] + torch.arange(size, device=joined.device)
        index = index.reshape(index.shape + (1,) * (joined.dim() - 2)).expand(-1, -1, *joined.shape[2:])
        self.put(name, joined.gather(1, index))

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
            capacity = needed if torch.is_grad_enabled() else max(needed, 2 * buffer.shape[2], 16)
            larger = buffer.new_zeros(*buffer.shape[:2], capacity, buffer.shape[3])
            larger[:, :, : self.length] = buffer[:, :, : self.length]
            buffer = larger
        if self.uniform:
            buffer[:, :, self.length : needed] = values
        else:
            slots = self.seen[:, None] + torch.arange(values.shape[2], device=values.device)
            buffer.scatter_(2, slots[:, None, :, None].expand_as(values), values)
        self._growing[name] = buffer
        return buffer[:, :, :needed]

    def starts(self, layout: Layout) -> Tensor | None:
        """(B, L) bool: first tokens of documents in an aligned chunk; None where the chunk holds no new document."""
        if layout.segments is None:
            return None
        segments = layout.segments.long()
        before = torch.where(self.seen > 0, self.segment, segments[:, 0])
        starts = torch.cat([before[:, None], segments[:, :-1]], dim=1) != segments
        return starts if layout.mask is None else starts & layout.mask

    def advance(self, length: int, layout: Layout) -> None:
        """Count an aligned chunk of `length` tokens; `TokenMixer.forward` calls it after `mix`."""
        counts = layout.counts()
        read = torch.full_like(self.seen, length) if counts is None else counts
        if layout.segments is None:
            self.place = self.place + read
        else:
            self.packed = True
            places = chunk_places(length, layout, self)
            last = (read - 1).clamp(min=0)[:, None]
            moved = read > 0
            self.place = torch.where(moved, places.gather(1, last)[:, 0] + 1, self.place)
            self.segment = torch.where(moved, layout.segments.long().gather(1, last)[:, 0], self.segment)
        self.seen = self.seen + read
        if counts is None:
            self.length += length
        else:
            self._measure()

    # ------------------------------------------------------------------ what users call

    def reorder(self, index: Tensor) -> None:
        """Keep the rows `index` (n,) integers, in that order; rows may repeat (beam search, repetition, selection)."""
        integers = isinstance(index, Tensor) and index.dtype in (torch.int64, torch.int32)
        if not integers or index.dim() != 1 or index.numel() == 0:
            found = (index.dtype, tuple(index.shape)) if isinstance(index, Tensor) else type(index).__name__
            raise ValueError(f"index: expected integers of shape (n,) with n at least 1, found {found}")
        self._apply(lambda tensor: tensor.index_select(0, index.to(tensor.device)))
        self._measure()

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
        if length >= self.length:
            return
        seen = self.seen.clamp(max=length)
        self.place = self.place - (self.seen - seen)
        self.seen = seen
        self._measure()

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

    def _measure(self) -> None:
        self.length = int(self.seen.max())
        self.uniform = bool((self.seen == self.length).all())

    def _apply(self, function: Callable[[Tensor], Tensor]) -> None:
        self.seen, self.place, self.segment = map(function, (self.seen, self.place, self.segment))
        self.tensors = {name: function(tensor) for name, tensor in self.tensors.items()}
        self._growing = {name: function(tensor) for name, tensor in self._growing.items()}


def _must_not_write(tensor: Tensor) -> bool:
    """Whether autograd, or inference mode that has ended, forbids writing into a tensor."""
    return torch.is_grad_enabled() or (tensor.is_inference() and not torch.is_inference_mode_enabled())


def chunk_places(length: int, layout: Layout, state: MixerState | None, device: torch.device | None = None) -> Tensor:
    """(B, L) or (1, L) int64: how many tokens of its document stand before each token of an aligned chunk.

    Example:
        >>> chunk_places(4, Layout(segments=torch.tensor([[0, 0, 1, 1]])), None).tolist()
        [[0, 1, 0, 1]]
    """
    if layout.segments is None:
        index = torch.arange(length, device=device if state is None else state.place.device)
        return index[None] if state is None else index + state.place[:, None]
    index = torch.arange(length, device=layout.segments.device).expand(layout.segments.shape)
    starts = document_starts(layout, state)
    if starts is None:
        return index
    first = torch.where(starts, index, -1).cummax(dim=1).values  # -1: the document began in an earlier chunk
    carried = torch.zeros_like(index[:, :1]) if state is None else state.place[:, None]
    return torch.where(first >= 0, index - first, index + carried)


def document_starts(layout: Layout, state: MixerState | None = None) -> Tensor | None:
    """(B, L) bool: first tokens of the documents of an aligned layout; None for one document a row.

    With a state, a chunk that goes on with the state's document does not start one.
    """
    if state is not None:
        return state.starts(layout)
    if layout.segments is None:
        return None
    segments = layout.segments
    before = torch.cat([segments[:, :1] - 1, segments[:, :-1]], dim=1)
    starts = before != segments
    return starts if layout.mask is None else starts & layout.mask
