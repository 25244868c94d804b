"""Recurrences with one decay a head, as matrix products: Mamba-2 and linear attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenmix import kernels
from tokenmix.ops import cuda
from tokenmix.ops.chunks import check_scan, scan_chunks, scan_step
from tokenmix.ops.common import check_axes, check_tensor, without_autocast
from tokenmix.ops.native_ssd import native_ssd
from tokenmix.ops.precision import at_least_float32


def chunked_scan(
    v: Tensor,
    log_decay: Tensor | None,
    k: Tensor,
    q: Tensor,
    *,
    starts: Tensor | None = None,
    mask: Tensor | None = None,
    state: Tensor | None = None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """Run a recurrence whose state is a matrix along L.

    S_t = exp(log_decay_t) S_(t-1) + v_t k_t^T;  y_t = S_t q_t.

    Inside a chunk, tokens read each other by a masked matrix of q k^T; between chunks they read the state.
    Decays are folded into v and y, so that k and q are never repeated for the heads of a group.

    Args:
        v: (B, L, H, P) values.
        log_decay: (B, L, H), finite and at most 0; None for no decay.
        k: (B, L, G, N) how a token is written; G divides H, and head h uses group h // (H / G).
        q: (B, L, G, N) how the state is read.
        starts: (B, L) bool, first tokens of documents: what came before them is forgotten.
        mask: (B, L) bool, False at padding: the state passes it unchanged, and the output there is 0.
        state: (B, H, P, N) state before the first token; default 0.
        chunk: most tokens in a chunk. Any value gives the same result; beyond 64, float32 loses digits.

    Returns:
        y: (B, L, H, P), in the type of v.
        state: (B, H, P, N) after the last token, float32 (float64 for a float64 v).

    Raises:
        TypeError, ValueError: an argument of another type, shape, device or range.

    Example:
        >>> v = torch.ones(1, 3, 1, 1)
        >>> y, state = chunked_scan(v, torch.full((1, 3, 1), 0.5).log(), v, v)
        >>> y.flatten().tolist()
        [1.0, 1.5, 1.75]

    Source:
        Dao and Gu, "Transformers are SSMs", 2024, arXiv 2405.21060 (the state space dual form).
    """
    check_scan(v, log_decay, k, q, starts, mask, state, chunk)
    kind, v = v.dtype, at_least_float32(v)
    k, q = k.to(v.dtype), q.to(v.dtype)
    state = None if state is None else state.to(v.dtype)
    log_decay = None if log_decay is None else log_decay.to(v.dtype)
    if kernels.serves(v) and v.shape[1] > 1:
        y, state = native_ssd(v, log_decay, k, q, starts, mask, state)
        return y.to(kind), state
    if mask is not None:
        padding = ~mask[..., None]
        v, k, q = (tensor.masked_fill(padding[..., None], 0) for tensor in (v, k, q))
        log_decay = None if log_decay is None else log_decay.masked_fill(padding, 0)
        starts = None if starts is None else starts & mask
    with without_autocast(v.device):
        if v.shape[1] == 1:
            y, state = scan_step(v, log_decay, k, q, starts, state)
        else:
            y, state = scan_chunks(v, log_decay, k, q, starts, state, chunk)
    return y.to(kind), state


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    normalize: bool = True,
    eps: float = 1e-6,
    starts: Tensor | None = None,
    segments: Tensor | None = None,
    mask: Tensor | None = None,
    state: Tensor | None = None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor | None]:
    """Attend with a kernel in the place of the softmax, in time that grows with L.

    y_t = sum_s (q_t . k_s) v_s / (sum_s q_t . k_s + eps), over the s of the document of t, up to t if causal.

    Args:
        q: (B, L, H, N) queries that have gone through the feature map; not negative if normalized.
        k: (B, L, H, N) keys, likewise.
        v: (B, L, H, P) values.
        causal: whether tokens read only the past and themselves.
        normalize: whether to divide by the sum of the weights.
        eps: added to the sum of the weights.
        starts: (B, L) bool, first tokens of documents. The first token of a row without one goes on with the state.
        segments: (B, L) integers, one number for each document packed in a row; used where `starts` is not given.
        mask: (B, L) bool, False at padding: nobody reads it, and the output there is 0.
        state: (B, H, P + 1, N), without `normalize` (B, H, P, N): state before the first token, if causal.
        chunk: as in `chunked_scan`.

    Returns:
        y: (B, L, H, P), in the type of v.
        state: like `state` after the last token, float32 (float64 for a float64 v); None if not causal.

    Raises:
        TypeError, ValueError: an argument of another type, shape, device or range, or a state if not causal.

    Example:
        >>> q, v = torch.ones(1, 3, 1, 1), torch.tensor([1.0, 3.0, 5.0]).view(1, 3, 1, 1)
        >>> y, _ = linear_attention(q, q, v, eps=0)
        >>> y.flatten().tolist()
        [1.0, 2.0, 3.0]
        >>> y, _ = linear_attention(q, q, v, eps=0, causal=False)
        >>> y.flatten().tolist()
        [3.0, 3.0, 3.0]

    Source:
        Katharopoulos et al., "Transformers are RNNs", 2020, arXiv 2006.16236.
    """
    check_axes("v", v, "(B, L, H, P)", 4)
    check_axes("k", k, "(B, L, H, N)", 4)
    (rows, length, heads, width), size = v.shape, k.shape[3]
    check_tensor("k", k, "(B, L, H, N)", (rows, length, heads, size), v.device)
    check_tensor("q", q, "(B, L, H, N)", (rows, length, heads, size), v.device)
    if starts is None and segments is not None:
        check_tensor("segments", segments, "(B, L)", (rows, length), v.device, kind="integer")
        starts = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0))
    if state is not None:
        if not causal:
            raise ValueError("state: expected None for attention that is not causal, found a tensor")
        axes = "(B, H, P + 1, N)" if normalize else "(B, H, P, N)"
        check_tensor("state", state, axes, (rows, heads, width + normalize, size), v.device)
    kind, v = v.dtype, at_least_float32(v)
    if normalize:
        v = F.pad(v, (0, 1), value=1.0)  # the last column sums the weights
    if causal:
        y, state = chunked_scan(v, None, k, q, starts=starts, mask=mask, state=state, chunk=chunk)
    else:
        y = _whole_documents(q, k, v, starts, mask, chunk)
    if normalize:
        total = y[..., -1:] + eps
        y = y[..., :-1] / (total if mask is None else total.masked_fill(~mask[..., None, None], 1))
    return y.to(kind), state


def _whole_documents(q: Tensor, k: Tensor, v: Tensor, starts: Tensor | None, mask: Tensor | None, chunk: int) -> Tensor:
    """Every token reads all of its document: the tokens up to it and, along the reversed row, those after it."""
    check_scan(v, None, k, q, starts, mask, None, chunk)
    q, k = q.to(v.dtype), k.to(v.dtype)
    if mask is not None:
        q, k, v = (tensor.masked_fill(~mask[..., None, None], 0) for tensor in (q, k, v))
    if starts is None:  # one document a row: one sum
        with without_autocast(v.device):
            sums = k.permute(0, 2, 3, 1) @ v.transpose(1, 2)  # (B, H, N, P)
            return (q.transpose(1, 2) @ sums).transpose(1, 2)
    past, _ = chunked_scan(v, None, k, q, starts=starts, chunk=chunk)
    ends = F.pad(starts[:, 1:], (0, 1), value=True)
    after_k, after_v = (F.pad(tensor[:, 1:], (0, 0, 0, 0, 0, 1)) for tensor in (k, v))  # token t + 1 in place t
    after_v = after_v.masked_fill(ends[..., None, None], 0)
    future, _ = chunked_scan(after_v.flip(1), None, after_k.flip(1), q.flip(1), starts=ends.flip(1), chunk=chunk)
    return past + future.flip(1)


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    starts: Tensor | None = None,
    mask: Tensor | None = None,
    state: Tensor | None = None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """Run the state space recurrence of Mamba-2 along L.

    S_t = exp(dt_t A) S_(t-1) + (dt_t x_t) B_t^T;  y_t = S_t C_t + D x_t, for each head.

    Args:
        x: (B, L, H, P) input.
        dt: (B, L, H) step sizes, positive.
        A: (H,) rates, negative.
        B: (B, L, G, N) how a token is written; G divides H.
        C: (B, L, G, N) how the state is read.
        D: (H,) or (H, P) weight of the input itself in the output.
        starts: (B, L) bool, as in `chunked_scan`.
        mask: (B, L) bool, as in `chunked_scan`.
        state: (B, H, P, N), as in `chunked_scan`.
        chunk: as in `chunked_scan`.

    Returns:
        y: (B, L, H, P), in the type of x.
        state: (B, H, P, N) after the last token, float32 (float64 for a float64 x).

    Raises:
        TypeError, ValueError: an argument of another type, shape, device or range.

    Example:
        >>> x = torch.ones(1, 2, 1, 1)
        >>> y, _ = ssd(x, x[..., 0], torch.tensor([-1.0]), x, x, D=torch.tensor([1.0]))
        >>> y.flatten()
        tensor([2.0000, 2.3679])

    Source:
        Dao and Gu, "Transformers are SSMs", 2024, arXiv 2405.21060.
    """
    check_scan(x, None, B, C, starts, mask, state, chunk, names=("x", "B", "C"))
    rows, length, heads, width = x.shape
    check_tensor("dt", dt, "(B, L, H)", (rows, length, heads), x.device)
    check_tensor("A", A, "(H,)", (heads,), x.device)
    wide = isinstance(D, Tensor) and D.dim() == 2
    if D is not None:
        check_tensor("D", D, "(H, P)" if wide else "(H,)", (heads, width) if wide else (heads,), x.device)
    kind, x = x.dtype, at_least_float32(x)
    dt, A, B, C = (tensor.to(x.dtype) for tensor in (dt, A, B, C))
    if kernels.serves(x) and length > 1 and not wide:
        dt = dt if mask is None else dt.masked_fill(~mask[..., None], 0)
        state = None if state is None else state.to(x.dtype)
        D = None if D is None else D.to(x.dtype)
        y, state = native_ssd(x, dt * A, B, C, starts, mask, state, scale=dt, skip=D)
        return y.to(kind), state
    if starts is None and not wide and length > 1 and cuda.chunks.serves(x):
        y, state = cuda.chunks(x, dt, A, B, C, D, mask, state, chunk)
        return y.to(kind), state
    if mask is not None:
        x, dt = x.masked_fill(~mask[..., None, None], 0), dt.masked_fill(~mask[..., None], 0)
    y, state = chunked_scan(x * dt[..., None], dt * A, B, C, starts=starts, mask=mask, state=state, chunk=chunk)
    if D is not None:
        y = torch.addcmul(y, x, (D if wide else D[:, None]).to(x.dtype))
    return y.to(kind), state
