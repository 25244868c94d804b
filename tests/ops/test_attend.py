import gc

import pytest
import torch
from attend_reference import attend_reference, channels_reference
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tokenmix.ops import attend as attend_module
from tokenmix.ops import blocked as blocked_module
from tokenmix.ops import cells as cells_module
from tokenmix.ops.attend import attend
from tokenmix.ops.sources import Band, Cells, Full, HeadSplit, Neighbours, Slots, Span, Union

BATCH, HEADS = 2, 4


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def integers(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def qkv(length, keys=None, kv_heads=HEADS, width=4, value_width=4):
    keys = length if keys is None else keys
    q = random(BATCH, HEADS, length, width, seed=1)
    k = random(BATCH, kv_heads, keys, width, seed=2)
    v = random(BATCH, kv_heads, keys, value_width, seed=3)
    return q, k, v


def distance_bias(query, key):
    """One slope a head, (HEADS, *index shape)."""
    slope = torch.tensor([0.1, -0.2, 0.3, 0.4], dtype=torch.float64)
    distance = (query - key).double()
    return slope.view(-1, *[1] * distance.dim()) * distance + (query % 3).double() * (key % 5).double() * 0.1


def shared_bias(query, key):
    return ((query - key).double() * 0.1)[None]


def compare(q, k, v, source, extra=(), **options):
    """Values and gradients in float64, and values in float32, against the loops."""
    leaves = [x for x in (q, k, v, *extra) if x is not None]
    if isinstance(options.get("bias"), torch.Tensor):
        leaves.append(options["bias"])
    for x in leaves:
        x.requires_grad_()
    found = attend(q, k, v, source, **options)
    expected = attend_reference(q, k, v, source, **options)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weight = random(*found.shape, seed=9)
    for x, y in zip(gradients(found, weight, leaves), gradients(expected, weight, leaves), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)
    if not extra:
        single = [None if x is None else x.detach().float() for x in (q, k, v)]
        torch.testing.assert_close(attend(*single, source, **options).double(), expected, rtol=1e-5, atol=1e-5)


def gradients(y, weight, leaves):
    found = torch.autograd.grad((y * weight).sum(), leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def neighbours(length):
    index = integers(length + 3, BATCH, length, 5, seed=4) - 3
    index = index.clamp(min=-1)
    index[0, 2] = -1  # a query that reads nothing
    return Neighbours(index)


def span(length):
    low, size = integers(length, BATCH, length, seed=5), integers(5, BATCH, length, seed=6)
    return Span(low, low + size)


SOURCES = {
    "full": (13, lambda length: Full()),
    "full causal": (13, lambda length: Full(causal=True)),
    "band": (13, lambda length: Band(3)),
    "band two-sided": (13, lambda length: Band(3, causal=False)),
    "band dilated": (13, lambda length: Band(2, dilation=3)),
    "band dilated two-sided": (13, lambda length: Band(2, causal=False, dilation=3)),
    "cells": (13, lambda length: Cells(integers(5, BATCH, length, seed=7))),
    "cells causal": (13, lambda length: Cells(integers(5, length, seed=7), causal=True)),
    "neighbours": (13, neighbours),
    "span": (13, span),
    "union": (13, lambda length: Union((Band(2), Cells(torch.arange(length) % 4), span(length)))),
    "heads": (13, lambda length: HeadSplit([(2, Band(2)), (1, Full(causal=True)), (1, span(length))])),
    "union of heads": (13, lambda length: Union([Band(1), HeadSplit([(2, span(length)), (2, neighbours(length))])])),
}
OPTIONS = {
    "plain": (),
    "mask": ("mask",),
    "segments": ("segments",),
    "bias tensor": ("bias tensor",),
    "bias callable": ("bias callable",),
    "all": ("mask", "segments", "bias tensor"),
    "all, callable": ("mask", "segments", "bias callable"),
}


def make_options(names, length):
    options = {}
    if "mask" in names:
        options["mask"] = integers(3, BATCH, length, seed=8) > 0
        options["mask"][0, :3] = False
    if "segments" in names:
        options["segments"] = integers(2, BATCH, length, seed=10).cumsum(1) // 3
    if "bias tensor" in names:
        options["bias"] = random(1, HEADS, length, length, seed=11)
    if "bias callable" in names:
        options["bias"] = distance_bias
    return options


@pytest.fixture
def small_blocks(monkeypatch):
    """Bands in many blocks on short rows; any size of blocks is right."""
    monkeypatch.setattr(blocked_module, "block_size", lambda window, steps, causal: (2, -(-(window - 1) // 2)))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("source", SOURCES)
def test_each_source_equals_its_definition(source, options):
    length, make = SOURCES[source]
    compare(
        *qkv(length, kv_heads=2 if source != "heads" else 4), make(length), **make_options(OPTIONS[options], length)
    )


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("score", ["relu2", "relu", "none"])
@pytest.mark.parametrize("source", SOURCES)
def test_each_score_equals_its_definition(source, score):
    length, make = SOURCES[source]
    compare(*qkv(length), make(length), score=score, scale=0.3, **make_options(OPTIONS["all"], length))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 24, 70])
def test_band_at_every_length(window, causal):
    for length in {1, max(window - 1, 1), window, window + 1, 4 * window + 3}:
        compare(*(x[:1, :1] for x in qkv(length, width=2, value_width=3)), Band(window, causal))


@pytest.mark.parametrize("causal", [True, False])
def test_band_dilated_over_many_blocks(causal):
    length = 213  # 107 steps of two classes, the last step not whole
    options = {"mask": integers(4, 1, length) > 0, "bias": shared_bias}
    compare(*(x[:1, :1] for x in qkv(length, width=2)), Band(3, causal, dilation=2), **options)


@pytest.mark.parametrize("shape", [(19,), (4, 1, 1), (BATCH, 1, 19, 1), (BATCH, HEADS, 19, 19)])
@pytest.mark.parametrize("source", [Full(), Band(4), Cells(torch.arange(19) // 7), neighbours(19)])
def test_bias_broadcasts(source, shape):
    compare(*qkv(19), source, bias=random(*shape))


@pytest.mark.parametrize("source", [Full(), Band(4), Cells(torch.arange(19) // 7), Union([Band(2), Band(1)])])
def test_infinite_bias_hides_keys(source):
    bias = random(1, 1, 19, 19)
    bias[..., 3, :] = -torch.inf  # a query that reads nothing
    bias[..., 5:7] = -torch.inf
    for score in ("softmax", "relu"):
        compare(*qkv(19), source, bias=bias.clone(), score=score)


@pytest.mark.parametrize("queries", [1, 3, 7])
def test_causal_full_aligns_to_the_end(queries):
    compare(*qkv(queries, keys=7), Full(causal=True))
    compare(*qkv(queries, keys=7, value_width=6), Full(causal=True), mask=integers(2, BATCH, 7) > 0)


def test_causal_full_with_more_queries_than_keys():
    compare(*qkv(5, keys=3), Full(causal=True))


def test_span_with_other_lengths_and_shared_rows():
    q, k, v = qkv(3, keys=8)
    compare(q, k, v, Span(torch.tensor([[0, 2, 9]]), torch.tensor([[4, 8, 9]])), mask=integers(2, BATCH, 8) > 0)
    compare(q, k, v, Neighbours(torch.tensor([[7], [0], [-1]])), bias=distance_bias)


def test_one_query_of_grouped_heads():
    compare(*qkv(1, keys=6, kv_heads=1), Full(causal=True))


@pytest.mark.parametrize("lead", [(), (2,), (4,), (BATCH, 4), (1, 2)])
@pytest.mark.parametrize("score", ["softmax", "relu2"])
def test_slots(lead, score):
    q, _, _ = qkv(3)
    k, v, weight = random(*lead, 5, 4, seed=4), random(*lead, 5, 6, seed=5), random(*lead, 5, seed=6)
    compare(q, None, None, Slots(k, v), extra=(k, v), score=score)
    compare(q, None, None, Slots(k, v, weight), extra=(k, v, weight), score=score)


def test_slots_that_are_not_there():
    q, _, _ = qkv(3)
    k, v = random(5, 4, seed=4), random(5, 6, seed=5)
    compare(q, None, None, Slots(k, v, torch.tensor([0.0, -torch.inf, 1.0, 0.0, 0.0])), extra=(k, v))
    gone = Slots(k, v, torch.full((5,), -torch.inf))
    compare(q, None, None, gone, extra=(k, v))
    assert not attend(q, None, None, gone).any()
    assert attend(q, None, None, Slots(k[:0], v[:0])).tolist() == torch.zeros(BATCH, HEADS, 3, 6).tolist()


def test_union_with_slots_leaves_slots_to_every_token():
    q, k, v = qkv(9, kv_heads=2)
    slot_k, slot_v, weight = random(3, 4, seed=4), random(3, 4, seed=5), random(HEADS, 3, seed=6)
    options = make_options(OPTIONS["all"], 9)
    source = Union([Cells(torch.arange(9) // 2), Slots(slot_k, slot_v, weight), Slots(slot_v, slot_k)])
    compare(q, k, v, source, extra=(slot_k, slot_v, weight), **options)
    compare(q, k, v, Union([source, Band(2)]), extra=(slot_k, slot_v, weight), **options)  # unions nest
    compare(q, None, None, Union([source.sources[1]]), extra=(slot_k, slot_v, weight))


def test_union_is_one_softmax_over_all_keys():
    q, k, v = qkv(6)
    more_k, more_v = random(BATCH, HEADS, 4, 4, seed=7), random(BATCH, HEADS, 4, 4, seed=8)
    found = attend(q, k, v, Union([Full(), Slots(more_k, more_v)]))
    expected = attend(q, torch.cat([k, more_k], 2), torch.cat([v, more_v], 2), Full())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_union_stays_exact_at_large_scores():
    q, k, v = qkv(9)
    compare(q * 100, k * 100, v, Union([Band(2), Cells(torch.arange(9) // 3)]))


def test_heads_may_hold_a_union_in_bfloat16():
    tokens = [x.bfloat16() for x in qkv(9)]
    assert attend(*tokens, HeadSplit([(2, Band(2)), (2, Union([Band(2), Band(1)]))])).dtype == torch.bfloat16


def test_heads_equal_separate_calls():
    q, k, v = qkv(9, kv_heads=2)
    source = HeadSplit([(1, Band(2)), (1, Full()), (2, Cells(torch.arange(9) // 3))])
    apart = [
        attend(q[:, :1], k[:, :1], v[:, :1], Band(2)),
        attend(q[:, 1:2], k[:, :1], v[:, :1], Full()),
        attend(q[:, 2:], k[:, 1:], v[:, 1:], Cells(torch.arange(9) // 3)),
    ]
    assert torch.equal(attend(q, k, v, source), torch.cat(apart, 1))
    compare(q, k, v, source, bias=distance_bias)
    compare(q, k, v, source, bias=shared_bias)


@pytest.mark.parametrize("score", ["softmax", "relu2", "relu", "none"])
@pytest.mark.parametrize("options", [(), ("mask",), ("segments",), ("mask", "segments")])
def test_channels(score, options):
    q, k, v = (x.requires_grad_() for x in qkv(7, kv_heads=2))
    options = make_options(options, 7)
    options["scale"] = 0.5
    found, expected = attend(q, k, v, Full(), axis="channel", score=score, **options), channels_reference(
        q, k, v, score=score, **options
    )  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weight = random(*found.shape, seed=9)
    for x, y in zip(gradients(found, weight, [q, k, v]), gradients(expected, weight, [q, k, v]), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


def test_channels_scale_by_one_unless_told():
    q, k, v = qkv(7)
    torch.testing.assert_close(attend(q, k, v, Full(), axis="channel"), channels_reference(q, k, v, scale=1.0))


@pytest.mark.parametrize("score", ["softmax", "relu2", "relu", "none"])
@pytest.mark.parametrize("source", SOURCES)
def test_rows_without_keys_give_zero(source, score):
    length, make = SOURCES[source]
    q, k, v = (x.requires_grad_() for x in qkv(length))
    mask = torch.ones(BATCH, length, dtype=torch.bool)
    mask[1] = False
    y = attend(q, k, v, make(length), mask=mask, score=score)
    assert not y[1].any()
    for x in gradients(y, torch.ones_like(y), [q, k, v]):
        assert torch.isfinite(x).all()
        assert not x[1].any()


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
def test_blocked_sources_cost_in_proportion_to_length(source):
    ratio = flops(source, 2048) / flops(source, 512)
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
