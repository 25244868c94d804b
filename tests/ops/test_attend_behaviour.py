import gc

import pytest
import torch
from attend_cases import BATCH, SOURCES, gradients, make_options, qkv, random
from attend_reference import attend_reference
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tokenmix.ops import attend as attend_module
from tokenmix.ops import cells as cells_module
from tokenmix.ops import windowed as windowed_module
from tokenmix.ops.attend import attend
from tokenmix.ops.sources import Band, Cells, Full, HeadSplit, Neighbours, Slots, Span, Union


@pytest.mark.parametrize("options", [(), ("mask", "segments", "bias callable")])
@pytest.mark.parametrize("source", SOURCES)
def test_bfloat16_is_near(source, options):
    length, make = SOURCES[source]
    tokens = [x.bfloat16() for x in qkv(length)]
    for score in ("softmax", "relu2"):
        found = attend(*tokens, make(length), score=score, **make_options(options, length))
        assert found.dtype == torch.bfloat16
        expected = attend(*(x.float() for x in tokens), make(length), score=score, **make_options(options, length))
        torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)


def test_autocast_leaves_scores_in_float32():
    q, k, v = (x.float() * 8 for x in qkv(9))
    union = Union([Band(2), Slots(random(3, 4, dtype=torch.float32), random(3, 4, dtype=torch.float32))])
    for source, options in ((union, {}), (Full(), {"score": "relu2"}), (Full(), {"axis": "channel"})):
        with torch.autocast("cpu", torch.bfloat16):
            found = attend(q, k, v, source, **options)
        torch.testing.assert_close(found, attend(q, k, v, source, **options), rtol=1e-5, atol=1e-5)


