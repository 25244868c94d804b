import pytest
import torch
from scan_reference import chunked_scan_reference, linear_attention_reference, selective_scan_reference

from tokenmix.ops.chunked_scan import chunked_scan, linear_attention, ssd

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
rows, heads, width, size = 2, 4, 3, 5


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fresh memory is NaN, so a number that nobody wrote cannot go unseen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def draw(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)


def make(length, groups=1, decay=0.3, seed=0, batch=rows):
    normal = draw(seed)
    inputs = {
        "v": normal(batch, length, heads, width),
        "log_decay": -normal(batch, length, heads).abs() * (decay or 1),
        "k": normal(batch, length, groups, size) / size**0.5,
        "q": normal(batch, length, groups, size),
        "state": normal(batch, heads, width, size),
    }
    return inputs if decay else inputs | {"log_decay": None}


def make_ssd(length, groups=1, wide=False, seed=0):
    normal = draw(seed)
    return {
        "x": normal(rows, length, heads, width),
        "dt": normal(rows, length, heads).abs() * 0.2,
        "A": -normal(heads).exp(),
        "B": normal(rows, length, groups, size),
        "C": normal(rows, length, groups, size),
        "D": normal(heads, width) if wide else normal(heads),
        "state": normal(rows, heads, width, size),
    }


def make_attention(length, state=None):
    normal = draw()
    inputs = {
        "q": normal(rows, length, heads, size).exp(),
        "k": normal(rows, length, heads, size).exp(),
        "v": normal(rows, length, heads, width),
    }
    return inputs if state is None else inputs | {"state": normal(rows, heads, state, size).abs()}


def make_starts(length):
    starts = torch.rand(rows, length, generator=torch.Generator().manual_seed(1)) < 0.06
    starts[0, 0] = True
    return starts


