"""Mixers take an attention's weights: what they compute then is compared with the attention, written out in float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenmix import build_mixer
from tokenmix.attention_weights import AttentionShape, AttentionWeights
from tokenmix.mixer import get_mixer
from tokenmix.mixers.rotary import rotate

DIM, LENGTH = 12, 7
SHAPES = {
    "plain": AttentionShape(DIM, heads=3, kv_heads=3, head_dim=4, causal=True),
    "both ways": AttentionShape(DIM, heads=3, kv_heads=3, head_dim=4, causal=False, bias=True),
    "grouped": AttentionShape(DIM, heads=4, kv_heads=2, head_dim=6, causal=True, bias=True),
    "one key head": AttentionShape(DIM, heads=6, kv_heads=1, head_dim=2, causal=True),
    "partly rotated": AttentionShape(
        DIM, heads=3, kv_heads=3, head_dim=8, causal=True, rope_frequencies=(1.0, 0.25), rope_scale=1.3
    ),
    "normed": AttentionShape(
        DIM, heads=4, kv_heads=2, head_dim=6, causal=True, rope_frequencies=(0.9, 0.1, 0.03), qk_norm_eps=1e-3
    ),
}


def weights_of(shape: AttentionShape) -> AttentionWeights:
    torch.manual_seed(0)
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    rows = {"q": q, "k": kv, "v": kv, "o": DIM}
    columns = {"q": DIM, "k": DIM, "v": DIM, "o": q}
    tensors: dict[str, Any] = {name: torch.randn(rows[name], columns[name]).double() * 0.5 for name in rows}
    if shape.bias:
        tensors |= {f"{name}_bias": torch.randn(rows[name]).double() for name in rows}
    if shape.qk_norm_eps is not None:
        tensors |= {f"{name}_norm": torch.randn(shape.head_dim).double() for name in "qk"}
    return AttentionWeights(shape=shape, **tensors)


def attention(x: Tensor, w: AttentionWeights) -> Tensor:
    """The attention of one row, token by token and head by head."""
    shape, places = w.shape, torch.arange(LENGTH)

    def heads(name: str) -> list[Tensor]:
        y, bias = x @ getattr(w, name).t(), getattr(w, f"{name}_bias")
        return list((y if bias is None else y + bias).split(shape.head_dim, dim=1))  # (L, e) each

    def prepare(y: Tensor, name: str) -> Tensor:
        if shape.qk_norm_eps is not None:
            y = y / (y.square().mean(1, keepdim=True) + shape.qk_norm_eps).sqrt() * getattr(w, f"{name}_norm")
        if shape.rope_frequencies is None:
            return y
        turned, n = y.clone(), len(shape.rope_frequencies)
        for i, frequency in enumerate(shape.rope_frequencies):
            angle = places.double() * frequency
            cos, sin = angle.cos(), angle.sin()
            turned[:, i] = shape.rope_scale * (y[:, i] * cos - y[:, i + n] * sin)
            turned[:, i + n] = shape.rope_scale * (y[:, i + n] * cos + y[:, i] * sin)
        return turned

    q, k, v, outputs = heads("q"), heads("k"), heads("v"), []
    for h in range(shape.heads):
        group = h // (shape.heads // shape.kv_heads)
        scores = prepare(q[h], "q") @ prepare(k[group], "k").t() / shape.head_dim**0.5
        if shape.causal:
            scores = scores.masked_fill(places[:, None] < places, -torch.inf)
        outputs.append(scores.softmax(1) @ v[group])
    y = torch.cat(outputs, dim=1) @ w.o.t()
    return y if w.o_bias is None else y + w.o_bias


@pytest.mark.parametrize("mixer", ["attention", "ls_attention", "sliding_window"])
@pytest.mark.parametrize("name", SHAPES)
def test_softmax_mixers_become_the_attention(name: str, mixer: str) -> None:
    shape = SHAPES[name]
    options = get_mixer(mixer).options_like(shape) | ({} if mixer == "attention" else {"window": LENGTH})
    made = build_mixer({"mixer": mixer, **options}, DIM).double()
    weights = weights_of(shape)
    assert made.take_attention(weights) == ("q", "k", "v", "o")
    x = torch.randn(2, LENGTH, DIM).double()
    expected = torch.stack([attention(row, weights) for row in x])
    # in float32 or better, and rotary angles of float64 places
    torch.testing.assert_close(made(x), expected, atol=1e-9, rtol=1e-9)


def test_key_heads_are_repeated_where_the_mixer_has_more() -> None:
    weights = weights_of(SHAPES["grouped"])
    made = build_mixer({"mixer": "attention", "heads": 4, "head_dim": 6, "bias": True}, DIM).double()
    assert made.take_attention(weights) == ("q", "k", "v", "o")
    x = torch.randn(1, LENGTH, DIM).double()
    torch.testing.assert_close(made(x)[0], attention(x[0], weights), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("mixer", ["attention", "linear_attention", "mamba2"])
def test_other_sizes_take_nothing(mixer: str) -> None:
    made = build_mixer({"mixer": mixer, **({"head_dim": 6} if mixer == "mamba2" else {"heads": 2})}, DIM)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    assert made.take_attention(weights_of(SHAPES["plain"])) == ()
    for name, value in made.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("name", ["plain", "grouped"])
def test_linear_attention_takes_all(name: str) -> None:
    """Its features of q and k are the attention's, up to the feature map."""
    shape, weights = SHAPES[name], weights_of(SHAPES[name])
    made = build_mixer({"mixer": "linear_attention", **get_mixer("linear_attention").options_like(shape)}, DIM).double()
    assert made.take_attention(weights) == ("q", "k", "v", "o")
    x = torch.randn(1, LENGTH, DIM).double()
    q = x[0] @ weights.q.t() + (0 if weights.q_bias is None else weights.q_bias)
    k = x[0] @ weights.k.t() + (0 if weights.k_bias is None else weights.k_bias)
    v = x[0] @ weights.v.t() + (0 if weights.v_bias is None else weights.v_bias)
    outputs = []
    for h in range(shape.heads):
        e, group = shape.head_dim, h // (shape.heads // shape.kv_heads)
        phi_q = torch.nn.functional.elu(q[:, h * e : (h + 1) * e]) + 1
        phi_k = torch.nn.functional.elu(k[:, group * e : (group + 1) * e]) + 1
        scores = (phi_q @ phi_k.t()).tril()
        outputs.append(scores @ v[:, group * e : (group + 1) * e] / (scores.sum(1, keepdim=True) + 1e-6))
    y = torch.cat(outputs, dim=1) @ weights.o.t()
    y = y if weights.o_bias is None else y + weights.o_bias
    torch.testing.assert_close(made(x)[0], y, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["plain", "grouped"])
