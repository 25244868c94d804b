"""A vector quantiser whose codes follow the data by moving averages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tokenmix.mixer import check_positive
from tokenmix.ops.common import without_autocast

MOMENTUM = 0.1  # of the running mean and variance
NOISE = 0.01  # of codes that begin at the same row, in standard deviations of the data
BLOCK = 2**22  # distances at a time


class VectorQuantiser(nn.Module):
    """M codes that stand for a stream of vectors; no gradients, all of it is buffers.

    `update` normalises a batch by its own mean and variance, assigns each vector to the nearest code (L2), and moves
    the averages:

        z    = (q - mean) / sqrt(var + eps);           the running mean and variance follow with momentum 0.1
        n_m <- decay n_m + (1 - decay) |{z assigned to m}|
        s_m <- decay s_m + (1 - decay) sum of the z assigned to m
        code_m = s_m / ((n_m + eps) / (N + M eps) N),  N = sum of n_m

    `codebook` is the codes in the space of the input, code * sqrt(running var + eps) + running mean.

    **Codes that nothing is assigned to.** Published codes begin with sums from N(0, 1) and counts of 0, so after one
    step a code that was not assigned is about s_m / eps long (norm 1e6), nothing is near it ever again, and most of a
    large codebook never lives. Here the first batch sets the running mean and variance, its rows (in random order, with
    noise of 0.01 where there are fewer rows than codes) become the codes with counts of 1, and a code whose count falls
    below `restart` times the mean count becomes a random row of the batch with the mean count. The threshold is a
    fraction of the mean, so it means the same for every size of batch and codebook; with 0.01 and decay 0.99, a code
    may go 458 updates without a vector. `init="normal", restart=None` is the published behaviour, which also keeps the
    smoothed counts in place of n_m.

    With torch.distributed, sums, counts and statistics are those of the batches of all processes, and rows are drawn by
    process 0, so every process holds the codebook that one process would have with the joined batch. All must call
    `update` equally often; a batch may be empty.

    Statistics stay in float32 when the module is cast to half precision. Recomputed forward passes (gradient
    checkpointing) update twice.

    Args:
        codes: M.
        dim: width of a code.
        decay: of the moving averages, at least 0 and below 1.
        eps: added to variances, and to counts before a division.
        init: "first_batch", or "normal" as published.
        restart: fraction of the mean count below which a code restarts, from 0 to 1; None: never, as published.

    Raises:
        ValueError, TypeError: sizes below 1, a decay, eps or restart out of range, or an unknown init.

    Example:
        >>> quantiser = VectorQuantiser(codes=2, dim=1)
        >>> quantiser.update(torch.tensor([[0.0], [0.0], [4.0]])).bincount().tolist() in ([1, 2], [2, 1], [3])
        True
        >>> quantiser.eval().codebook().shape
        torch.Size([2, 1])

    Source:
        van den Oord et al. 2017, arXiv 1711.00937, appendix A.1; normalised as in Dwivedi et al. 2023 (LargeGT), arXiv
        2312.11109; restarts as in Dhariwal et al. 2020, arXiv 2005.00341, section 3.1.
    """

    code: Tensor
    sums: Tensor
    counts: Tensor
    mean: Tensor
    variance: Tensor
    initialised: Tensor

    def __init__(
        self,
        codes: int,
        dim: int,
        *,
        decay: float = 0.99,
        eps: float = 1e-5,
        init: str = "first_batch",
        restart: float | None = 0.01,
    ) -> None:
        super().__init__()
        check_positive("codes", codes)
        check_positive("dim", dim)
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected at least 0 and below 1, found {decay}")
        if not eps > 0:
            raise ValueError(f"eps: expected a positive number, found {eps}")
        if init not in ("first_batch", "normal"):
            raise ValueError(f"init: expected 'first_batch' or 'normal', found {init!r}")
        if restart is not None and not 0 <= restart <= 1:
            raise ValueError(f"restart: expected None or a fraction from 0 to 1, found {restart}")
        self.codes, self.dim, self.decay, self.eps, self.init, self.restart = codes, dim, decay, eps, init, restart
        for name, shape in (("code", (codes, dim)), ("sums", (codes, dim)), ("counts", (codes,))):
            self.register_buffer(name, torch.empty(shape, dtype=torch.float32))
        for name in ("mean", "variance"):
            self.register_buffer(name, torch.empty(dim, dtype=torch.float32))
        self.register_buffer("initialised", torch.empty((), dtype=torch.bool))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Forget all data. Until the first batch codes are normal; counts are 1, or 0 with init "normal"."""
        fresh = self.init == "first_batch"
        code = torch.randn(self.codes, self.dim, dtype=torch.float32, device=self.code.device)
        set_buffer(self.code, code)
        set_buffer(self.sums, code if fresh else torch.randn_like(code))
        set_buffer(self.counts, torch.full_like(self.counts, float(fresh)))
        set_buffer(self.mean, torch.zeros_like(self.mean))
        set_buffer(self.variance, torch.ones_like(self.variance))
        set_buffer(self.initialised, torch.zeros_like(self.initialised))

    def codebook(self) -> Tensor:
        """(M, dim) codes in the space of the input, in float32; a new tensor, which later updates leave alone."""
        return self.code * (self.variance + self.eps).sqrt() + self.mean

    @torch.compiler.disable
    @torch.no_grad()
    def as_kept(self) -> tuple[Tensor, Tensor, Tensor]:
        """(M, dim) normalised codes, and the (dim,) running mean and deviation; copies, which updates leave alone."""
        return self.code.clone(), self.mean.clone(), (self.variance + self.eps).sqrt()

    @torch.no_grad()
    def assign(self, q: Tensor) -> Tensor:
        """The nearest code of each vector, normalised by the running mean and variance.

        Args:
            q: (..., dim) floats.

        Returns:
            (...) int64, from 0 to M - 1.
        """
        self._check(q, None)
        return self._nearest(self._normalise(q, self.mean, self.variance))

    @torch.compiler.disable
    @torch.no_grad()
    def update(self, q: Tensor, mask: Tensor | None = None) -> Tensor:
        """Assign vectors to codes, and in training move statistics and codes; in eval as `assign`.

        Args:
            q: (..., dim) floats.
            mask: (...) bool, True for vectors that are real; the others change nothing.

        Returns:
            (...) int64, the code of each vector among those from before the update; -1 where the mask is False.

        Raises:
            ValueError, TypeError: another width, shape or type; NaN or infinity among the real vectors.
        """
        self._check(q, mask)
        rows = q.detach().to(self.mean.dtype)
        rows = rows.reshape(-1, self.dim) if mask is None else rows[mask]
        assigned = self._update(rows) if self.training else self.assign(rows)
        if mask is None:
            return assigned.view(q.shape[:-1])
        return assigned.new_full(mask.shape, -1).masked_scatter_(mask, assigned)

    def extra_repr(self) -> str:
        """Sizes and habits."""
        return f"{self.codes}, {self.dim}, decay={self.decay}, init={self.init!r}, restart={self.restart}"

    def _update(self, rows: Tensor) -> Tensor:
        sizes = of_all_processes(len(rows), rows.device)
        total, offset = sum(sizes), sum(sizes[: dist.get_rank() if len(sizes) > 1 else 0])
        if total == 0:
            return torch.zeros(0, dtype=torch.int64, device=rows.device)
        z = self._normalise(rows, *self._statistics(rows, total))
        if not bool(summed((~z.isfinite()).sum()) == 0):  # before anything is changed for good
            raise ValueError("q: expected finite numbers, found NaN or infinity among the real vectors")
        if not self.initialised:
            if self.init == "first_batch":
                self.code.copy_(_draw(z, self.codes, total, offset))
                self.sums.copy_(self.code)
            self.initialised.fill_(total > 1)  # one vector has no spread: the next batch begins anew
        assigned = self._nearest(z)
        count = summed(torch.bincount(assigned, minlength=self.codes).to(self.counts.dtype))
        self.counts.mul_(self.decay).add_(count, alpha=1 - self.decay)
        self.sums.mul_(self.decay)
        self.sums.add_(summed(torch.zeros_like(self.sums).index_add_(0, assigned, z)), alpha=1 - self.decay)
        weight = self.counts.sum()
        smoothed = (self.counts + self.eps) / (weight + self.codes * self.eps) * weight
        if self.init == "normal":
            self.counts.copy_(smoothed)
        self.code.copy_(self.sums / smoothed[:, None])
        if self.restart is not None:
            self._restart(z, weight / self.codes, total, offset)
        return assigned

    def _restart(self, z: Tensor, mean_count: Tensor, total: int, offset: int) -> None:
        low = (self.counts < float(self.restart or 0) * mean_count).nonzero()[:, 0]
        if len(low):
            self.code[low] = _draw(z, len(low), total, offset)
            self.counts[low] = mean_count
            self.sums[low] = self.code[low] * mean_count

    def _statistics(self, rows: Tensor, total: int) -> tuple[Tensor, Tensor]:
        """(dim,) mean and variance to normalise by; the running ones follow. One vector alone has no variance."""
        if total == 1:
            if self.init == "first_batch" and not self.initialised:
                self.mean.copy_(summed(rows.sum(0)))
            return self.mean, self.variance
        mean = summed(rows.sum(0)) / total
        squares = summed((rows - mean).square().sum(0))
        momentum = 1.0 if self.init == "first_batch" and not self.initialised else MOMENTUM
        if bool(mean.isfinite().all() & squares.isfinite().all()):
            self.mean.lerp_(mean, momentum)
            self.variance.lerp_(squares / (total - 1), momentum)
        return mean, squares / total

    def _normalise(self, q: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return (q.detach().to(mean.dtype) - mean) * (variance + self.eps).rsqrt()

    def _nearest(self, z: Tensor) -> Tensor:
        """(..., dim) -> (...): argmin_m |z - code_m|^2 = argmin_m |code_m|^2 / 2 - z . code_m, in blocks."""
        flat, half = z.reshape(-1, self.dim), self.code.square().sum(1) / 2
        with without_autocast(z.device):
            blocks = flat.split(max(1, BLOCK // self.codes))
            found = [torch.addmm(half, block, self.code.T, alpha=-1).argmin(1) for block in blocks]
        return torch.cat(found).view(z.shape[:-1])

    def _check(self, q: Tensor, mask: Tensor | None) -> None:
        if not isinstance(q, Tensor) or not q.is_floating_point():
            raise TypeError(f"q: expected floats, found {getattr(q, 'dtype', type(q).__name__)}")
        if q.dim() < 1 or q.shape[-1] != self.dim:
            raise ValueError(f"q: expected shape (..., dim={self.dim}), found {tuple(q.shape)}")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != q.shape[:-1]):
            raise ValueError(
                f"mask: expected bool of shape {tuple(q.shape[:-1])}, found {mask.dtype} of {tuple(mask.shape)}"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Casts to half precision leave the statistics alone: moving averages would stand still there."""

        def keep_wide(x: Tensor) -> Tensor:
            moved = fn(x)
            return x.to(moved.device) if moved.is_floating_point() and moved.dtype.itemsize < 4 else moved

        return super()._apply(keep_wide, recurse)


def set_buffer(buffer: Tensor, value: Tensor) -> None:
    """Initialise a buffer, unless Hugging Face's loader has marked it as loaded from a checkpoint."""
    if not getattr(buffer, "_is_hf_initialized", False):
        buffer.copy_(value)


# ---------------------------------------------------------------------- many processes


def of_all_processes(value: int, device: torch.device) -> list[int]:
    """An integer of each process, by rank; `[value]` where there is one."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return [value]
    mine = torch.tensor([value], device=device)
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine)
    return [int(x) for x in found]


def summed(x: Tensor) -> Tensor:
    """The sum over all processes, in place; `x` itself where there is one."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(x)
    return x


def _draw(z: Tensor, count: int, total: int, offset: int) -> Tensor:
    """(count, dim) rows of the joined batch, where z begins at `offset`, in random order; repeated ones with noise."""
    rounds = -(-count // total)
    index = torch.cat([torch.randperm(total) for _ in range(rounds)])[:count].to(z.device)
    noise = torch.randn(max(0, count - total), z.shape[1], dtype=z.dtype).to(z.device)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast(index, 0)
        dist.broadcast(noise, 0)
    rows = z.new_zeros(count, z.shape[1])
    mine = (index >= offset) & (index < offset + len(z))
    rows[mine] = z[index[mine] - offset]
    summed(rows)
    rows[total:] += NOISE * noise
    return rows
