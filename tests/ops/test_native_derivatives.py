"""Derivatives that the kernels do not take themselves: plain torch takes them, and they are right."""

import pytest
import torch
from torch.autograd import forward_ad

from tokenmix import kernels
from tokenmix.ops import windowed
from tokenmix.ops.attend import attend
from tokenmix.ops.chunked_scan import ssd
from tokenmix.ops.conv import depthwise_conv
from tokenmix.ops.selective_scan import selective_scan
from tokenmix.ops.sources import Band


def rand(*shape, seed):
    return torch.randn(*shape, dtype=torch.float32, generator=torch.Generator().manual_seed(seed))


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


def read_window_written_out(x):
    heads = x[:, None].expand(-1, 2, -1, -1).repeat_interleave(2, -1)
    place = torch.arange(x.shape[1])
    gap = place[:, None] - place
    scores = (heads @ heads.mT * heads.shape[-1] ** -0.5).masked_fill((gap < 0) | (gap >= 3), -torch.inf)
    return (scores.softmax(-1) @ heads)[:, 0, :, ::2]


FUNCTIONS = {"conv": convolve, "ssd": scan_heads, "window": read_window}


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(windowed, "_FEWEST", 0)
    monkeypatch.setattr(windowed, "_FEWEST_OF_ALL", 0)


def second(function, x):
    """The gradient of the squared gradient."""
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
    return torch.autograd.grad(grad.square().sum(), x)[0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives(name):
    x = rand(2, 9, 8, seed=3)
    found = second(FUNCTIONS[name], x)
    with kernels.use("torch"):
        exact = second(read_window_written_out if name == "window" else FUNCTIONS[name], x)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))


def test_forward_mode_of_windows_is_refused_or_right():
    """Torch's attention has no forward-mode derivative, and says so: no tangent is lost without a word."""
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward AD"):
        read_window(forward_ad.make_dual(rand(2, 9, 8, seed=3), rand(2, 9, 8, seed=4)))


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
@pytest.mark.parametrize("name", ["conv", "window"])
def test_the_default_dtype_does_not_matter(name, dtype):
    def gradient():
        weight = rand(8, 4, seed=2).requires_grad_()
        turned = rand(1, 2, 16, 9, seed=3).mT.requires_grad_()  # its features do not lie together
        leaf = weight if name == "conv" else turned
        y = depthwise_conv(rand(2, 9, 8, seed=1), leaf) if name == "conv" else attend(leaf, leaf, leaf, Band(3))
        return torch.autograd.grad(y.square().sum(), leaf)[0]

    expected, before = gradient(), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        found = gradient()
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(found, expected)


def test_views_that_negate():
    x, weight = rand(2, 9, 8, seed=1), rand(8, 4, seed=2)
    with torch.no_grad():
        torch.testing.assert_close(depthwise_conv(torch._neg_view(x), weight), -depthwise_conv(x, weight))
