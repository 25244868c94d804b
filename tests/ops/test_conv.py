import pytest
import torch
from scan_reference import depthwise_conv_reference
from torch.nn import functional as F

from tokenmix.ops.conv import depthwise_conv

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
rows, channels = 2, 3


def make(length, taps=3, predicted=False, state=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "x": (rows, length, channels),
        "weight": (rows, length, channels, taps) if predicted else (channels, taps),
        "bias": (channels,),
        "state": (rows, taps - 1, channels),
    }
    if not state:
        del shapes["state"]
    return {name: torch.randn(shape, dtype=torch.float64, generator=generator) for name, shape in shapes.items()}


def make_starts(length):
    starts = torch.rand(rows, length, generator=torch.Generator().manual_seed(1)) < 0.2
    starts[0, 0] = True
    return starts


def run(function, inputs, dtype=torch.float64, **options):
    inputs = {name: value.to(dtype).requires_grad_() for name, value in inputs.items()}
    y = function(**inputs, **options)
    weight = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9)).to(dtype)
    return [y, *torch.autograd.grad((y * weight).sum(), list(inputs.values()))]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("predicted", [False, True])
@pytest.mark.parametrize("length", [1, 2, 63, 65])
@pytest.mark.parametrize("causal", [True, False])
def test_equals_the_loop(length, predicted, causal, dtype):
    inputs = make(length, taps=4 if causal else 5, predicted=predicted, state=causal)
    for starts in (None, make_starts(length)):
        expected = run(depthwise_conv_reference, inputs, starts=starts, causal=causal)
        found = run(depthwise_conv, inputs, dtype, starts=starts, causal=causal)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("taps", "causal"), [(1, True), (2, True), (3, True), (7, True), (1, False), (3, False), (7, False)]
)
def test_equals_conv1d(taps, causal):
    inputs = make(5, taps=taps, state=False)  # also fewer tokens than taps
    pad = (taps - 1, 0) if causal else (taps // 2, taps // 2)
    wide = F.pad(inputs["x"].transpose(1, 2), pad)
    expected = F.conv1d(wide, inputs["weight"][:, None], inputs["bias"], groups=channels).transpose(1, 2)
    torch.testing.assert_close(depthwise_conv(**inputs, causal=bool(causal)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("split", [1, 2, 5])
def test_two_calls_equal_one(split):
    inputs = make(9, taps=4)
    x, state = inputs.pop("x"), inputs.pop("state")
    starts = make_starts(9)
    once = depthwise_conv(x, **inputs, state=state, starts=starts)
    first = depthwise_conv(x[:, :split], **inputs, state=state, starts=starts[:, :split])
    # the second chunk reads the last inputs; starts before it are for the caller to zero (MixerState.recent)
    joined = torch.cat([state, x[:, :split]], 1)
    alive = torch.cat([torch.zeros(rows, 3, dtype=torch.int64), starts[:, :split].cumsum(1)], 1)
    recent = joined.masked_fill((alive != alive[:, -1:])[..., None], 0)[:, -3:]
    second = depthwise_conv(x[:, split:], **inputs, state=recent, starts=starts[:, split:])
    torch.testing.assert_close(torch.cat([first, second], 1), once, rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_packed_equals_apart(causal):
    inputs = make(9, taps=5, state=False)
    x = inputs.pop("x")
    starts = torch.zeros(rows, 9, dtype=torch.bool)
    starts[:, 4] = True
    packed = depthwise_conv(x, **inputs, starts=starts, causal=causal)
    apart = [depthwise_conv(part, **inputs, causal=causal) for part in (x[:, :4], x[:, 4:])]
    torch.testing.assert_close(packed, torch.cat(apart, 1), rtol=0, atol=1e-12)


def test_gradcheck():
    inputs = make(4, taps=3)
    starts = make_starts(4)
    values = [value.requires_grad_() for value in inputs.values()]
    assert torch.autograd.gradcheck(lambda x, w, b, s: depthwise_conv(x, w, b, starts=starts, state=s), values)


def test_half_precision_sums_in_float32():
    inputs = {name: value.to(torch.bfloat16) for name, value in make(65, taps=4).items()}
    y = depthwise_conv(**inputs)
    assert y.dtype == torch.bfloat16
    expected = depthwise_conv(**{name: value.double() for name, value in inputs.items()})
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=1e-5)  # one rounding, of y


@pytest.mark.parametrize("causal", [True, False])
def test_compile_equals_eager(causal):
    inputs, options = make(9, state=causal), {"starts": make_starts(9), "causal": causal}
    compiled = torch.compile(depthwise_conv, fullgraph=True, backend="aot_eager")
    for a, b in zip(run(compiled, inputs, **options), run(depthwise_conv, inputs, **options), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"x": 1}, TypeError, r"x: expected a tensor of shape \(B, L, C\), found int"),
    ({"x": torch.zeros(2, 5)}, ValueError, r"x: expected shape \(B, L, C\) without empty axes, found \(2, 5\)"),
    ({"weight": torch.zeros(3)}, ValueError, r"weight: expected shape \(C, K\) without empty axes, found \(3,\)"),
    ({"weight": torch.zeros(2, 3)}, ValueError, r"weight: expected shape \(C, K\) = \(3, 3\), found \(2, 3\)"),
    ({"weight": torch.zeros(2, 4, 3, 3)}, ValueError, r"weight: expected .* = \(2, 5, 3, 3\), found \(2, 4, 3, 3\)"),
    ({"weight": torch.zeros(3, 3).long()}, TypeError, "weight: expected floating point, found torch.int64"),
    ({"bias": torch.zeros(2)}, ValueError, r"bias: expected shape \(C,\) = \(3,\), found \(2,\)"),
    ({"starts": torch.zeros(2, 5).long()}, TypeError, "starts: expected bool, found torch.int64"),
    ({"starts": torch.zeros(1, 5).bool()}, ValueError, r"starts: expected shape \(B, L\) = \(2, 5\)"),
    ({"state": torch.zeros(2, 3, 3)}, ValueError, r"state: expected shape \(B, K - 1, C\) = \(2, 2, 3\)"),
    ({"causal": False}, ValueError, "state: expected None for a convolution that is not causal, found a tensor"),
    ({"causal": False, "state": None, "weight": torch.zeros(3, 4)}, ValueError,
     "weight: expected an odd number of taps K if not causal, found 4"),
])  # fmt: skip
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        depthwise_conv(**(make(5) | change))
