"""The native kernels against float64 loops, for every kind of vectors that this processor has."""

import pytest
import torch
import torch.nn.functional as F
from scan_reference import chunked_scan_reference, depthwise_conv_reference, selective_scan_reference

from tokenmix import kernels
from tokenmix.ops import native_cache, native_conv, native_scan, native_ssd
from tokenmix.ops.attend import attend
from tokenmix.ops.chunked_scan import chunked_scan, ssd
from tokenmix.ops.conv import depthwise_conv
from tokenmix.ops.selective_scan import selective_scan
from tokenmix.ops.sources import Full, Span

pytestmark = pytest.mark.usefixtures("level")
# rows, length, channels or heads, and sizes: single numbers, ends of vectors, several chunks, groups and tiles
SCANS = [(1, 1, 1, 1), (2, 7, 5, 3), (2, 70, 33, 16), (1, 65, 130, 10), (3, 33, 24, 40)]
SSDS = [(1, 2, 1, 1, 1, 1), (2, 7, 6, 5, 2, 3), (1, 64, 4, 16, 1, 16), (2, 130, 6, 17, 1, 33), (1, 70, 10, 8, 2, 20)]
CONVS = [(1, 1, 1, 1), (2, 2, 3, 4), (2, 70, 33, 3), (1, 200, 17, 4), (3, 5, 40, 7), (1, 150, 3, 70)]


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scan_inputs(rows, length, channels, states):
    return {
        "x": normal(rows, length, channels, seed=1),
        "dt": normal(rows, length, channels, seed=2) - 1,
        "A": -normal(channels, states, seed=3).exp(),
        "B": normal(rows, length, states, seed=4),
        "C": normal(rows, length, states, seed=5),
        "D": normal(channels, seed=6),
        "z": normal(rows, length, channels, seed=7) * 3,
        "dt_bias": normal(channels, seed=8),
        "state": normal(rows, channels, states, seed=9),
    }


def ssd_inputs(rows, length, heads, values, groups, keys):
    return {
        "x": normal(rows, length, heads, values, seed=1),
        "dt": normal(rows, length, heads, seed=2).abs() * 0.3,
        "A": -normal(heads, seed=3).exp(),
        "B": normal(rows, length, groups, keys, seed=4),
        "C": normal(rows, length, groups, keys, seed=5),
        "D": normal(heads, seed=6),
        "state": normal(rows, heads, values, keys, seed=7),
    }


def conv_inputs(rows, length, channels, taps):
    return {
        "x": normal(rows, length, channels, seed=1),
        "weight": normal(channels, taps, seed=2),
        "bias": normal(channels, seed=3),
        "state": normal(rows, taps - 1, channels, seed=4),
    }


def documents(rows, length):
    """Starts of documents, and padding of every kind: holes, and a row that is all padding."""
    generator = torch.Generator().manual_seed(length)
    mask = torch.rand(rows, length, generator=generator) < 0.8
    mask[-1] &= rows == 1
    return {"starts": torch.rand(rows, length, generator=generator) < 0.1, "mask": mask}


def gated_scan_reference(x, dt, A, B, C, D=None, z=None, dt_bias=None, state=None, softplus=True, **options):
    dt = dt if dt_bias is None else dt + dt_bias
    y, last = selective_scan_reference(x, F.softplus(dt) if softplus else dt, A, B, C, D, state=state, **options)
    return y if z is None else y * F.silu(z), last


def ssd_reference(x, dt, A, B, C, D=None, state=None, **options):
    y, last = chunked_scan_reference(x * dt[..., None], dt * A, B, C, state=state, **options)
    mask = options.get("mask")
    skipped = x if mask is None else x * mask[..., None, None]
    return y if D is None else y + D[:, None] * skipped, last


