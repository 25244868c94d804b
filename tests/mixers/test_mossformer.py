"""MossFormer's layer against its equations in float64, and where the authors' code is mended."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tokenmix import Layout, kernels
from tokenmix.mixers import MossFormer
from tokenmix.mixers.mossformer_far import read_document, read_earlier_groups
from tokenmix.mixers.mossformer_near import read_near
from tokenmix.mixers.mossformer_parts import FFConvM, token_shift

GROUP = 8


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense_weights(near: tuple[Tensor, Tensor], far: tuple[Tensor, Tensor], group: int, causal: bool) -> Tensor:
    """(T, T): every weight, entry by entry."""
    length = len(near[0])
    weights = torch.zeros(length, length, dtype=torch.float64)
    for i in range(length):
        for j in range(length):
            if i // group == j // group and (j <= i or not causal):
                weights[i, j] += max(float(near[0][i] @ near[1][j]) / group, 0.0) ** 2
            if not causal:
                weights[i, j] += float(far[0][i] @ far[1][j]) / length
            elif j // group < i // group:
                weights[i, j] += float(far[0][i] @ far[1][j]) / group
    return weights


def conv(part: FFConvM, x: Tensor, causal: bool) -> Tensor:
    """FFConvM of (T, width), tap by tap."""
    length = x.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-5)
    y = part.proj(x / length * part.norm.g)
    y = y * torch.sigmoid(y)
    weight, out = part.conv1d.weight[:, 0], y.clone()
    taps = weight.shape[1]
    for t in range(len(y)):
        for tap in range(taps):
            s = t + tap - (taps - 1 if causal else taps // 2)
            if 0 <= s < len(y):
                out[t] += weight[:, tap] * y[s]
    return out


def rotated(x: Tensor) -> Tensor:
    """(T, key_size) with pairs (i, i + n) of the first 2 n = min(32, key_size) features turned by t * 10000^(-i/n)."""
    n = min(32, x.shape[1]) // 2
    out = x.clone()
    for t in range(len(x)):
        for i in range(n):
            angle = t * 10000.0 ** (-i / n)
            out[t, i] = x[t, i] * math.cos(angle) - x[t, i + n] * math.sin(angle)
            out[t, i + n] = x[t, i + n] * math.cos(angle) + x[t, i] * math.sin(angle)
    return out


def layer(mixer: MossFormer, x: Tensor, causal: bool) -> Tensor:
    """The whole layer on one document (T, dim), from its equations."""
    half = x.shape[1] // 2
    shifted = torch.cat([torch.cat([torch.zeros(1, half, dtype=x.dtype), x[:-1, :half]]), x[:, half:]], dim=1)
    hidden, z = conv(mixer.hidden, shifted, causal), conv(mixer.keys, shifted, causal)
    near_q, far_q, near_k, far_k = (rotated(z * mixer.copies.gamma[i] + mixer.copies.beta[i]) for i in range(4))
    weights = dense_weights((near_q, near_k), (far_q, far_k), mixer.group, causal)
    v, u = hidden.chunk(2, dim=1)
    return conv(mixer.out, (weights @ u * v) * torch.sigmoid(weights @ v * u), causal)


def build(**options: Any) -> MossFormer:
    """In float64, with queries and keys large enough to matter."""
    torch.manual_seed(0)
    mixer = MossFormer(12, **{"group": GROUP, "key_size": 40, "kernel": 5, "dropout": 0.0, **options}).double()
    with torch.no_grad():
        mixer.copies.gamma.normal_()
        mixer.copies.beta.normal_(std=0.1)
    return mixer


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 5, GROUP, 3 * GROUP, 3 * GROUP + 5])
def test_attention_equals_the_dense_composite(length: int, causal: bool) -> None:
    """Groups that do not divide the length, and a length below a group, where it is full attention."""
    q, k, far_q, far_k = (normal(1, length, 6, seed=i) for i in range(4))
    v = normal(1, length, 10, seed=9)
    found = read_near(q, k, v, Layout(), GROUP, causal)
    far = (far_q, far_k, v, Layout())
    found = found + (read_earlier_groups(*far, GROUP) if causal else read_document(*far))
    expected = dense_weights((q[0], k[0]), (far_q[0], far_k[0]), GROUP, causal) @ v[0]
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-10)
    if length <= GROUP and causal:
        assert not read_earlier_groups(*far, GROUP).any()


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"causal": True, "kernel": 4, "expansion": 3}])
def test_the_layer_equals_its_equations(options: dict[str, Any]) -> None:
    mixer, x = build(**options), normal(1, 3 * GROUP + 3, 12)
    with torch.no_grad():
        expected = layer(mixer, x[0], bool(options))
        torch.testing.assert_close(mixer(x)[0], expected, rtol=0, atol=1e-9)
        layout = Layout(segments=torch.tensor([[0] * 11 + [1] * 16]))
        apart = torch.cat([layer(mixer, x[0, :11], bool(options)), layer(mixer, x[0, 11:], bool(options))])
        torch.testing.assert_close(mixer(x, layout)[0], apart, rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"causal": True}])
def test_flops_grow_linearly(options: dict[str, Any]) -> None:
    mixer, counts = MossFormer(16, group=32, key_size=16, **options), []
    for length in (512, 1024, 2048):
        with FlopCounterMode(display=False) as counter, kernels.use("torch"), torch.no_grad():
            mixer(torch.randn(1, length, 16))
        counts.append(counter.get_total_flops())
    assert counts[2] / counts[1] == pytest.approx(2, rel=0.01)
    assert counts[1] / counts[0] == pytest.approx(2, rel=0.01)


def test_token_shift_is_exact() -> None:
    x = normal(2, 9, 7)
    y = token_shift(x)
    assert torch.equal(y[:, 1:, :4], x[:, :-1, :4])
    assert not y[:, 0, :4].any()
    assert torch.equal(y[..., 4:], x[..., 4:])
    starts = torch.zeros(2, 9, dtype=torch.bool)
    starts[:, [0, 5]] = True
    packed = token_shift(x, starts)
    assert not packed[:, 5, :4].any()
    assert torch.equal(packed[:, :5], y[:, :5])


@pytest.mark.parametrize("options", [{}, {"causal": True}])
def test_the_far_path_reaches_from_the_first_frame_to_the_last(options: dict[str, Any]) -> None:
    mixer, x = build(kernel=1, **options), normal(1, 5 * GROUP, 12).requires_grad_()
    with torch.no_grad():
        mixer.copies.gamma[[0, 2]] = 0  # near queries and keys
        mixer.copies.beta[[0, 2]] = 0
    mixer(x)[0, -1].sum().backward()
    assert float(x.grad[0, 0].abs().max()) > 1e-9
    with torch.no_grad():  # and with the far queries gone too, nothing is read at all
        mixer.copies.gamma[1] = 0
        mixer.copies.beta[1] = 0
        assert torch.allclose(mixer(x), mixer(torch.zeros_like(x)))


def moved(mixer: MossFormer, x: Tensor, at: int) -> Tensor:
    """(T,): how much each output moves when one token changes."""
    changed = x.clone()
    changed[:, at] += 1
    with torch.no_grad():
        return (mixer(changed) - mixer(x))[0].abs().amax(-1)


def test_causal_is_causal_and_the_official_causal_is_not() -> None:
    """With centred convolutions, as in the authors' code, outputs move up to kernel - 1 tokens before the change."""
    x, at = normal(1, 4 * GROUP, 12), 2 * GROUP + 1
    exact, leaking = build(causal=True), build(causal=True, causal_conv=False)
    assert exact.is_causal
    assert not exact(x).isnan().any()
    assert float(moved(exact, x, at)[:at].max()) == 0
    assert float(moved(exact, x, at)[at:].max()) > 1e-6
    assert not leaking.is_causal
    leak = moved(leaking, x, at)
    assert float(leak[: at - 4].max()) == 0
    assert float(leak[at - 4 : at].min()) > 1e-9
    with pytest.raises(ValueError, match="not causal"):
        leaking.init_state(1)


