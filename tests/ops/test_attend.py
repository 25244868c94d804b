import pytest
import torch
from attend_cases import (
    BATCH,
    HEADS,
    OPTIONS,
    SOURCES,
    compare,
    distance_bias,
    gradients,
    integers,
    make_options,
    neighbours,
    qkv,
    random,
    shared_bias,
)
from attend_reference import channels_reference

from tokenmix.ops import blocked as blocked_module
from tokenmix.ops.attend import attend
from tokenmix.ops.sources import Band, Cells, Full, HeadSplit, Neighbours, Slots, Span, Union


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
