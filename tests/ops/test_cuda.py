"""Kernels of other packages: how they are called, probed and refused.

The packages need a GPU. Stand-ins with the documented interfaces of mamba-ssm and causal-conv1d take their place, and
tensors of the CPU are taken for ones on CUDA. Where there is a GPU with the packages, the last test runs them.
"""

import sys
import types
import warnings

import pytest
import torch
import torch.nn.functional as F

from tokenmix import kernels
from tokenmix.ops import cuda
from tokenmix.ops.chunked_scan import ssd
from tokenmix.ops.conv import depthwise_conv
from tokenmix.ops.loop_scan import loop_scan
from tokenmix.ops.selective_scan import selective_scan

calls = []


def selective_scan_fn(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):
    """mamba-ssm's interface: (B, C, L) and (B, N, L); no gradient through the last state."""
    calls.append("scan")
    delta = delta if delta_bias is None else delta + delta_bias[:, None]
    delta = F.softplus(delta) if delta_softplus else delta
    y, last = loop_scan(*(x.mT for x in (delta, delta * u)), A, B.mT, C.mT, None, None)
    y = y.mT if D is None else y.mT + D[:, None] * u
    y = y if z is None else y * F.silu(z)
    return (y, last.detach()) if return_last_state else y


def mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, D=None, initial_states=None, return_final_states=False):
    calls.append("ssd")
    with kernels.use("torch"):
        y, last = ssd(x, dt, A, B, C, D=D, state=initial_states, chunk=chunk_size)
    return (y, last) if return_final_states else y


def causal_conv1d_fn(x, weight, bias=None, activation=None):
    calls.append("conv")
    wide = F.pad(x, (weight.shape[1] - 1, 0))
    y = F.conv1d(wide, weight[:, None], bias, groups=len(weight))
    return y if activation is None else F.silu(y)


@pytest.fixture
def packages(monkeypatch):
    """The stand-ins installed, and CPU tensors taken for CUDA ones."""
    modules = {
        "mamba_ssm": types.ModuleType("mamba_ssm"),
        "mamba_ssm.ops": types.ModuleType("mamba_ssm.ops"),
        "mamba_ssm.ops.triton": types.ModuleType("mamba_ssm.ops.triton"),
        "mamba_ssm.ops.selective_scan_interface": types.SimpleNamespace(selective_scan_fn=selective_scan_fn),
        "mamba_ssm.ops.triton.ssd_combined": types.SimpleNamespace(mamba_chunk_scan_combined=mamba_chunk_scan_combined),
        "causal_conv1d": types.SimpleNamespace(causal_conv1d_fn=causal_conv1d_fn),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    for kernel in (cuda.scan, cuda.chunks, cuda.conv):
        monkeypatch.setattr(kernel, "verdicts", {})
    monkeypatch.setattr(kernels, "serves", lambda *_: False)

    def serves(self, x):
        return x.dtype != torch.float64 and not kernels.unwanted() and not self.verdict(x.device)

    monkeypatch.setattr(cuda.CudaKernel, "serves", serves)
    calls.clear()
    return modules


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SCAN = {
    "x": rand(2, 9, 4, seed=1),
    "dt": rand(2, 9, 4, seed=2),
    "A": -rand(4, 3, seed=3).exp(),
    "B": rand(2, 9, 3, seed=4),
    "C": rand(2, 9, 3, seed=5),
    "D": rand(4, seed=6),
    "z": rand(2, 9, 4, seed=7),
    "dt_bias": rand(4, seed=8),
}
SSD = {
    "x": rand(2, 9, 4, 3, seed=1),
    "dt": rand(2, 9, 4, seed=2).abs(),
    "A": -rand(4, seed=3).exp(),
    "B": rand(2, 9, 2, 5, seed=4),
    "C": rand(2, 9, 2, 5, seed=5),
    "D": rand(4, seed=6),
    "state": rand(2, 4, 3, 5, seed=7),
}
CONV = {"x": rand(2, 9, 8, seed=1), "weight": rand(8, 3, seed=2), "bias": rand(8, seed=3)}
MASK = torch.arange(9) < torch.tensor([[9], [4]])


def run(function, inputs, **options):
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    outputs = function(**leaves, **options)
    y = outputs[0] if isinstance(outputs, tuple) else outputs
    return [y, *torch.autograd.grad((y * rand(*y.shape, seed=9)).sum(), list(leaves.values()))]


@pytest.mark.parametrize(
    ("name", "function", "inputs", "options"),
    [
        ("scan", selective_scan, SCAN, {"softplus": True}),
        ("scan", selective_scan, SCAN, {"softplus": True, "mask": MASK}),
        ("ssd", ssd, SSD, {}),
        ("ssd", ssd, SSD, {"mask": MASK}),
        ("conv", depthwise_conv, CONV, {"silu": True}),
    ],
)
def test_calls_mean_what_ours_mean(packages, name, function, inputs, options):
    found = run(function, inputs, **options)
    assert calls[-1] == name
    count = len(calls)
    with kernels.use("torch"):
        expected = run(function, inputs, **options)
    assert len(calls) == count
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("extra", [{"state": rand(2, 4, 3, seed=9)}, {"starts": torch.zeros(2, 9, dtype=torch.bool)}])
def test_what_the_scan_cannot_do_is_not_asked_of_it(packages, extra):
    selective_scan(**SCAN, softplus=True)  # the probe
    calls.clear()
    selective_scan(**SCAN, softplus=True, **extra)
    assert calls == []


def test_no_gradient_is_lost(packages):
    inputs = {name: value.clone().requires_grad_() for name, value in SCAN.items()}
    _, last = selective_scan(**inputs, softplus=True)
    with pytest.raises(RuntimeError, match="takes no gradients through the last state"):
        last.sum().backward()


def test_a_kernel_that_cannot_be_imported(packages, monkeypatch):
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.selective_scan_interface", None)
    with pytest.warns(UserWarning, match=r"mamba-ssm does not serve on cpu \(ModuleNotFoundError: .*plain torch does"):
        found = run(selective_scan, SCAN, softplus=True)
    with kernels.use("torch"):
        torch.testing.assert_close(found, run(selective_scan, SCAN, softplus=True), rtol=0, atol=0)


def test_a_kernel_that_computes_something_else(packages, monkeypatch):
    def wrong(*args, **kwargs):
        y, last = selective_scan_fn(*args, **kwargs)
        return y * 1.01, last

    monkeypatch.setattr(packages["mamba_ssm.ops.selective_scan_interface"], "selective_scan_fn", wrong)
    with pytest.warns(UserWarning, match="the probe is off by"):
        selective_scan(**SCAN, softplus=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once a device is enough
        selective_scan(**SCAN, softplus=True)


def test_only_on_cuda():
    assert not cuda.scan.serves(torch.ones(1))
    assert cuda.scan.verdicts == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kernel", [cuda.scan, cuda.chunks, cuda.conv])
def test_on_a_gpu(kernel):
    verdict = kernel.verdict(torch.device("cuda", 0))
    if verdict:
        pytest.skip(f"{kernel.package}: {verdict}")
