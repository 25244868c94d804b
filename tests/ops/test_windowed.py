"""Windowed attention on torch's flash kernel, against float64 scores written out, and against the blocked form."""

import pytest
import torch

from tokenmix.ops import windowed as module
from tokenmix.ops.attend import attend
from tokenmix.ops.sources import Band

pytestmark = pytest.mark.skipif(not module.SERVES, reason="this torch has no flash kernel for the CPU that serves")
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """The path is taken for rows of any size, in pieces of few blocks, and memory that nobody wrote is NaN."""
    monkeypatch.setattr(module, "_FEWEST", 0)
    monkeypatch.setattr(module, "_FEWEST_OF_ALL", 0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def tensors(batch, heads, kv_heads, length, width=8, value_width=8):
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return (
        normal(batch, heads, length, width),
        normal(batch, kv_heads, length, width),
        normal(batch, kv_heads, length, value_width),
    )


def reference(q, k, v, window, causal=True, dilation=1, mask=None, segments=None):
    """Every score, in float64; a query that reads nothing gives 0."""
    length, group = q.shape[2], q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    place = torch.arange(length)
    gap = place[:, None] - place
    seen = (gap % dilation == 0) & (gap < window * dilation) & (gap >= 0 if causal else gap > -window * dilation)
    seen = seen.expand(q.shape[0], 1, -1, -1)
    if mask is not None:
        seen = seen & mask[:, None, None]
    if segments is not None:
        seen = seen & (segments[:, None, :, None] == segments[:, None, None])
    scores = (q @ k.mT * q.shape[3] ** -0.5).masked_fill(~seen, -torch.inf)
    nothing = ~seen.any(-1, keepdim=True)
    return scores.masked_fill(nothing, 0).softmax(-1).masked_fill(nothing, 0) @ v


def run(function, qkv, dtype, *arguments, **options):
    leaves = [x.to(dtype).requires_grad_() for x in qkv]
    y = function(*leaves, *arguments, **options)
    weight = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return [y.detach(), *torch.autograd.grad((y * weight.to(y.dtype)).sum(), leaves)]


def compare(qkv, source, dtype=torch.float32, **options):
    assert module.serves(source, module.Tokens(*(x.to(dtype) for x in qkv), None, None, None))
    expected = run(reference, qkv, torch.float64, source.window, source.causal, source.dilation, **options)
    found = run(attend, qkv, dtype, source, **options)
    for name, a, b in zip("yqkv", found, expected, strict=True):
        error = float((a.double() - b).abs().max() / b.abs().max().clamp(min=1))
        assert error <= 5 * TOLERANCE[dtype], f"{name}: {error}"  # NaN fails


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 2, 31, 33, 100, 257])
@pytest.mark.parametrize("window", [1, 2, 7, 32, 65, 300])
def test_equals_the_scores_written_out(window, length, causal):
    if window < length:  # a longer window is full attention
        compare(tensors(2, 2, 2, length), Band(window, causal))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_types(dtype):
    compare(tensors(1, 2, 2, 130), Band(20), dtype)


@pytest.mark.parametrize(("heads", "kv_heads", "width", "value_width"), [(6, 2, 8, 8), (4, 1, 8, 12), (2, 2, 12, 8)])
def test_grouped_keys_and_other_widths(heads, kv_heads, width, value_width):
    compare(tensors(2, heads, kv_heads, 100, width, value_width), Band(11))


@pytest.mark.parametrize("dilation", [2, 3])
@pytest.mark.parametrize("causal", [True, False])
def test_dilation(causal, dilation):
    compare(tensors(1, 2, 1, 131), Band(9, causal, dilation))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", ["right", "left", "scattered", "segments", "both"])
