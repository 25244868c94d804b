import pytest
import torch
from scan_reference import selective_scan_reference

from tokenmix import kernels
from tokenmix.ops import loop_scan as module
from tokenmix.ops.selective_scan import selective_scan

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
LENGTHS = (1, 2, 63, 65, 130)
rows, channels, size = 2, 3, 4


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fresh memory is NaN, so a number that nobody wrote cannot go unseen."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def make(length, seed=0, dt=0.2, batch=rows):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return {
        "x": normal(batch, length, channels),
        "dt": normal(batch, length, channels).abs() * dt,
        "A": -normal(channels, size).exp(),
        "B": normal(batch, length, size),
        "C": normal(batch, length, size),
        "D": normal(channels),
        "state": normal(batch, channels, size),
    }


def make_starts(length, seed=1):
    starts = torch.rand(rows, length, generator=torch.Generator().manual_seed(seed)) < 0.08
    starts[0, 0] = True
    return starts


def make_mask(length):
    return torch.arange(length) < torch.tensor([[length], [length * 2 // 3]])


def run(function, inputs, dtype=torch.float64, **options):
    """Outputs, and gradients of all inputs through the output and through the last state."""
    inputs = {name: value.to(dtype).requires_grad_() for name, value in inputs.items()}
    y, state = function(**inputs, **options)
    generator = torch.Generator().manual_seed(9)
    weights = [torch.randn(t.shape, dtype=torch.float64, generator=generator).to(dtype) for t in (y, state)]
    total = (y * weights[0]).sum() + (state * weights[1]).sum()
    grads = torch.autograd.grad(total, list(inputs.values()), materialize_grads=True)  # one token without a state
    return {"y": y.detach(), "state after": state.detach(), **dict(zip(inputs, grads, strict=True))}


def assert_same(found, expected, tolerance):
    for name, value in expected.items():
        scale = max(1.0, float(value.abs().max()))
        assert found[name].shape == value.shape, name
        error = float((found[name].double() - value.double()).abs().max()) / scale
        assert error <= tolerance, f"{name}: {error}"  # NaN fails


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("length", LENGTHS)
def test_equals_the_loop(length, dtype):
    inputs, options = make(length), {"starts": make_starts(length), "mask": make_mask(length)}
    expected = run(selective_scan_reference, inputs, **options)
    with kernels.use("torch"):  # the native path is in test_native.py
        assert_same(run(selective_scan, inputs, dtype, **options), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("length", [1, 13])
@pytest.mark.parametrize("buffer", [1, 5 * rows * channels * size, 1 << 19])
@pytest.mark.parametrize("left_out", ["D", "state", "starts", "mask", "all"])
def test_optional_arguments_and_chunks(monkeypatch, length, buffer, left_out):
    monkeypatch.setattr(module, "_BUFFER", buffer)  # chunks of 1, 5 and all tokens
    inputs, options = make(length), {"starts": make_starts(length), "mask": make_mask(length)}
    for name in ("D", "state", "starts", "mask"):
        if left_out in (name, "all"):
            inputs.pop(name, None)
            options.pop(name, None)
    assert_same(run(selective_scan, inputs, **options), run(selective_scan_reference, inputs, **options), 1e-9)


def test_gradcheck():
    inputs = make(5)
    starts, mask = make_starts(5), make_mask(5)

    def function(*values):
        return selective_scan(**dict(zip(inputs, values, strict=True)), starts=starts, mask=mask)

    assert torch.autograd.gradcheck(function, [value.requires_grad_() for value in inputs.values()])


def test_gradient_through_the_last_state_alone():
    inputs = {name: value.requires_grad_() for name, value in make(7).items()}
    grads = torch.autograd.grad(selective_scan(**inputs)[1].sum(), [inputs["x"], inputs["state"]])
    expected = torch.autograd.grad(selective_scan_reference(**inputs)[1].sum(), [inputs["x"], inputs["state"]])
    torch.testing.assert_close(grads, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("split", [1, 2, 64, 66])
def test_two_calls_equal_one(split):
    inputs = make(67)
    starts = make_starts(67)
    once = selective_scan(**inputs, starts=starts)
    state, parts = inputs["state"], []
    for piece in (slice(0, split), slice(split, 67)):
        chunk = {name: inputs[name][:, piece] for name in ("x", "dt", "B", "C")}
        y, state = selective_scan(**chunk, A=inputs["A"], D=inputs["D"], starts=starts[:, piece], state=state)
        parts.append(y)
    torch.testing.assert_close((torch.cat(parts, 1), state), once, rtol=0, atol=1e-9)


def test_packed_equals_apart():
    first, second = make(4, seed=1, batch=1), make(7, seed=2, batch=1)
    shared = {"A": first["A"], "D": first["D"]}
    tokens = ("x", "dt", "B", "C")
    packed = {name: torch.cat([first[name], second[name]], 1) for name in tokens}
    starts = torch.zeros(1, 11, dtype=torch.bool)
    starts[0, 4] = True
    y, state = selective_scan(**packed, **shared, starts=starts, state=first["state"])
    y1, _ = selective_scan(**{name: first[name] for name in tokens}, **shared, state=first["state"])
    y2, state2 = selective_scan(**{name: second[name] for name in tokens}, **shared)
    torch.testing.assert_close((y, state), (torch.cat([y1, y2], 1), state2), rtol=0, atol=1e-9)


@pytest.mark.parametrize("length", [1, 6])
def test_padding_is_never_read(length):
    inputs, mask = make(length), torch.arange(length) < torch.tensor([[length], [length // 2]])
    clean = run(selective_scan, inputs, mask=mask)
    dirty = dict(inputs)
    for name in ("x", "dt", "B", "C"):
        dirty[name] = inputs[name].masked_fill(~mask[..., None], torch.nan)
    starts = ~mask  # a start at padding changes nothing
    assert_same(run(selective_scan, dirty, mask=mask, starts=starts), clean, 0.0)
    assert bool((clean["y"][~mask] == 0).all())
    if length == 1:
        assert torch.equal(clean["state after"][1], inputs["state"][1])


def test_strong_decay_stays_finite():
    inputs = make(130, dt=100.0)
    inputs["A"] = inputs["A"].clamp(max=-1)
    assert float((inputs["dt"].mean() * inputs["A"].mean()).abs()) > 90
    expected = run(selective_scan_reference, inputs)
    assert_same(run(selective_scan, inputs, torch.float32), expected, 1e-5)


def test_half_precision_computes_in_float32():
    inputs = make(65)
    half = {name: value.to(torch.bfloat16) for name, value in inputs.items() if name != "state"}
    y, state = selective_scan(**half, state=inputs["state"].float())
    wide = {name: value.double() for name, value in half.items()}
    expected, expected_state = selective_scan(**wide, state=inputs["state"])
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=1e-5)  # one rounding, of y
    torch.testing.assert_close(state.double(), expected_state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [1, 9])
def test_autocast_changes_nothing(length):
    inputs = {name: value.float() for name, value in make(length).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = selective_scan(**inputs)
    assert all(torch.equal(a, b) for a, b in zip(found, selective_scan(**inputs), strict=True))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_equals_eager(dynamic):
    inputs, options = make(130), {"starts": make_starts(130), "mask": make_mask(130)}
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    assert_same(run(compiled, inputs, **options), run(selective_scan, inputs, **options), 1e-12)


def test_operator_keeps_its_promises():
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 2, 3), (5, 2, 3), (4, 3), (5, 2, 4), (5, 2, 4), (5, 2), (2, 4, 3)]
    tensors = [torch.rand(shape, generator=generator) for shape in shapes]
    for tensor in tensors[:5] + tensors[6:]:
        tensor.requires_grad_()
    torch.library.opcheck(module._scan, (*tensors, 2))


def test_runs_on_the_meta_device():
    inputs = {name: value.to("meta") for name, value in make(9).items()}
    y, state = selective_scan(**inputs)
    assert y.shape == (rows, 9, channels)
    assert state.shape == (rows, channels, size)


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"x": [1.0]}, TypeError, r"x: expected a tensor of shape \(B, L, C\), found list"),
    ({"x": torch.zeros(2, 5, 3, dtype=torch.int64)}, TypeError, "x: expected floating point, found torch.int64"),
    ({"x": torch.zeros(2, 5)}, ValueError, r"x: expected shape \(B, L, C\) without empty axes, found \(2, 5\)"),
    ({"x": torch.zeros(2, 0, 3)}, ValueError, r"x: expected shape .* without empty axes, found \(2, 0, 3\)"),
    ({"dt": torch.zeros(2, 5, 1)}, ValueError, r"dt: expected shape \(B, L, C\) = \(2, 5, 3\), found \(2, 5, 1\)"),
    ({"A": torch.zeros(3)}, ValueError, r"A: expected shape \(C, N\) without empty axes, found \(3,\)"),
    ({"A": torch.zeros(4, 4)}, ValueError, r"A: expected shape \(C, N\) = \(3, 4\), found \(4, 4\)"),
    ({"B": torch.zeros(2, 5, 3)}, ValueError, r"B: expected shape \(B, L, N\) = \(2, 5, 4\), found \(2, 5, 3\)"),
    ({"C": torch.zeros(2, 4, 4)}, ValueError, r"C: expected shape \(B, L, N\) = \(2, 5, 4\), found \(2, 4, 4\)"),
    ({"D": torch.zeros(3, 1)}, ValueError, r"D: expected shape \(C,\) = \(3,\), found \(3, 1\)"),
    ({"D": 1.0}, TypeError, r"D: expected a tensor of shape \(C,\), found float"),
    ({"D": torch.zeros(3, device="meta")}, ValueError, "D: expected device cpu .* found meta"),
    ({"starts": torch.zeros(2, 5)}, TypeError, "starts: expected bool, found torch.float32"),
    ({"mask": torch.ones(2, 4, dtype=torch.bool)}, ValueError, r"mask: expected shape \(B, L\) = \(2, 5\)"),
    ({"state": torch.zeros(2, 4, 3)}, ValueError, r"state: expected shape \(B, C, N\) = \(2, 3, 4\)"),
])  # fmt: skip
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        selective_scan(**(make(5) | change))
