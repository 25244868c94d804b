"""How `tokenmix.ops.chunked_scan` runs: one token, or chunks of tokens as matrix products."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenmix.ops.common import check_axes, check_tensor


def scan_step(
    v: Tensor, log_decay: Tensor | None, k: Tensor, q: Tensor, starts: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One token."""
    rows, _, heads, width = v.shape
    groups, size = k.shape[2:]
    share = (rows, groups, heads // groups)
    written = (v.reshape(*share, width, 1) * k.reshape(rows, groups, 1, 1, size)).reshape(rows, heads, width, size)
    if state is not None:
        keep = None if log_decay is None else log_decay[:, 0].exp()  # (B, H)
        if starts is not None:
            keep = (~starts).to(v.dtype) if keep is None else keep * ~starts
        written = written + state if keep is None else torch.addcmul(written, state, keep[..., None, None])
    y = written.reshape(rows, groups, -1, size) @ q.reshape(rows, groups, size, 1)
    return y.reshape(rows, 1, heads, width), written


def scan_chunks(
    v: Tensor,
    log_decay: Tensor | None,
    k: Tensor,
    q: Tensor,
    starts: Tensor | None,
    state: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Many tokens, in c chunks of s."""
    rows, length, heads, width = v.shape
    groups, size = k.shape[2:]
    count = -(-length // chunk)
    span = -(-length // count)  # equal chunks need the least filling
    fill = count * span - length
    v, k, q = (F.pad(tensor, (0, 0, 0, 0, 0, fill)) for tensor in (v, k, q)) if fill else (v, k, q)
    v = v.reshape(rows, count, span, heads, width)
    k, q = (tensor.reshape(rows, count, span, groups, size).transpose(2, 3) for tensor in (k, q))  # (B, c, G, s, N)
    document = None
    if starts is not None:  # (B, c, s): 0 for tokens that still read the state with which the chunk begins
        document = F.pad(starts, (0, fill)).view(rows, count, span).cumsum(2)
    total = None
    if log_decay is not None:
        total = F.pad(log_decay, (0, 0, 0, fill)).view(rows, count, span, heads).cumsum(2)

    inside = _inside(v, total, k, q, document)
    enter, leave, through = _borders(total, document, v.dtype)
    kept = v if leave is None else v * leave[..., None]
    grouped = kept.reshape(rows, count, span, groups, -1).transpose(2, 3)  # (B, c, G, s, H/G P)
    added = (grouped.transpose(3, 4) @ k).view(rows, count, heads, width, size)
    before, state = _between(added, through, state)
    before = before.view(rows, count, groups, -1, size)
    y = (q @ before.transpose(3, 4)).transpose(2, 3).reshape(v.shape)
    y = inside + y if enter is None else torch.addcmul(inside, y, enter[..., None])
    return y.reshape(rows, -1, heads, width)[:, :length], state


def _inside(v: Tensor, total: Tensor | None, k: Tensor, q: Tensor, document: Tensor | None) -> Tensor:
    """What tokens read from their own chunk: (B, c, s, H, P)."""
    rows, count, span, heads, width = v.shape
    groups = k.shape[2]
    hidden = torch.ones(span, span, dtype=torch.bool, device=v.device).triu(1)  # no token reads a later one
    if document is not None:
        hidden = (hidden | (document.unsqueeze(3) != document.unsqueeze(2))).unsqueeze(2)  # (B, c, 1, s, s)
    scores = q @ k.transpose(3, 4)  # (B, c, G, s, s)
    if total is None:
        v = v.reshape(rows, count, span, groups, -1).transpose(2, 3)  # all heads of a group in one product
        return (scores.masked_fill(hidden, 0) @ v).transpose(2, 3).reshape(rows, count, span, heads, width)
    total = total.transpose(2, 3)  # (B, c, H, s)
    gaps = total.unsqueeze(4) - total.unsqueeze(3)
    decay = gaps.masked_fill(hidden, -torch.inf).exp()  # hidden before exp: later tokens would overflow
    weights = decay.view(rows, count, groups, -1, span, span) * scores.unsqueeze(3)
    return (weights.view(decay.shape) @ v.transpose(2, 3)).transpose(2, 3)


def _borders(
    total: Tensor | None, document: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Factors on the way into a chunk and out of it (B, c, s, H or 1), and through it (B, c, H or 1, 1, 1)."""
    enter = leave = None
    if total is not None:
        enter, leave = total.exp(), (total[:, :, -1:] - total).exp()
    if document is not None:
        same = (document == 0).to(dtype)[..., None]
        last = (document == document[..., -1:]).to(dtype)[..., None]
        enter, leave = (same, last) if enter is None or leave is None else (enter * same, leave * last)
    return enter, leave, None if enter is None else enter[:, :, -1, :, None, None]


def _between(added: Tensor, through: Tensor | None, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """States before each chunk (B, c, H, P, N), and the last one."""
    chunks = added.unbind(1)
    factors = [None] * len(chunks) if through is None else through.unbind(1)
    state = torch.zeros_like(chunks[0]) if state is None else state
    before = []
    for new, factor in zip(chunks, factors, strict=True):
        before.append(state)
        state = new + state if factor is None else torch.addcmul(new, factor, state)
    return torch.stack(before, 1), state


def check_scan(
    v: Tensor,
    log_decay: Tensor | None,
    k: Tensor,
    q: Tensor,
    starts: Tensor | None,
    mask: Tensor | None,
    state: Tensor | None,
    chunk: int,
    names: tuple[str, str, str] = ("v", "k", "q"),
) -> None:
    """Refuse arguments of `chunked_scan` that do not fit each other."""
    check_axes(names[0], v, "(B, L, H, P)", 4)
    check_axes(names[1], k, "(B, L, G, N)", 4)
    (rows, length, heads, width), (groups, size) = v.shape, k.shape[2:]
    if heads % groups:
        raise ValueError(
            f"{names[1]}: expected a number of groups that divides the {heads} heads of {names[0]}, found {groups}"
        )
    check_tensor(names[1], k, "(B, L, G, N)", (rows, length, groups, size), v.device)
    check_tensor(names[2], q, "(B, L, G, N)", (rows, length, groups, size), v.device)
    if log_decay is not None:
        check_tensor("log_decay", log_decay, "(B, L, H)", (rows, length, heads), v.device)
    if starts is not None:
        check_tensor("starts", starts, "(B, L)", (rows, length), v.device, kind="bool")
    if mask is not None:
        check_tensor("mask", mask, "(B, L)", (rows, length), v.device, kind="bool")
    if state is not None:
        check_tensor("state", state, "(B, H, P, N)", (rows, heads, width, size), v.device)
    if isinstance(chunk, bool) or not isinstance(chunk, int):
        raise TypeError(f"chunk: expected a positive integer, found {chunk!r}")
    if chunk < 1:
        raise ValueError(f"chunk: expected a positive integer, found {chunk}")