def test_padding_and_documents(kind, causal):
    """The last row is all padding, and queries of padding may read nothing."""
    length = 150
    place, counts = torch.arange(length), torch.tensor([[150], [70], [0]])
    mask = {"right": place < counts, "left": place >= length - counts, "scattered": (place * 7 % 5 > 1) & (counts > 0)}
    documents = (place // 37).expand(3, -1)
    options = {
        "mask": None if kind == "segments" else mask.get(kind, mask["scattered"]),
        "segments": documents if kind in ("segments", "both") else None,
    }
    compare(tensors(3, 2, 2, length), Band(20, causal), **options)


def test_junk_at_padding_is_not_read():
    q, k, v = (x.float() for x in tensors(1, 2, 2, 100))
    mask = torch.arange(100)[None] < 60
    clean = attend(q, k, v, Band(20), mask=mask)
    k, v = (x.masked_fill(~mask[:, None, :, None], 1e30) for x in (k, v))
    assert torch.equal(attend(q, k, v, Band(20), mask=mask)[:, :, :60], clean[:, :, :60])


def test_strange_memory_layouts():
    q, k, v = (x.float() for x in tensors(2, 2, 2, 90))
    expected = attend(q, k, v, Band(17))
    for change in (
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        lambda x: x.mT.contiguous().mT,
        lambda x: torch.stack([x, x], -1)[..., 0],
    ):
        torch.testing.assert_close(attend(change(q), change(k), change(v), Band(17)), expected, rtol=0, atol=1e-6)
    one = q[:, :1].expand(-1, 2, -1, -1)
    torch.testing.assert_close(attend(one, k, v, Band(17)), attend(one.contiguous(), k, v, Band(17)))


def test_first_and_second_derivatives():
    qkv = [x[:, :, :, :3].requires_grad_() for x in tensors(1, 1, 1, 9)]
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, Band(4)), qkv)
    assert torch.autograd.gradgradcheck(lambda q, k, v: attend(q, k, v, Band(4)), qkv)


def test_the_fallback_gives_the_same(monkeypatch):
    """Where torch's kernel is not there, the blocked form serves."""
    qkv, options = tensors(2, 4, 2, 120), {"segments": (torch.arange(120) // 50).expand(2, -1)}
    found = run(attend, qkv, torch.float32, Band(30), **options)
    monkeypatch.setattr(module, "SERVES", False)
    assert not module.serves(Band(30), module.Tokens(*qkv, None, None, None))
    for a, b in zip(found, run(attend, qkv, torch.float32, Band(30), **options), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_transforms_of_torch_func():
    q, k, v = (x.float() for x in tensors(3, 2, 2, 100))
    expected = run(attend, (q, k, v), torch.float32, Band(20))

    def total(q, k, v, weight):
        return (attend(q[None], k[None], v[None], Band(20)) * weight).sum()

    weight = torch.randn(q.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float()
    found = torch.func.vmap(torch.func.grad(total, argnums=(0, 1, 2)))(q, k, v, weight)
    for a, b in zip(found, expected[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_other_numbers_of_keys_are_refused():
    q, k, v = tensors(1, 2, 2, 100)
    with pytest.raises(ValueError, match=r"k: Band expected as many keys as queries \(90\), found 100"):
        attend(q[:, :, :90], k, v, Band(20))


def test_a_kernel_that_is_wrong_does_not_serve(monkeypatch):
    right = module._flash
    assert module._probe()
    monkeypatch.setattr(module, "_flash", lambda *a: tuple(x + 1 for x in right(*a)))
    assert not module._probe()

    def missing(*_):
        raise AttributeError("no such operator")

    monkeypatch.setattr(module, "_flash", missing)
    assert not module._probe()


def test_compile_export_and_the_operator_itself():
    qkv = [x.float() for x in tensors(1, 2, 1, 100)]
    function = torch.compile(lambda q, k, v: attend(q, k, v, Band(20)), fullgraph=True, backend="aot_eager")
    expected = run(attend, qkv, torch.float32, Band(20))
    for a, b in zip(run(function, qkv, torch.float32), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)

    class Module(torch.nn.Module):
        def forward(self, q, k, v):
            return attend(q, k, v, Band(20))

    exported = torch.export.export(Module(), tuple(qkv))
    assert any("windowed_attention" in str(node.target) for node in exported.graph.nodes)
    leaves = [x.clone().requires_grad_() for x in qkv]
    options = (torch.arange(100)[None] < 80, None, 20, True, 1, 0.3)
    torch.library.opcheck(module.windowed_attention, (*leaves, *options))


def test_a_planted_fault_is_noticed(monkeypatch):
    """A window that is one key too long."""
    right = module.windowed
    monkeypatch.setattr(
        "tokenmix.ops.attend.windowed", lambda source, *rest: right(Band(source.window + 1, source.causal), *rest)
    )
    with pytest.raises(AssertionError):
        compare(tensors(1, 2, 2, 100), Band(20))


def test_memory_grows_with_the_length_only():
    """What autograd keeps is q, k, v, y and a sum a query: no scores."""
    kept = []
    qkv = [x.float().requires_grad_() for x in tensors(1, 2, 2, 512)]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        attend(*qkv, Band(64))
    assert max(kept) == qkv[0].numel()
