"""Kernels of mamba-ssm and causal-conv1d, where the tensors are on CUDA and a probe shows that they run there.

Whether a package can be imported says nothing: it may be built for another torch, CUDA or GPU. So each kernel is tried
once a device, on a small problem whose answer is known; if it fails, plain torch serves, with one warning. What the
kernels cannot do (documents packed in a row, a first state of Mamba-1) goes to plain torch too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmix import kernels

_TOLERANCE = 1e-3


class CudaKernel:
    """A function of another package, and the probe that proves it.

    Args:
        package: what to install.
        function: calls the package; imports it.
        probe: (kernel, device) -> what it computes there, and what is right.
    """

    def __init__(self, package: str, function: Callable[..., Any], probe: Callable[..., tuple[Tensor, Tensor]]) -> None:
        self.package, self.function, self.probe = package, function, probe
        self.verdicts: dict[torch.device, str] = {}  # "" where it runs

    def verdict(self, device: torch.device) -> str:
        """Why the kernel does not run on a device; "" if it does. Found out at the first call."""
        if device not in self.verdicts:
            try:
                found, right = self.probe(self.function, device)
                error = float((found.cpu().double() - right.cpu().double()).abs().max())
                self.verdicts[device] = "" if error <= _TOLERANCE else f"the probe is off by {error:.1e}"
            except Exception as error:  # whatever a foreign binary raises, plain torch serves
                self.verdicts[device] = f"{type(error).__name__}: {error}".split("\n")[0][:200]
            if self.verdicts[device]:
                warnings.warn(
                    f"{self.package} does not serve on {device} ({self.verdicts[device]}); plain torch does, slower",
                    stacklevel=3,
                )
        return self.verdicts[device]

    def serves(self, x: Tensor) -> bool:
        """Whether to use the kernel for tensors like x."""
        if x.device.type != "cuda" or x.dtype == torch.float64 or torch.compiler.is_compiling() or kernels.unwanted():
            return False
        return not self.verdict(x.device)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the package."""
        return self.function(*args, **kwargs)


class _NoGradient(torch.autograd.Function):
    """Marks a result through which a kernel cannot take gradients, so that they are never silently lost."""

    @staticmethod
    def forward(_: Any, x: Tensor, __: Tensor) -> Tensor:
        """x, as something that depends on the second tensor."""
        return x.clone()

    @staticmethod
    def backward(_: Any, *__: Tensor) -> Any:
        """Refuse."""
        raise RuntimeError(
            "selective_scan: mamba-ssm's kernel takes no gradients through the last state; "
            "call it within tokenmix.kernels.use('torch')"
        )


def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    softplus: bool,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As `selective_scan` without starts and state, all in float32."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    if mask is not None:  # steps of size 0 at padding
        dt = dt if dt_bias is None else dt + dt_bias
        dt = F.softplus(dt) if softplus else dt
        padding = ~mask[..., None]
        x, dt, B, C = (tensor.masked_fill(padding, 0) for tensor in (x, dt, B, C))
        z = None if z is None else z.masked_fill(padding, 0)
        dt_bias, softplus = None, False
    first = [tensor.transpose(1, 2) for tensor in (x, dt)]  # (B, C, L)
    gate = None if z is None else z.transpose(1, 2)
    y, last = selective_scan_fn(
        *first,
        A,
        B.transpose(1, 2),
        C.transpose(1, 2),
        D=D,
        z=gate,
        delta_bias=dt_bias,
        delta_softplus=softplus,
        return_last_state=True,
    )
    return y.transpose(1, 2), _NoGradient.apply(last.detach(), y)


def _ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    mask: Tensor | None,
    state: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """As `ssd` without starts, all in float32."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    if mask is not None:
        dt = dt.masked_fill(~mask[..., None], 0)
        x, B, C = (tensor.masked_fill(~mask[..., None, None], 0) for tensor in (x, B, C))
    result: tuple[Tensor, Tensor] = mamba_chunk_scan_combined(
        x, dt, A, B, C, chunk, D=D, initial_states=state, return_final_states=True
    )
    return result


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """As `depthwise_conv`, causal, without starts and state, 2 to 4 taps, channels in eights."""
    from causal_conv1d import causal_conv1d_fn

    if x.stride(2) != 1 or any(
        stride % 8 for stride in x.stride()[:2]
    ):  # as the package asks of channels that lie last
        x = x.contiguous()
    y: Tensor = causal_conv1d_fn(x.transpose(1, 2), weight, bias, activation="silu" if silu else None)
    return y.transpose(1, 2)


def _numbers(*shape: int, device: torch.device) -> Tensor:
    count = torch.Size(shape).numel()
    return (torch.arange(count, device=device) % 7 / 7 + 0.1).float().view(shape)


def _probe_scan(kernel: Callable[..., Any], device: torch.device) -> tuple[Tensor, Tensor]:
    from tokenmix.ops.selective_scan import selective_scan

    x, dt, A, B = (_numbers(*shape, device=device) for shape in ((1, 9, 8), (1, 9, 8), (8, 16), (1, 9, 16)))
    right, _ = selective_scan(*(tensor.cpu().double() for tensor in (x, dt, -A, B, B)))
    return kernel(x, dt, -A, B, B, None, None, None, False, None)[0], right


def _probe_ssd(kernel: Callable[..., Any], device: torch.device) -> tuple[Tensor, Tensor]:
    from tokenmix.ops.chunked_scan import ssd

    x, dt, A, B = (_numbers(*shape, device=device) for shape in ((1, 40, 2, 16), (1, 40, 2), (2,), (1, 40, 1, 16)))
    right, _ = ssd(*(tensor.cpu().double() for tensor in (x, dt, -A, B, B)))
    return kernel(x, dt, -A, B, B, None, None, None, 64)[0], right


def _probe_conv(kernel: Callable[..., Any], device: torch.device) -> tuple[Tensor, Tensor]:
    from tokenmix.ops.conv import depthwise_conv

    x, weight = _numbers(1, 9, 20, device=device)[..., 3:11], _numbers(8, 4, device=device)  # a slice, as in Mamba-2
    return kernel(x, weight, None, False), depthwise_conv(x.cpu().double(), weight.cpu().double())


scan = CudaKernel("mamba-ssm", _scan, _probe_scan)
chunks = CudaKernel("mamba-ssm", _ssd, _probe_ssd)
conv = CudaKernel("causal-conv1d", _conv, _probe_conv)
KERNELS = {"selective scan": scan, "scan of Mamba-2": chunks, "short convolution": conv}
