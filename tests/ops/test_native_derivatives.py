"""Derivatives that the kernels do not take themselves: plain torch takes them, and they are right."""

import pytest
import torch

from tokenmix import kernels
from tokenmix.ops import windowed
from tokenmix.ops.attend import attend
from tokenmix.ops.chunked_scan import ssd
from tokenmix.ops.conv import depthwise_conv
from tokenmix.ops.selective_scan import selective_scan
from tokenmix.ops.sources import Band


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def convolve(x):
    return depthwise_conv(x, rand(8, 4, seed=1), silu=True)


def scan_heads(x):
    """Inputs that are one tensor, or computed from each other: their gradients must be kept apart."""
    dt = x[..., :4].sigmoid()
    y, last = ssd(x.unflatten(-1, (4, 2)), dt, -rand(4, seed=2).exp(), x[:, :, None], x[:, :, None], D=dt[0, 0])
    return y.flatten(2).sin() + last.sum()


def read_window(x):
    heads = x[:, None].expand(-1, 2, -1, -1).repeat_interleave(2, -1)
    return attend(heads, heads, heads, Band(3))[:, 0, :, ::2]


FUNCTIONS = {"conv": convolve, "ssd": scan_heads, "window": read_window}


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(windowed, "_FEWEST", 0)


def second(function, x):
    """The gradient of the squared gradient."""
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
    return torch.autograd.grad(grad.square().sum(), x)[0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives(name):
    x = rand(2, 9, 8, seed=3)
    found, exact = second(FUNCTIONS[name], x), None
    if name == "window":
        monkey = windowed.serves
        windowed.serves = lambda *_: False
        try:
            exact = second(FUNCTIONS[name], x)
        finally:
            windowed.serves = monkey
    else:
        with kernels.use("torch"):
            exact = second(FUNCTIONS[name], x)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))


@pytest.mark.parametrize("name", ["conv", "ssd"])
def test_transforms(name):
    """jvp, and grad of torch.func, against differences and autograd."""
    x, step = rand(2, 9, 8, seed=3), rand(2, 9, 8, seed=4)
    function = FUNCTIONS[name]
    _, tangent = torch.func.jvp(function, (x,), (step,))
    slope = (function(x + 1e-3 * step) - function(x - 1e-3 * step)) / 2e-3
    torch.testing.assert_close(tangent, slope, rtol=0.02, atol=0.02 * float(slope.abs().max()))
    leaf = x.clone().requires_grad_()
    function(leaf).sum().backward()
    torch.testing.assert_close(torch.func.grad(lambda y: function(y).sum())(x), leaf.grad, rtol=1e-4, atol=1e-4)


def test_traced_without_gradients_and_then_trained():
    class Module(torch.nn.Module):
        def forward(self, x, dt, A, B):
            return selective_scan(x, dt, A, B, B)[0]

    inputs = (rand(1, 40, 4, seed=1), rand(1, 40, 4, seed=2).abs(), -rand(4, 3, seed=3).exp(), rand(1, 40, 3, seed=4))
    with torch.no_grad():
        traced = torch.export.export(Module(), inputs).module()
    grads = []
    for module in (traced, Module()):
        leaves = [x.clone().requires_grad_() for x in inputs]
        module(*leaves).sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_does_not_matter(dtype):
    x, weight = rand(2, 9, 8, seed=1), rand(8, 4, seed=2).requires_grad_()
    (expected,) = torch.autograd.grad(depthwise_conv(x, weight).sum(), weight)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        (found,) = torch.autograd.grad(depthwise_conv(x, weight).sum(), weight)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(found, expected)


def test_views_that_negate():
    x, weight = rand(2, 9, 8, seed=1), rand(8, 4, seed=2)
    with torch.no_grad():
        torch.testing.assert_close(depthwise_conv(torch._neg_view(x), weight), -depthwise_conv(x, weight))