def make_mask(length):
    return torch.arange(length) < torch.tensor([[length], [length * 2 // 3]])


def run(function, inputs, dtype=torch.float64, **options):
    """Outputs, and gradients of all inputs through the output and through the last state."""
    given = {name: None if value is None else value.to(dtype).requires_grad_() for name, value in inputs.items()}
    outputs = [t for t in function(**given, **options) if t is not None]
    normal = draw(9)
    total = sum((t * normal(*t.shape).to(dtype)).sum() for t in outputs)
    tensors = {name: value for name, value in given.items() if value is not None}
    found = dict(zip(("y", "state after"), (t.detach() for t in outputs), strict=False))
    grads = torch.autograd.grad(total, list(tensors.values()), materialize_grads=True)  # one token without a state
    return found | dict(zip(tensors, grads, strict=True))


def assert_same(found, expected, tolerance):
    for name, value in expected.items():
        scale = max(1.0, float(value.abs().max()))
        assert found[name].shape == value.shape, name
        error = float((found[name].double() - value.double()).abs().max()) / scale
        assert error <= tolerance, f"{name}: {error}"  # NaN fails


@pytest.mark.parametrize(("groups", "decay"), [(1, 0.3), (2, 0.3), (2, None)])
@pytest.mark.parametrize("length", [1, 2, 63, 65, 130])
def test_equals_the_loop(length, groups, decay):
    inputs, options = make(length, groups, decay), {"starts": make_starts(length), "mask": make_mask(length)}
    expected = run(chunked_scan_reference, inputs, **options)
    for chunk in (1, 3, 16, 64):
        assert_same(run(chunked_scan, inputs, chunk=chunk, **options), expected, 1e-9)
    for chunk in (16, 64):
        assert_same(run(chunked_scan, inputs, torch.float32, chunk=chunk, **options), expected, 1e-5)


@pytest.mark.parametrize("decay", [0.3, None])
@pytest.mark.parametrize("left_out", ["state", "starts", "mask", "all"])
@pytest.mark.parametrize("length", [1, 13])
def test_optional_arguments(length, left_out, decay):
    inputs, options = make(length, 2, decay), {"starts": make_starts(length), "mask": make_mask(length)}
    for name in ("state", "starts", "mask"):
        if left_out in (name, "all"):
            inputs.pop(name, None)
            options.pop(name, None)
    expected = run(chunked_scan_reference, inputs, **options)
    assert_same(run(chunked_scan, inputs, chunk=4, **options), expected, 1e-9)


@pytest.mark.parametrize("decay", [0.3, None])
@pytest.mark.parametrize("length", [1, 5])
def test_gradcheck(length, decay):
    inputs = {name: value for name, value in make(length, 2, decay).items() if value is not None}
    starts, mask = make_starts(length), make_mask(length)

    def function(*values):
        given = {"log_decay": None, **dict(zip(inputs, values, strict=True))}
        return chunked_scan(**given, starts=starts, mask=mask, chunk=2)

    assert torch.autograd.gradcheck(function, [value.requires_grad_() for value in inputs.values()], fast_mode=True)


@pytest.mark.parametrize("split", [1, 16, 66])
def test_two_calls_equal_one(split):
    inputs, starts = make(67, 2), make_starts(67)
    once = chunked_scan(**inputs, starts=starts)
    state, parts = inputs.pop("state"), []
    for piece in (slice(0, split), slice(split, 67)):
        chunk = {name: value[:, piece] for name, value in inputs.items()}
        y, state = chunked_scan(**chunk, starts=starts[:, piece], state=state)
        parts.append(y)
    torch.testing.assert_close((torch.cat(parts, 1), state), once, rtol=0, atol=1e-9)


@pytest.mark.parametrize("decay", [0.3, None])
def test_packed_equals_apart(decay):
    first, second = make(4, decay=decay, seed=1, batch=1), make(7, decay=decay, seed=2, batch=1)
    tokens = ("v", "k", "q") if decay is None else ("v", "log_decay", "k", "q")
    packed = first | {name: torch.cat([first[name], second[name]], 1) for name in tokens}
    starts = torch.zeros(1, 11, dtype=torch.bool)
    starts[0, 4] = True
    y, state = chunked_scan(**packed, starts=starts, chunk=3)
    y1, _ = chunked_scan(**first)
    y2, state2 = chunked_scan(**(second | {"state": None}))
    torch.testing.assert_close((y, state), (torch.cat([y1, y2], 1), state2), rtol=0, atol=1e-9)


@pytest.mark.parametrize("length", [1, 6])
def test_padding_is_never_read(length):
    inputs, mask = make(length, 2), torch.arange(length) < torch.tensor([[length], [length // 2]])
    clean = run(chunked_scan, inputs, mask=mask)
    dirty = dict(inputs)
    for name in ("v", "log_decay", "k", "q"):
        padding = ~mask.view(rows, length, *[1] * (inputs[name].dim() - 2))
        dirty[name] = inputs[name].masked_fill(padding, torch.nan)
    assert_same(run(chunked_scan, dirty, mask=mask, starts=~mask), clean, 0.0)  # a start at padding changes nothing
    assert bool((clean["y"][~mask] == 0).all())


@pytest.mark.parametrize("starts", [None, make_starts(130)])
def test_strong_decay_stays_finite(starts):
    inputs = make(130, decay=120.0)
    assert float(inputs["log_decay"].mean()) < -90
    expected = run(chunked_scan_reference, inputs, starts=starts)
    assert_same(run(chunked_scan, inputs, starts=starts), expected, 1e-9)
    assert_same(run(chunked_scan, inputs, torch.float32, starts=starts), expected, 1e-3)  # sums to 6000 lose digits


def test_half_precision_computes_in_float32():
    half = {name: value.to(torch.bfloat16) for name, value in make(65).items()}
    y, state = chunked_scan(**half)
    expected, expected_state = chunked_scan(**{name: value.double() for name, value in half.items()})
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=1e-5)  # one rounding, of y
    torch.testing.assert_close(state.double(), expected_state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [1, 9])
def test_autocast_changes_nothing(length):
    inputs = {name: value.float() for name, value in make(length).items()}
    attention = {name: value.float() for name, value in make_attention(length).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [*chunked_scan(**inputs), linear_attention(**attention, causal=False)[0]]
    expected = [*chunked_scan(**inputs), linear_attention(**attention, causal=False)[0]]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_compile_equals_eager():
    inputs, options = make(9, 2), {"starts": make_starts(9), "mask": make_mask(9), "chunk": 4}
    compiled = torch.compile(chunked_scan, fullgraph=True, backend="aot_eager")
    assert_same(run(compiled, inputs, **options), run(chunked_scan, inputs, **options), 1e-12)


# ---------------------------------------------------------------------- ssd


def ssd_reference(x, dt, A, B, C, D, starts, mask, state):
    """Mamba-2 is Mamba with one rate a head: run each head as a selective scan."""
    ys, states = [], []
    for head in range(heads):
        group = head // (heads // B.shape[2])
        y, last = selective_scan_reference(
            x[:, :, head],
            dt[:, :, head, None].expand(-1, -1, width),
            A[head].expand(width, size),
            B[:, :, group],
            C[:, :, group],
            D[head].expand(width),
            starts,
            mask,
            state[:, head],
        )
        ys.append(y)
        states.append(last)
    return torch.stack(ys, 2), torch.stack(states, 1)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("length", [1, 21])
def test_ssd_equals_the_loop(length, wide, groups):
    inputs, options = make_ssd(length, groups, wide), {"starts": make_starts(length), "mask": make_mask(length)}
    expected = run(ssd_reference, inputs, **options)
    for dtype, tolerance in TOLERANCE.items():
        assert_same(run(ssd, inputs, dtype, chunk=8, **options), expected, tolerance)


def test_ssd_never_reads_padding():
    inputs, mask = make_ssd(6), make_mask(6)
    dirty = dict(inputs)
    for name in ("x", "dt", "B", "C"):
        padding = ~mask.view(rows, 6, *[1] * (inputs[name].dim() - 2))
        dirty[name] = inputs[name].masked_fill(padding, torch.nan)
    assert_same(run(ssd, dirty, mask=mask), run(ssd, inputs, mask=mask), 0.0)


def test_ssd_keeps_the_type_of_x():
    inputs = make_ssd(9) | {"x": make_ssd(9)["x"].to(torch.bfloat16)}
    y, state = ssd(**inputs)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)


# ---------------------------------------------------------------------- linear attention


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("length", [1, 2, 21])
def test_linear_attention_equals_the_sums(length, packed, causal, normalize):
    segments = make_starts(length).cumsum(1) if packed else None
    inputs, mask = make_attention(length), make_mask(length)

    def reference(q, k, v):
        return linear_attention_reference(q, k, v, causal, normalize, 1e-6, segments, mask), None

    def found(q, k, v):
        options = {"causal": causal, "normalize": normalize, "segments": segments, "mask": mask, "chunk": 8}
        return linear_attention(q, k, v, **options)[0], None

    expected = run(reference, inputs)
    for dtype, tolerance in TOLERANCE.items():
        assert_same(run(found, inputs, dtype), expected, tolerance)


@pytest.mark.parametrize("causal", [True, False])
def test_starts_say_the_same_as_segments(causal):
    inputs, starts = make_attention(21), make_starts(21)
    y, _ = linear_attention(**inputs, starts=starts, causal=causal)
    other, _ = linear_attention(**inputs, segments=starts.cumsum(1) + 7, causal=causal)
    assert torch.equal(y, other)


@pytest.mark.parametrize("normalize", [True, False])
def test_linear_attention_in_two_calls_equals_one(normalize):
    inputs = make_attention(21, state=width + normalize)
    state, parts = inputs["state"], []
    once = linear_attention(**inputs, normalize=normalize)
    for piece in (slice(0, 8), slice(8, 9), slice(9, 21)):
        chunk = {name: inputs[name][:, piece] for name in ("q", "k", "v")}
        y, state = linear_attention(**chunk, normalize=normalize, state=state)
        parts.append(y)
    torch.testing.assert_close((torch.cat(parts, 1), state), once, rtol=0, atol=1e-9)


def test_segments_go_on_with_the_state():
    inputs = make_attention(5, state=width + 1)
    y, _ = linear_attention(**inputs, segments=torch.tensor([[3, 3, 4, 4, 4]] * rows))
    expected, _ = linear_attention(**inputs, starts=torch.tensor([[False, False, True, False, False]] * rows))
    assert torch.equal(y, expected)


@pytest.mark.parametrize("causal", [True, False])
def test_linear_attention_never_reads_padding(causal):
    inputs, mask, starts = make_attention(6), make_mask(6), make_starts(6)
    dirty = {name: value.masked_fill(~mask[..., None, None], torch.nan) for name, value in inputs.items()}
    for options in ({}, {"starts": starts}):
        clean = run(linear_attention, inputs, mask=mask, causal=causal, eps=0, **options)
        assert_same(run(linear_attention, dirty, mask=mask, causal=causal, eps=0, **options), clean, 0.0)
        assert bool((clean["y"][~mask] == 0).all())


@pytest.mark.parametrize("causal", [True, False])
def test_linear_attention_compiles(causal):
    inputs, options = make_attention(9), {"starts": make_starts(9), "causal": causal, "chunk": 4}
    compiled = torch.compile(linear_attention, fullgraph=True, backend="aot_eager")
    assert_same(run(compiled, inputs, **options), run(linear_attention, inputs, **options), 1e-12)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"v": 1}, TypeError, r"v: expected a tensor of shape \(B, L, H, P\), found int"),
    ({"v": torch.zeros(2, 5, 4)}, ValueError, r"v: expected shape \(B, L, H, P\) without empty axes"),
    ({"k": torch.zeros(2, 5, 3, 5)}, ValueError, "k: expected .* groups that divides the 4 heads of v, found 3"),
    ({"k": torch.zeros(2, 4, 1, 5)}, ValueError, r"k: expected shape \(B, L, G, N\) = \(2, 5, 1, 5\)"),
    ({"q": torch.zeros(2, 5, 2, 5)}, ValueError, r"q: expected shape \(B, L, G, N\) = \(2, 5, 1, 5\)"),
    ({"log_decay": torch.zeros(2, 5)}, ValueError, r"log_decay: expected shape \(B, L, H\) = \(2, 5, 4\)"),
    ({"starts": torch.zeros(2, 5).long()}, TypeError, "starts: expected bool, found torch.int64"),
    ({"mask": torch.ones(2, 4).bool()}, ValueError, r"mask: expected shape \(B, L\) = \(2, 5\), found \(2, 4\)"),
    ({"state": torch.zeros(2, 4, 5, 3)}, ValueError, r"state: expected shape \(B, H, P, N\) = \(2, 4, 3, 5\)"),
    ({"chunk": 0}, ValueError, "chunk: expected a positive integer, found 0"),
    ({"chunk": 2.0}, TypeError, "chunk: expected a positive integer, found 2.0"),
])  # fmt: skip
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        chunked_scan(**(make(5) | change))


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"x": torch.zeros(2, 5, 4)}, ValueError, r"x: expected shape \(B, L, H, P\) without empty axes"),
    ({"dt": torch.zeros(2, 5, 3)}, ValueError, r"dt: expected shape \(B, L, H\) = \(2, 5, 4\), found \(2, 5, 3\)"),
    ({"A": torch.zeros(4, 5)}, ValueError, r"A: expected shape \(H,\) = \(4,\), found \(4, 5\)"),
    ({"B": torch.zeros(2, 5, 3, 5)}, ValueError, "B: expected .* groups that divides the 4 heads of x, found 3"),
    ({"C": torch.zeros(2, 5, 1, 4)}, ValueError, r"C: expected shape \(B, L, G, N\) = \(2, 5, 1, 5\)"),
    ({"D": torch.zeros(3)}, ValueError, r"D: expected shape \(H,\) = \(4,\), found \(3,\)"),
    ({"D": torch.zeros(4, 4)}, ValueError, r"D: expected shape \(H, P\) = \(4, 3\), found \(4, 4\)"),
    ({"D": 1.0}, TypeError, "D: expected a tensor"),
    ({"mask": torch.ones(2, 5)}, TypeError, "mask: expected bool, found torch.float32"),
    ({"state": torch.zeros(2, 4, 3, 4)}, ValueError, r"state: expected shape \(B, H, P, N\) = \(2, 4, 3, 5\)"),
])  # fmt: skip
def test_ssd_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        ssd(**(make_ssd(5) | change))


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"v": torch.zeros(2, 5, 4)}, ValueError, r"v: expected shape \(B, L, H, P\) without empty axes"),
    ({"k": torch.zeros(2, 5, 2, 5)}, ValueError, r"k: expected shape \(B, L, H, N\) = \(2, 5, 4, 5\)"),
    ({"q": torch.zeros(2, 5, 4, 3)}, ValueError, r"q: expected shape \(B, L, H, N\) = \(2, 5, 4, 5\)"),
    ({"segments": torch.zeros(2, 5)}, TypeError, "segments: expected integer, found torch.float32"),
    ({"segments": torch.zeros(1, 5).long()}, ValueError, r"segments: expected shape \(B, L\) = \(2, 5\)"),
    ({"causal": False, "mask": torch.ones(2, 5)}, TypeError, "mask: expected bool, found torch.float32"),
    ({"causal": False, "state": torch.zeros(2, 4, 4, 5)}, ValueError,
     "state: expected None for attention that is not causal, found a tensor"),
    ({"state": torch.zeros(2, 4, 3, 5)}, ValueError, r"state: expected shape \(B, H, P \+ 1, N\) = \(2, 4, 4, 5\)"),
])  # fmt: skip
def test_linear_attention_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        linear_attention(**(make_attention(5) | change))