def run(function, inputs, dtype, **options):
    """Outputs and gradients of all inputs, by way of random weights of the outputs."""
    leaves = {name: value.to(dtype).requires_grad_() for name, value in inputs.items()}
    outputs = function(**leaves, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    total = sum((y * normal(*y.shape, seed=20 + i).to(y.dtype)).sum() for i, y in enumerate(outputs))
    grads = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
    names = [f"output {i}" for i in range(len(outputs))] + [f"gradient of {name}" for name in leaves]
    return dict(zip(names, [y.detach() for y in outputs] + list(grads), strict=True))


def assert_as_exact(function, reference, inputs, **options):
    """Within float32's rounding of the loops, and not further from them than plain torch, but for noise."""
    expected = run(reference, inputs, torch.float64, **options)
    found = run(function, inputs, torch.float32, **options)
    with kernels.use("torch"):
        plain = run(function, inputs, torch.float32, **options)
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        if value.numel() == 0:
            continue
        scale = max(0.1, float(value.abs().max()))
        error, other = (float((x[name].double() - value).abs().max()) / scale for x in (found, plain))
        assert error <= 2e-6, f"{name}: {error}"  # NaN fails
        assert error <= 2 * other + 5e-7, f"{name}: {error}, plain torch {other}"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("sizes", SCANS)
def test_scan_equals_the_loop(sizes, packed):
    options = documents(*sizes[:2]) if packed else {}
    assert_as_exact(selective_scan, gated_scan_reference, scan_inputs(*sizes), softplus=True, **options)


@pytest.mark.parametrize("left_out", ["D", "z", "dt_bias", "state", "all"])
def test_scan_without_optional_arguments(left_out):
    inputs = scan_inputs(2, 40, 6, 5)
    inputs = {name: x for name, x in inputs.items() if name != left_out}
    if left_out == "all":
        inputs = {name: inputs[name] for name in ("x", "dt", "A", "B", "C")}
    assert_as_exact(selective_scan, gated_scan_reference, inputs, softplus=True)
    if "dt_bias" not in inputs:
        inputs["dt"] = inputs["dt"].abs()
        assert_as_exact(selective_scan, gated_scan_reference, inputs, softplus=False)


@pytest.mark.parametrize("sizes", SCANS)
def test_one_token_of_a_scan(sizes):
    rows, _, channels, states = sizes
    inputs = scan_inputs(rows, 1, channels, states)
    for options in ({}, documents(rows, 1), {"starts": torch.ones(rows, 1, dtype=torch.bool)}):
        expected = gated_scan_reference(**inputs, **options)
        with torch.no_grad():
            found = selective_scan(**{name: x.float() for name, x in inputs.items()}, softplus=True, **options)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("sizes", SSDS)
def test_ssd_equals_the_loop(sizes, packed):
    options = documents(*sizes[:2]) if packed else {}
    assert_as_exact(ssd, ssd_reference, ssd_inputs(*sizes), **options)


@pytest.mark.parametrize("decay", [None, 0.1, 30.0])
@pytest.mark.parametrize("packed", [False, True])
def test_chunked_scan_equals_the_loop(packed, decay):
    whole = ssd_inputs(2, 130, 4, 9, 2, 12)
    inputs = {"v": whole["x"], "k": whole["B"], "q": whole["C"], "state": whole["state"]}
    if decay is not None:
        inputs["log_decay"] = -whole["dt"] * decay
    options = documents(2, 130) if packed else {}

    def with_decay(function):
        return lambda v, k, q, log_decay=None, **rest: function(v, log_decay, k, q, **rest)

    assert_as_exact(with_decay(chunked_scan), with_decay(chunked_scan_reference), inputs, **options)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("sizes", CONVS)
def test_conv_equals_the_loop(sizes, silu):
    def reference(silu, **inputs):
        y = depthwise_conv_reference(**inputs)
        return F.silu(y) if silu else y

    inputs, starts = conv_inputs(*sizes), documents(*sizes[:2])["starts"]
    for left_out in ((), ("bias",), ("state",)):
        given = {name: x for name, x in inputs.items() if name not in left_out}
        assert_as_exact(depthwise_conv, reference, given, silu=silu)
    assert_as_exact(depthwise_conv, reference, inputs, silu=silu, starts=starts)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (2, 4, 2, 70, 64), (3, 6, 2, 130, 33), (2, 2, 2, 65, 80)])