@pytest.mark.parametrize("causal", [False, True])
def test_padding_reaches_neither_the_convolutions_nor_the_mean(causal: bool) -> None:
    """In the authors' code the biases of padded frames leak through the convolutions, and T counts padding."""
    mixer, x = build(causal=causal), normal(1, 13, 12)
    with torch.no_grad():
        alone = mixer(x)
        padded = torch.cat([x, 100 * normal(1, 9, 12, seed=1)], dim=1)
        layout = Layout.from_lengths([13], 22)
        torch.testing.assert_close(mixer(padded, layout)[:, :13], alone, rtol=0, atol=1e-12)
        if not causal:
            assert not torch.allclose(mixer(torch.nn.functional.pad(x, (0, 0, 0, 9)))[:, :13], alone, atol=1e-4)


def test_streams_in_chunks_of_any_size_and_keeps_a_fixed_state() -> None:
    mixer, x = build(causal=True), normal(2, 61, 12)
    expected = mixer(x)
    for sizes in ([1] * 61, [7] * 8 + [5], [GROUP] * 7 + [5], [30, 1, 30], [3, 40, 18]):
        state = mixer.init_state(2)
        before = state.nbytes
        y = torch.cat([mixer(chunk, state=state) for chunk in x.split(sizes, dim=1)], dim=1)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
        assert state.nbytes == before == 2 * 8 * mixer.state_numel(1)