def test_mamba2_has_places_for_q_k_and_v(name: str) -> None:
    """C, B and x of a token are q, k and v of the attention, before the SiLU."""
    shape, weights = SHAPES[name], weights_of(SHAPES[name])
    made = build_mixer({"mixer": "mamba2", **get_mixer("mamba2").options_like(shape), "bias": shape.bias}, DIM).double()
    assert made.take_attention(weights) == ("q", "k", "v", "o")
    x = torch.randn(1, LENGTH, DIM).double()
    _, inner, _ = made.in_proj(x).split([made.inner, made.conv_width, made.heads], dim=-1)
    kept = made.conv1d(torch.nn.functional.pad(inner.transpose(1, 2), (made.conv_kernel - 1, 0))).transpose(1, 2)
    torch.testing.assert_close(kept, inner, atol=1e-12, rtol=0)  # the convolution is the identity
    found_v, found_k, found_q = inner[0].chunk(3, dim=1)
    whole = weights.repeated()
    for found, key in ((found_q, "q"), (found_k, "k"), (found_v, "v")):
        bias = getattr(whole, f"{key}_bias")
        torch.testing.assert_close(found, x[0] @ getattr(whole, key).t() + (0 if bias is None else bias))
    torch.testing.assert_close(made.out_proj.weight, weights.o)


def test_mamba_takes_v_and_o() -> None:
    weights = weights_of(SHAPES["grouped"])
    made = build_mixer({"mixer": "mamba", "expand": 4, "bias": True}, DIM).double()
    assert made.take_attention(weights) == ("v", "o")
    torch.testing.assert_close(made.in_proj.weight[:24], weights.repeated().v)
    torch.testing.assert_close(made.out_proj.weight[:, :24], weights.o)
    assert build_mixer({"mixer": "mamba", "expand": 1}, DIM).take_attention(weights) == ()


def test_mixers_without_a_place_take_nothing() -> None:
    assert build_mixer({"mixer": "gam", "slots": 4}, DIM).take_attention(weights_of(SHAPES["plain"])) == ()


def test_repeated_keys_are_the_same_attention() -> None:
    weights = weights_of(SHAPES["grouped"])
    whole = weights.repeated()
    assert whole.shape == replace(weights, shape=whole.shape).shape
    assert whole.shape.kv_heads == 4
    x = torch.randn(LENGTH, DIM).double()
    torch.testing.assert_close(attention(x, whole), attention(x, weights))


def test_frequencies_of_the_base_change_nothing() -> None:
    x, places = torch.randn(1, 2, LENGTH, 6), torch.arange(LENGTH)[None]
    frequencies = [500.0 ** (-i / 3) for i in range(3)]
    torch.testing.assert_close(rotate(x, places, frequencies=frequencies), rotate(x, places, 500.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rope_frequencies": [1.0]}, "rope_frequencies: expected None where rope=False, found frequencies"),
        ({"rope": True, "rope_frequencies": [1.0] * 4}, r"rope_frequencies: expected 1 to 3 .* found 4"),
        ({"rope": True, "rope_frequencies": []}, r"rope_frequencies: expected 1 to 3 .* found 0"),
        ({"qk_norm": True, "norm_eps": 0.0}, "norm_eps: expected a positive number, found 0.0"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_mixer({"mixer": "attention", "heads": 2, **options}, DIM)