def flops(source, length, heads=1):
    q, k, v = (torch.randn(1, heads, length, 16, requires_grad=True) for _ in range(3))
    # the counter does not know the fused kernel of the CPU
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        attend(q, k, v, source(length)).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "source",
    [
        lambda length: Band(32),
        lambda length: Band(32, causal=False),
        lambda length: Band(16, dilation=2),
        lambda length: Cells(torch.arange(length) // 64),
        lambda length: Union([Band(32), Cells(torch.arange(length) % (length // 32))]),
    ],
)
@pytest.mark.parametrize("fewest", [0, 1e99])
def test_blocked_sources_cost_in_proportion_to_length(source, fewest, monkeypatch):
    monkeypatch.setattr(windowed_module, "_FEWEST", fewest)  # on the flash kernel, or in blocks with their neighbours
    monkeypatch.setattr(windowed_module, "_FEWEST_OF_ALL", 0)
    ratio = flops(source, 4096) / flops(source, 1024)
    assert 3.9 < ratio < 4.1
    assert flops(source, 2048) < 0.15 * flops(lambda length: Full(), 2048)


def test_full_costs_the_square():
    assert 15 < flops(lambda length: Full(), 2048) / flops(lambda length: Full(), 512) < 17


def test_packed_full_is_blocked_whatever_the_lengths():
    segments = torch.tensor([512] + [1] * 512).cumsum(0)  # numbers are arbitrary
    segments = torch.repeat_interleave(segments, torch.tensor([512] + [1] * 512))[None]
    q, k, v = (torch.randn(1, 1, 1024, 8) for _ in range(3))
    with FlopCounterMode(display=False) as packed, sdpa_kernel(SDPBackend.MATH):
        attend(q, k, v, Full(), segments=segments)
    with FlopCounterMode(display=False) as whole, sdpa_kernel(SDPBackend.MATH):
        attend(q, k, v, Full())
    assert 0 < packed.get_total_flops() < 0.26 * whole.get_total_flops()


def test_plan_is_kept_until_the_label_changes(monkeypatch):
    made = []
    gc.collect()
    make = cells_module._make_plan
    monkeypatch.setattr(cells_module, "_make_plan", lambda *a: made.append(1) or make(*a))
    q, k, v = qkv(6)
    label, segments = torch.tensor([0, 1, 0, 1, 0, 1]), torch.zeros(BATCH, 6, dtype=torch.int64)
    attend(q, k, v, Cells(label))
    attend(q, k, v, Cells(label))
    assert len(made) == 1
    attend(q, k, v, Cells(label), segments=segments)
    attend(q, k, v, Cells(label), segments=segments)
    assert len(made) == 2
    label[3] = 0
    torch.testing.assert_close(attend(q, k, v, Cells(label)), attend_reference(q, k, v, Cells(label)))
    assert len(made) == 3
    attend(q[:1], k[:1], v[:1], Cells(label))
    assert len(made) == 4
    kept = len(cells_module._plans)
    del label
    gc.collect()
    assert len(cells_module._plans) == kept - 1


def test_inference_mode():
    with torch.inference_mode():
        label = torch.tensor([0, 1, 0])
        q, k, v = qkv(3)
        for _ in range(2):
            torch.testing.assert_close(attend(q, k, v, Cells(label)), attend_reference(q, k, v, Cells(label)))
            label[1] = 0


def test_causal_full_takes_no_mask(monkeypatch):
    seen = []
    fused = attend_module.fused
    monkeypatch.setattr(attend_module, "fused", lambda *a, **o: seen.append((a[3], o)) or fused(*a, **o))
    attend(*qkv(6), Full(causal=True))
    attend(*qkv(6), Band(6))
    assert seen == [(None, {"is_causal": True})] * 2


@pytest.mark.parametrize("source", [Full(causal=True), Band(3, causal=False, dilation=2)])
def test_compile(source):
    q, k, v = (x.float().requires_grad_() for x in qkv(150, kv_heads=2))
    torch.compiler.reset()
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager", dynamic=False)
    found, expected = compiled(q, k, v, source), attend(q, k, v, source)
    torch.testing.assert_close(found, expected)
    weight = random(*found.shape).float()
    for x, y in zip(gradients(found, weight, [q, k, v]), gradients(expected, weight, [q, k, v]), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.slow  # tracing with symbols takes 10 s
def test_compile_for_any_length():
    torch.compiler.reset()
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (100, 150):
        q, k, v = (x.float() for x in qkv(length, kv_heads=2))
        torch.testing.assert_close(compiled(q, k, v, Band(9)), attend(q, k, v, Band(9)))


# ---------------------------------------------------------------------- bad input

Q, K, V = (torch.zeros(2, 4, 5, 3) for _ in range(3))
BAD_SOURCES = [
    (lambda: Band(0), ValueError, "window: expected a positive integer, found 0"),
    (lambda: Band(1.5), TypeError, "window: expected a positive integer, found 1.5"),
    (lambda: Band(2, dilation=-1), ValueError, "dilation: expected a positive integer, found -1"),
    (lambda: Cells(torch.zeros(3)), TypeError, r"label: expected integers \(L,\) or \(B, L\), found torch.float32"),
    (lambda: Cells([1]), TypeError, "label: .* found list"),
    (lambda: Cells(torch.tensor(1)), ValueError, r"label: expected shape \(L,\) or \(B, L\), found \(\)"),
    (lambda: Neighbours(torch.zeros(2, 2, dtype=torch.int32)), TypeError, "index: expected int64 .* torch.int32"),
    (lambda: Neighbours(torch.tensor([1])), ValueError, r"index: expected shape .* found \(1,\)"),
    (lambda: Neighbours(torch.tensor([[-2]])), ValueError, "index: expected places of keys, .* found -2"),
    (lambda: Slots(torch.zeros(2, 3), torch.zeros(3, 3)), ValueError, r"k, v of Slots: .* \(2, 3\) and \(3, 3\)"),
    (lambda: Slots(torch.zeros(3), torch.zeros(3)), ValueError, r"k, v of Slots: .* \(3,\)"),
    (lambda: Slots(K, V, torch.zeros(4)), ValueError, r"log_weight: .* S=5, found \(4,\)"),
    (lambda: Span(torch.zeros(1, 2), torch.zeros(1, 2)), TypeError, "low: expected int64"),
    (lambda: Span(torch.tensor([[1]]), torch.tensor([1])), ValueError, r"high: expected shape \(B, Lq\), found \(1,\)"),
    (lambda: Span(torch.tensor([[1]]), torch.tensor([[1, 2]])), ValueError, "low, high: expected one shape, found"),
    (lambda: Union([]), ValueError, "sources: expected at least one source, found none"),
    (lambda: Union([1]), TypeError, "sources: expected one of Full, Band, .*, found int"),
    (lambda: HeadSplit([]), ValueError, r"parts: expected at least one \(heads, source\), found none"),
    (lambda: HeadSplit([(0, Full())]), ValueError, "heads of parts: expected a positive integer, found 0"),
    (lambda: HeadSplit([(1, None)]), TypeError, "parts: expected one of Full, .*, found NoneType"),
]
PLACES = torch.zeros(1, 1, dtype=torch.int64)
SLOTS = Slots(torch.zeros(2, 3), torch.zeros(2, 3))
BAD_CALLS = [
    ((Q, K, V, None), {}, TypeError, "source: expected one of Full, .*, found NoneType"),
    ((Q, K, V, Full()), {"score": "relu3"}, ValueError, "score: expected one of 'softmax', 'relu2', .* found 'relu3'"),
    ((Q, K, V, Full()), {"axis": "row"}, ValueError, "axis: expected one of 'token', 'channel', found 'row'"),
    ((Q, K, V, Full(causal=True)), {"axis": "channel"}, ValueError, r"axis: .* Full\(\) .* found Full, causal=True"),
    ((Q, K, V, Band(1, causal=False)), {"axis": "channel"}, ValueError, r"axis: .* found Band"),
    ((Q, K, V, Full()), {"axis": "channel", "bias": torch.zeros(5, 5)}, ValueError, "axis: .* no bias"),
    ((Q, K, V[..., :2], Full()), {"axis": "channel"}, ValueError, "q, k, v: axis 'channel' expected one length and wi"),
    ((Q[0], K, V, Full()), {}, ValueError, r"q: expected floats of shape \(B, H, Lq, D\), found .* \(4, 5, 3\)"),
    ((Q.long(), K, V, Full()), {}, ValueError, "q: expected floats .* found torch.int64"),
    ((Q, None, None, Full()), {}, ValueError, "k, v: Full expected keys and values of tokens, found None"),
    ((Q, K[:1], V, Full()), {}, ValueError, r"k: expected .* \(B=2, Hkv, Lk, ...\), found .* \(1, 4, 5, 3\)"),
    ((Q, K, V.double(), Full()), {}, ValueError, "v: expected torch.float32 .* found torch.float64"),
    ((Q, K, V[:, :, :4], Full()), {}, ValueError, r"k, v: expected .* found \(2, 4, 5, 3\) and \(2, 4, 4, 3\)"),
    ((Q, K[..., :2], V, Full()), {}, ValueError, "k, v: expected .*D=3"),
    ((Q, K[:, :3], V[:, :3], Full()), {}, ValueError, "k: expected a number of heads that divides H=4, found Hkv=3"),
    ((Q, K, V, Full()), {"mask": torch.ones(2, 5)}, ValueError, r"mask: expected bool of shape \(2, 5\), found .*32"),
    ((Q, K, V, Full()), {"mask": torch.ones(2, 4).bool()}, ValueError, r"mask: .* found torch.bool of \(2, 4\)"),
    ((Q[:, :, :3], K, V, Full()), {"segments": PLACES}, ValueError, "segments: .* found Lq=3 and Lk=5"),
    ((Q, K, V, Full()), {"segments": PLACES}, ValueError, r"segments: expected .* \(2, 5\), found .* \(1, 1\)"),
    ((Q, K, V, Full()), {"bias": torch.zeros(3, 5)}, ValueError, r"bias: .* \(2, 4, 5, 5\), found \(3, 5\)"),
    ((Q, K, V, Full()), {"bias": torch.zeros(1, 1, 1, 1, 1)}, ValueError, "bias: expected a shape that broadcasts"),
    ((Q, K, V, Full()), {"bias": PLACES}, TypeError, "bias: expected floats or a callable, found torch.int64"),
    ((Q, K, V, Full()), {"bias": lambda i, j: (i - j).float()}, ValueError, r"bias: .* \(H=4 or 1, .* found \(5, 5\)"),
    ((Q, K, V, Band(2)), {"bias": lambda i, j: None}, ValueError, "bias: .* found NoneType"),
    ((Q[:, :, :3], K, V, Band(2)), {}, ValueError, r"k: Band expected as many keys as queries \(3\), found 5"),
    ((Q[:, :, :3], K, V, Cells(PLACES)), {}, ValueError, r"k: Cells expected as many keys as queries \(3\), found 5"),
    ((Q, K, V, Cells(PLACES)), {}, ValueError, r"label: expected shape .*, found \(1, 1\)"),
    ((Q, K, V, Neighbours(PLACES)), {}, ValueError, r"index: expected shape .* B=2, L=5, found \(1, 1\)"),
    ((Q, K, V, Neighbours(PLACES.expand(5, 1) + 5)), {}, ValueError, "index: expected .* number of keys 5, found 5"),
    ((Q, K, V, Span(PLACES, PLACES)), {}, ValueError, r"low, high: expected shape .*\(2, 5\).* found \(1, 1\)"),
    ((Q, None, None, Slots(K[0, :3], V[0, :3])), {}, ValueError, r"k of Slots: .* divide H=4, found \(3, 5, 3\)"),
    ((Q[:1], None, None, Slots(K, V)), {}, ValueError, r"k of Slots: expected B=1 rows"),
    ((Q[..., :2], None, None, SLOTS), {}, ValueError, r"k of Slots: expected last dimension D=2, found shape \(2, 3\)"),
    ((Q, None, None, SLOTS), {"bias": K}, ValueError, "bias: it is about tokens, and Slots here reads none"),
    ((Q, K, V, HeadSplit([(3, Full())])), {}, ValueError, "parts: expected heads that sum to H=4, found 3"),
    (
        (Q, K[:, :2], V[:, :2], HeadSplit([(1, Full()), (3, Full())])),
        {},
        ValueError,
        r"parts: heads 1 to 3 expected to be whole groups of 2 heads \(H=4, Hkv=2\) or to lie inside one",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD_SOURCES)
def test_bad_sources_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(("inputs", "options", "error", "message"), BAD_CALLS)
def test_bad_calls_are_refused(inputs, options, error, message):
    with pytest.raises(error, match=message):
        attend(*inputs, **options)


def test_a_band_is_not_two_numbers():
    with pytest.raises(TypeError, match="causal: expected True or False, found 0"):
        Band(7, 0)