def test_float32_of_a_fresh_layer_agrees_with_float64() -> None:
    """At the start the near weights are some 1e-8, and the norm behind them divides by their size."""
    torch.manual_seed(0)
    mixer, x = MossFormer(32, group=64, key_size=64, causal=True, dropout=0.0), torch.randn(1, 300, 32)
    with torch.no_grad():
        y, exact = mixer(x), mixer.double()(x.double())
    assert float((y - exact).abs().max()) < 1e-4 * float(exact.abs().max())


def test_dropout_falls_in_training_alone() -> None:
    mixer, x = build(dropout=0.5), normal(1, 20, 12)
    assert not torch.equal(mixer(x), mixer(x))
    mixer.eval()
    assert torch.equal(mixer(x), mixer(x))


def test_it_starts_as_published() -> None:
    torch.manual_seed(0)
    mixer = MossFormer(512)
    assert (mixer.group, mixer.key_size, mixer.kernel, mixer.width) == (256, 128, 17, 2048)
    assert float(mixer.copies.gamma.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert not mixer.copies.beta.any()
    hidden, keys, out = 512 * 2048 + 18 * 2048 + 1, 512 * 128 + 18 * 128 + 1, 1024 * 512 + 18 * 512 + 1
    assert sum(p.numel() for p in mixer.parameters()) == hidden + keys + out + 8 * 128


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"group": 0}, ValueError, "group: expected a positive integer, found 0"),
        ({"key_size": 7}, ValueError, "key_size: expected an even number"),
        ({"expansion": 1, "dim": 7}, ValueError, r"expansion: expected expansion \* dim to be even, found 1 \* 7"),
        ({"kernel": 4}, ValueError, "kernel: expected an odd number for centred convolutions, found 4"),
        ({"kernel": 4, "causal": True, "causal_conv": False}, ValueError, "kernel: expected an odd number"),
        ({"dropout": 1.0}, ValueError, "dropout: expected at least 0 and below 1, found 1.0"),
        ({"rope_base": 0.0}, ValueError, "rope_base: expected a positive number, found 0.0"),
        ({"causal": 1}, TypeError, "causal: expected True or False, found 1"),
        ({"causal_conv": None}, TypeError, "causal_conv: expected True or False, found None"),
    ],
)
def test_mistakes(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MossFormer(**{"dim": 8, **options})
