"""Attention, sliding window and LS-attention against dense references, beyond what the laws check."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tokenmix import Layout, build_mixer
from tokenmix.laws import check_mixer
from tokenmix.mixers import Attention, LSAttention, SlidingWindow, decoding
from tokenmix.mixers.rotary import rotate
from tokenmix.models import MixerConfig, MixerForCausalLM
from tokenmix.ops.sources import Band

WINDOW = 5


def dense(mixer, x, causal=True):
    """Every head by itself, from the definition, in float64: scores, a boolean mask, a softmax."""
    mixer = mixer.double()
    x = x.double()
    q, k, v = (project(x) for project in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
    e, length = mixer.head_dim, x.shape[1]
    index = torch.arange(length)
    back = index[:, None] - index[None]
    heads, h = [], 0
    for group in mixer.groups:
        for _ in range(group.heads):
            kv = h * mixer.kv_heads // mixer.heads
            q_h, k_h, v_h = q[..., h * e : (h + 1) * e], k[..., kv * e : (kv + 1) * e], v[..., kv * e : (kv + 1) * e]
            allowed = back >= 0 if causal else torch.ones_like(back, dtype=torch.bool)
            if group.window is not None:
                allowed = allowed & (back.abs() < group.window)
            scores = (q_h @ k_h.transpose(1, 2) / e**0.5).masked_fill(~allowed, -torch.inf)
            heads.append(scores.softmax(-1) @ v_h)
            h += 1
    return mixer.o_proj(torch.cat(heads, -1))


@pytest.mark.parametrize("length", [1, WINDOW - 1, WINDOW, WINDOW + 1, 4 * WINDOW + 3])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("attention", {}),
        ("attention", {"kv_heads": 2}),
        ("sliding_window", {"window": WINDOW, "kv_heads": 1}),
        ("ls_attention", {"window": WINDOW}),
        ("ls_attention", {"window": WINDOW, "long_heads": 3, "head_dim": 6}),
    ],
)
def test_equals_dense_softmax(name, options, length, causal):
    torch.manual_seed(0)
    mixer = build_mixer({"mixer": name, "heads": 4, "causal": causal, **options}, dim=32)
    x = torch.randn(2, length, 32)
    assert torch.allclose(mixer(x).double(), dense(mixer, x, causal), atol=1e-5)


@pytest.mark.parametrize("options", [{"long_heads": 4, "window": 3}, {"long_heads": 1, "window": 50}])
def test_ls_attention_without_short_heads_or_with_a_wide_window_is_multi_head_attention(options):
    torch.manual_seed(0)
    short, full = LSAttention(32, heads=4, **options), Attention(32, heads=4)
    full.load_state_dict(short.state_dict())
    x = torch.randn(2, 50, 32)
    q, k, v = (p(x).unflatten(-1, (4, 8)).transpose(1, 2) for p in (full.q_proj, full.k_proj, full.v_proj))
    sdpa = full.o_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
    assert torch.allclose(short(x), sdpa, atol=1e-5)
    assert torch.allclose(full(x), sdpa, atol=1e-5)


def test_window_has_exactly_w_keys_itself_included():
    torch.manual_seed(0)
    mixer = LSAttention(32, heads=4, long_heads=0, window=WINDOW).eval()
    x = torch.randn(1, 20, 32)
    y = mixer(x)
    for changed in range(20):
        other = x.clone()
        other[:, changed] += 1
        moved = (mixer(other) - y).abs().amax(dim=(0, 2))
        readers = torch.zeros(20, dtype=torch.bool)
        readers[changed : changed + WINDOW] = True
        assert (moved[~readers] == 0).all()
        assert (moved[readers] > 1e-6).all()


def test_decoding_past_three_wraps_of_the_window_keeps_w_keys():
    torch.manual_seed(0)
    mixer = SlidingWindow(32, heads=4, window=WINDOW).eval()
    x = torch.randn(2, 4 * WINDOW, 32)
    state = mixer.init_state(2)
    steps = [mixer(token, state=state) for token in x.split(1, dim=1)]
    assert torch.allclose(torch.cat(steps, 1), mixer(x), atol=1e-5)
    assert state.get("k0").shape[2] == WINDOW
    assert state.nbytes == 4 * 2 * 2 * WINDOW * 32


def test_long_chunk_after_a_state_runs_as_a_band(monkeypatch):
    bands = []
    monkeypatch.setattr(decoding, "Band", lambda *args: bands.append(args) or Band(*args))
    torch.manual_seed(0)
    mixer = LSAttention(32, heads=4, window=WINDOW).eval()
    x = torch.randn(2, 60, 32)
    state = mixer.init_state(2)
    y = torch.cat([mixer(part, state=state) for part in x.split([7, 40, 13], dim=1)], 1)
    assert [args for args in bands if len(args) == 1] == [(WINDOW,)] * 2  # the two chunks over two windows long
    assert torch.allclose(y, mixer(x), atol=1e-5)


def test_rotary_scores_depend_on_distance_alone():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8)
    near = (rotate(q, torch.tensor([[5]])) * rotate(k, torch.tensor([[2]]))).sum()
    far = (rotate(q, torch.tensor([[105]])) * rotate(k, torch.tensor([[102]]))).sum()
    assert torch.allclose(near, far, atol=1e-5)
    assert not torch.allclose(near, (q * k).sum(), atol=1e-3)


def test_given_positions_are_used():
    torch.manual_seed(0)
    mixer = Attention(32, heads=4, rope=True)
    x = torch.randn(1, 6, 32)
    spread = Layout(positions=torch.arange(0, 12, 2)[None])
    assert not torch.allclose(mixer(x), mixer(x, spread), atol=1e-4)
    assert torch.allclose(mixer(x), mixer(x, Layout(positions=torch.arange(7, 13)[None])), atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_monitor_gives_the_largest_readable_logit(causal):
    torch.manual_seed(0)
    mixer = LSAttention(32, heads=4, long_heads=1, window=WINDOW, causal=causal, monitor=True)
    x = torch.randn(2, 300, 32)  # more than one block
    x[0, 40:] *= 3  # the largest logits lie in padding and beyond windows
    layout = Layout.from_lengths([40, 300])
    mixer(x, layout)
    q, k = (p(x).unflatten(-1, (4, 8)).transpose(1, 2) for p in (mixer.q_proj, mixer.k_proj))
    scores = (q @ k.transpose(-1, -2)).abs() / 8**0.5
    index = torch.arange(300)
    back = index[:, None] - index[None]
    allowed = (back >= 0 if causal else torch.ones_like(back, dtype=torch.bool)).expand(4, 300, 300).clone()
    allowed[:3] &= back.abs() < WINDOW
    real = layout.mask[:, None, :, None] & layout.mask[:, None, None, :]
    expected = scores.masked_fill(~(allowed & real), 0).amax(dim=(0, 2, 3))
    assert torch.allclose(mixer.max_logit, expected, atol=1e-5)
    assert mixer.max_logit_by_window() == {
        str(WINDOW): pytest.approx(expected[:3].max().item()),
        "all": pytest.approx(expected[3].item()),
    }


def test_monitor_leaves_out_other_documents():
    torch.manual_seed(0)
    mixer = Attention(32, heads=4, monitor=True)
    first, second = torch.randn(1, 9, 32), torch.randn(1, 6, 32)
    mixer(torch.cat([first, 5 * second], 1), Layout(segments=torch.tensor([[0] * 9 + [1] * 6])))
    packed = mixer.max_logit
    apart = []
    for document in (first, 5 * second):
        mixer(document)
        apart.append(mixer.max_logit)
    assert torch.allclose(packed, torch.maximum(*apart), atol=1e-5)
    mixer(first, state=mixer.init_state(1))
    assert mixer.max_logit is None  # no stale number from a call before


def test_short_heads_cost_linearly_and_long_heads_quadratically():
    def growth(**options):
        mixer = LSAttention(32, heads=4, window=16, **options)
        flops = []
        for length in (512, 1024):
            # the fused CPU kernel is not counted, its matrix products are
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
                mixer(torch.zeros(1, length, 32))
            projections = 4 * 2 * length * 32 * 32
            flops.append(counter.get_total_flops() - projections)
        return flops[1] / flops[0]

    assert growth(long_heads=0) == pytest.approx(2, abs=0.1)
    assert growth(long_heads=4) == pytest.approx(4, abs=0.1)


def test_presets_are_the_authors_settings():
    small = LSAttention.from_preset("small", dim=192)
    assert (small.heads, small.head_dim, small.long_heads, small.window) == (6, 32, 1, 50)
    large = LSAttention.from_preset("large", dim=768)
    assert (large.heads, large.head_dim, large.long_heads, large.window) == (12, 64, 1, 100)
    with pytest.raises(ValueError, match=r"preset: expected one of \['large', 'small'\], found 'huge'"):
        LSAttention.from_preset("huge", dim=64)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("attention", {"heads": 5}, "heads: expected a divisor of dim=32, found 5"),
        ("attention", {"heads": 0}, "heads: expected a positive integer, found 0"),
        ("attention", {"heads": 4, "kv_heads": 0}, "kv_heads: expected a positive integer, found 0"),
        ("attention", {"heads": 4, "causal": "no"}, "causal: expected True or False, found 'no'"),
        ("attention", {"heads": 4, "rope_base": -1.0}, "rope_base: expected a positive number, found -1.0"),
        ("attention", {"heads": 4, "kv_heads": 3}, "kv_heads: expected a divisor of heads=4, found 3"),
        ("attention", {"heads": 4, "head_dim": 7, "rope": True}, "rope: expected an even head_dim, found head_dim=7"),
        ("sliding_window", {"heads": 4, "window": 0}, "window: expected a positive integer, found 0"),
        ("sliding_window", {"heads": 4, "window": 2.5}, "window: expected a positive integer, found 2.5"),
        ("ls_attention", {"heads": 4, "long_heads": 5}, "long_heads: expected 0 to heads=4, found 5"),
        (
            "ls_attention",
            {"heads": 4, "kv_heads": 2, "long_heads": 1},
            "kv_heads: expected head groups that are multiples of heads / kv_heads = 2",
        ),
    ],
)
def test_mistakes_are_named(name, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build_mixer({"mixer": name, **options}, dim=32)


def test_monitor_before_a_call_says_so():
    with pytest.raises(ValueError, match="monitor: expected monitor=True"):
        Attention(32, heads=4).max_logit_by_window()


def test_a_group_reads_the_future_and_says_so() -> None:
    """It is not causal, takes a state in whole groups, and no language model takes it; the laws hold."""
    mixer = Attention(16, heads=2, group=2)
    assert (mixer.is_causal, mixer.step) == (False, 2)
    assert (Attention(16, heads=2).step, Attention(16, heads=2, causal=False).step) == (1, 0)
    check_mixer(mixer)
    with pytest.raises(ValueError, match="group: expected 1 where causal=False or monitor=True, found 2"):
        Attention(16, heads=2, group=2, monitor=True)
    with pytest.raises(ValueError, match=r"a language model needs causal mixers, found 'a': .* reads the future"):
        MixerForCausalLM(MixerConfig(hidden_size=16, mixers={"a": {"mixer": "attention", "heads": 2, "group": 2}}))