def test_cached_keys(sizes):
    rows, heads, kv_heads, keys, width = sizes
    q, k, v = (
        normal(rows, n, m, width, seed=i) for i, (n, m) in enumerate([(heads, 1), (kv_heads, keys), (kv_heads, keys)])
    )
    low = torch.arange(rows) % keys
    high = torch.tensor([keys, keys // 2, 0])[:rows]  # the last row may read nothing
    k[:, :, keys // 2] *= 4  # a maximum in a later block
    for bounds in (None, (low, high)):
        allowed = torch.ones(rows, keys, dtype=torch.bool)
        if bounds is not None:
            place = torch.arange(keys)
            allowed = (low[:, None] <= place) & (place < high[:, None])
        scores = q @ k.repeat_interleave(heads // kv_heads, 1).transpose(2, 3) * 0.3
        weights = scores.masked_fill(~allowed[:, None, None], -torch.inf).softmax(-1).nan_to_num(0.0)
        expected = weights @ v.repeat_interleave(heads // kv_heads, 1)
        found = native_cache.read_cache(*(x.float() for x in (q, k, v)), *(bounds or (None, None)), 0.3)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("source", ["full", "span", "one span"])
def test_attend_reads_caches_with_it(source, monkeypatch):
    monkeypatch.setattr(native_cache, "_FEWEST", 0)
    q, k, v = (normal(3, heads, length, 8, seed=heads) for heads, length in ((4, 1), (2, 9), (2, 9)))
    low, high = torch.tensor([[0], [4], [5]]), torch.tensor([[9], [20], [5]])  # the last row reads nothing
    given = {"full": Full(), "span": Span(low, high), "one span": Span(low[:1] + 2, high[:1] - 1)}[source]
    expected = attend(q, k, v, given)
    calls, right = [], native_cache.read_cache
    monkeypatch.setattr(native_cache, "read_cache", lambda *a: calls.append(1) or right(*a))
    found = attend(q.float(), k.float(), v.float(), given)
    assert calls == [1]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    leaf = q.float().requires_grad_()
    attend(leaf, k.float(), v.float(), given).sum().backward()  # the kernel takes no gradients
    assert calls == [1]
    assert leaf.grad is not None


CALLS = {
    "scan": (selective_scan, scan_inputs(3, 70, 72, 16), {"softplus": True}),
    "ssd": (ssd, ssd_inputs(2, 130, 12, 16, 2, 16), {}),
    "conv": (depthwise_conv, conv_inputs(3, 600, 70, 4), {"silu": True}),
}


@pytest.mark.parametrize("name", CALLS)
def test_any_number_of_threads_gives_the_same_bits(name):
    function, inputs, options = CALLS[name]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(run(function, inputs, torch.float32, **options))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(value, other[key]) for key, value in found[0].items())


@pytest.mark.parametrize("name", CALLS)
def test_layout_in_memory_does_not_matter(name):
    function, inputs, options = CALLS[name]
    plain = {key: value.float() for key, value in inputs.items()}
    for strange in (
        {key: value.transpose(0, -1).contiguous().transpose(0, -1) for key, value in plain.items()},
        {key: torch.stack([value, value + 1], -1)[..., 0] for key, value in plain.items()},
        {key: torch.cat([value, value], -1)[..., : value.shape[-1]] for key, value in plain.items()},
        plain | {"x": plain["x"][:1].expand_as(plain["x"])},
    ):
        expected = function(**{key: value.contiguous() for key, value in strange.items()}, **options)
        found = function(**strange, **options)
        pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", ["scan", "ssd"])  # the convolution takes input that is zero at padding
def test_padding_is_never_read(name):
    function, inputs, options = CALLS[name]
    rows, length = inputs["x"].shape[:2]
    mask = documents(rows, length)["mask"]
    dirty = {
        key: value.masked_fill(~mask.view(rows, length, *[1] * (value.dim() - 2)), torch.nan)
        if value.shape[:2] == (rows, length)
        else value
        for key, value in inputs.items()
    }
    clean = run(function, inputs, torch.float32, mask=mask, **options)
    found = run(function, dirty, torch.float32, mask=mask, **options)
    for key, value in clean.items():
        assert torch.equal(found[key], value), key
    assert bool((clean["output 0"][~mask] == 0).all())


@pytest.mark.parametrize("name", CALLS)
def test_bfloat16_is_rounded_once(name):
    function, inputs, options = CALLS[name]
    half = {key: value.bfloat16() for key, value in inputs.items()}
    found = function(**half, **options)
    exact = function(**{key: value.double() for key, value in half.items()}, **options)
    found, exact = (x[0] if isinstance(x, tuple) else x for x in (found, exact))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-4)


def test_operators_keep_their_promises():
    def leaves(inputs, *names):
        return [inputs[name].float().requires_grad_() if name in inputs else None for name in names]

    options = documents(2, 9)
    scan = leaves(scan_inputs(2, 9, 5, 3), "x", "dt", "A", "B", "C", "D", "z", "dt_bias", "state")
    torch.library.opcheck(native_scan._scan, (*scan, options["mask"], options["starts"], True, True))
    torch.library.opcheck(native_scan._scan, (*scan[:5], None, None, None, None, None, None, False, True))
    x, dt, A, B, C, D, state = leaves(ssd_inputs(2, 9, 4, 5, 2, 3), "x", "dt", "A", "B", "C", "D", "state")
    decay = (dt * A).detach().requires_grad_()
    torch.library.opcheck(native_ssd._ssd, (x, decay, dt, D, B, C, options["starts"], options["mask"], state, True))
    torch.library.opcheck(native_ssd._ssd, (x, None, None, None, B, C, None, None, None, True))
    conv = leaves(conv_inputs(2, 9, 5, 4), "x", "weight", "bias", "state")
    torch.library.opcheck(native_conv._conv, (*conv, options["starts"], True))
    torch.library.opcheck(native_conv._conv, (*conv[:2], None, None, None, False))
    q, k = torch.randn(2, 4, 1, 8), torch.randn(2, 2, 6, 8)
    torch.library.opcheck(native_cache.read_cache, (q, k, k.clone(), None, None, 0.5))


@pytest.mark.parametrize("name", CALLS)
def test_compile_and_export_see_through(name):
    function, inputs, options = CALLS[name]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    expected = run(function, inputs, torch.float32, **options)
    found = run(compiled, inputs, torch.float32, **options)
    assert all(torch.equal(value, found[key]) for key, value in expected.items())

    class Module(torch.nn.Module):
        def forward(self, x, rest):
            return function(x, **rest, **options)

    rest = {key: value.float() for key, value in inputs.items()}
    x = rest.pop("x")
    exported = torch.export.export(Module(), (x, rest))
    assert any("tokenmix.native" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x, rest), function(x, **rest, **options), rtol=0, atol=0)


def test_a_fault_is_noticed(monkeypatch):
    """Another carry between chunks, as a wrong kernel would have it: the comparison of this file must fail."""
    right = native_scan._scan

    def wrong(*arguments):
        y, last, entries = right(*arguments)
        return y, last * (1 + 1e-4), entries

    monkeypatch.setattr(native_scan, "_scan", wrong)
    with pytest.raises(AssertionError, match="output 1"):
        assert_as_exact(selective_scan, gated_scan_reference, scan_inputs(2, 7, 5, 3), softplus=True)
