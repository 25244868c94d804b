"""The native kernel of windowed attention, for every kind of vectors that this processor has."""

import pytest
import torch

from tokenmix import kernels
from tokenmix.ops import native_window, windowed
from tokenmix.ops.attend import attend
from tokenmix.ops.sources import Band

pytestmark = pytest.mark.usefixtures("level")
# rows, heads, key heads, length, width, window, causal: ends of blocks, of groups of four, and of vectors
CASES = [
    (1, 1, 1, 1, 16, 1, True), (2, 4, 2, 70, 16, 5, True), (1, 2, 1, 200, 32, 64, True), (1, 2, 2, 131, 48, 65, False),
    (1, 1, 1, 300, 64, 7, False), (2, 3, 1, 257, 16, 130, True), (1, 1, 1, 66, 16, 60, False),
    (1, 2, 2, 67, 16, 2, True), (1, 1, 1, 193, 16, 192, True),
]  # fmt: skip


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(windowed, "_FEWEST", 0)


def tensors(rows, heads, kv_heads, length, width):
    generator = torch.Generator().manual_seed(length)
    shapes = [(rows, length, count, width) for count in (heads, kv_heads, kv_heads)]  # as projections give them
    return [torch.randn(shape, dtype=torch.float64, generator=generator).transpose(1, 2) for shape in shapes]


def reference(q, k, v, window, causal):
    group, place = q.shape[1] // k.shape[1], torch.arange(q.shape[2])
    gap = place[:, None] - place
    seen = (gap < window) & (gap >= 0 if causal else gap > -window)
    scores = q @ k.repeat_interleave(group, 1).mT * q.shape[3] ** -0.5
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v.repeat_interleave(group, 1)


def run(function, qkv, dtype=torch.float32):
    leaves = [x.to(dtype).requires_grad_() for x in qkv]
    y = function(*leaves)
    weight = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return [y.detach(), *torch.autograd.grad((y * weight.to(y.dtype)).sum(), leaves)]


@pytest.mark.parametrize("case", CASES)
def test_equals_the_scores_written_out(case, monkeypatch):
    *sizes, window, causal = case
    qkv, calls = tensors(*sizes), []
    right = native_window.run_forward
    monkeypatch.setattr(native_window, "run_forward", lambda *a: calls.append(1) or right(*a))
    expected = run(lambda *x: reference(*x, window, causal), qkv, torch.float64)
    found = run(lambda *x: attend(*x, Band(window, causal)), qkv)
    assert len(calls) == (window < sizes[3])  # a longer window is full attention
    with kernels.use("torch"):
        plain = run(lambda *x: attend(*x, Band(window, causal)), qkv)
    for name, a, b, other in zip("yqkv", found, expected, plain, strict=True):
        scale = float(b.abs().max().clamp(min=1))
        error, without = (float((x.double() - b).abs().max()) / scale for x in (a, other))
        assert error <= 2e-6, f"{name}: {error}"
        assert error <= 2 * without + 5e-7, f"{name}: {error}, without the kernel {without}"


def test_any_number_of_threads_gives_the_same_bits():
    qkv, before, found = tensors(2, 4, 2, 300, 32), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(run(lambda *x: attend(*x, Band(50)), qkv))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_layout_in_memory_does_not_matter():
    qkv = [x.float() for x in tensors(2, 2, 2, 100, 16)]
    expected = run(lambda *x: attend(*x, Band(20)), qkv)
    for change in (torch.Tensor.contiguous, lambda x: x.mT.contiguous().mT, lambda x: torch.stack([x, x], -1)[..., 0]):
        found = run(lambda *x, change=change: attend(*(change(y) for y in x), Band(20)), qkv)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    shared = qkv[0][:, :1].expand(-1, 2, -1, -1)
    torch.testing.assert_close(attend(shared, *qkv[1:], Band(20)), attend(shared.contiguous(), *qkv[1:], Band(20)))


def test_scores_far_apart():
    """Weights that vanish, and sums of exp near the largest float."""
    q, k, v = tensors(1, 1, 1, 100, 16)
    expected = run(lambda *x: reference(*x, 20, True), (q * 100, k, v), torch.float64)
    found = run(lambda *x: attend(*x, Band(20)), (q * 100, k, v))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=2e-3)


def test_what_it_is_not_made_for_goes_elsewhere():
    q, _, v = (x.float() for x in tensors(1, 2, 2, 100, 16))
    real = torch.ones(1, 100, dtype=torch.bool)
    assert native_window.fits(q, v, None, None, 20, 1)
    for case in (
        (q.double(), v, None, None, 20, 1), (q, v, real, None, 20, 1), (q, v, None, real.long(), 20, 1),
        (q, v, None, None, 20, 2), (q[..., :8], v[..., :8], None, None, 20, 1), (q, v[..., :8], None, None, 20, 1),
        (q, v, None, None, 5000, 1),
    ):  # fmt: skip
        assert not native_window.fits(*case)


def test_the_operator_keeps_its_promises():
    leaves = [x.float().requires_grad_() for x in tensors(1, 2, 1, 100, 16)]
    torch.library.opcheck(windowed.windowed_attention, (*leaves, None, None, 20, True, 1, 0.3))
    function = torch.compile(lambda q, k, v: attend(q, k, v, Band(20)), fullgraph=True, backend="aot_eager")
    qkv = [x.detach() for x in leaves]
    for a, b in zip(run(function, qkv), run(lambda *x: attend(*x, Band(20)), qkv), strict=True):
        assert torch.equal(a, b)


def test_a_fault_is_noticed(monkeypatch):
    right = native_window.run_forward
    monkeypatch.setattr(native_window, "run_forward", lambda *a: right(*a[:5], a[5] - 1, *a[6:]))
    with pytest.raises(AssertionError, match="y:"):
        test_equals_the_scores_written_out(CASES[1], monkeypatch)
