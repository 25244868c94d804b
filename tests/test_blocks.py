"""Blocks and stacks: patterns, hybrids with mixed states, checkpointing, and their errors."""

import pytest
import torch
from torch import nn

from tokenmix import Layout
from tokenmix.blocks import MixerBlock, Stack, resolve_pattern
from tokenmix.feed_forward import GELU, SwiGLU
from tokenmix.mixers import GAM, Attention

MIXERS = {
    "m": {"mixer": "mamba2", "state_size": 8, "head_dim": 16},
    "s": {"mixer": "sliding_window", "heads": 4, "window": 5, "rope": True},
    "a": {"mixer": "attention", "heads": 4, "kv_heads": 2},
}


@pytest.fixture
def hybrid():
    torch.manual_seed(0)
    return Stack(32, MIXERS, "msma", layers=6).eval()


def test_pattern_repeats_to_the_number_of_layers(hybrid):
    assert hybrid.letters == "msmams"
    assert [type(mixer).__name__ for mixer in hybrid.mixers] == [
        "Mamba2", "SlidingWindow", "Mamba2", "Attention", "Mamba2", "SlidingWindow",
    ]  # fmt: skip


def test_block_is_two_residual_branches():
    torch.manual_seed(0)
    block = MixerBlock(Attention(16, heads=2), norm="layernorm", feed_forward="gelu")
    x = torch.randn(1, 4, 16)
    inner = x + block.mixer(block.mixer_norm(x))
    assert torch.equal(block(x), inner + block.feed_forward(block.feed_forward_norm(inner)))
    assert isinstance(block.mixer_norm, nn.LayerNorm)
    assert isinstance(block.feed_forward, GELU)
    bare = MixerBlock(GAM(16, slots=4), feed_forward=None)
    assert torch.equal(bare(x), x + bare.mixer(bare.mixer_norm(x)))


def test_swiglu_size_matches_gelu():
    sizes = [sum(p.numel() for p in make(384).parameters()) for make in (SwiGLU, GELU)]
    assert sizes[0] == sizes[1] == 8 * 384 * 384


def test_feed_forward_by_letter():
    stack = Stack(32, MIXERS, "msa", feed_forward={"m": None, "s": "gelu", "a": "swiglu"})
    assert [type(block.feed_forward).__name__ for block in stack.layers] == ["NoneType", "GELU", "SwiGLU"]


def test_mixed_cache_decodes_as_the_full_forward_beyond_the_window(hybrid):
    x = torch.randn(3, 20, 32)
    state = hybrid.init_state(3)
    parts = [hybrid(part, state=state) for part in x.split([6, 1, 1, 4, 1, 7], dim=1)]
    assert torch.allclose(torch.cat(parts, 1), hybrid(x), atol=1e-4)
    assert state.length == 20
    assert state.seen.tolist() == [20] * 3
    assert state.batch_size == 3


def test_state_bytes_are_the_sum_of_the_layers(hybrid):
    state = hybrid.init_state(2)
    hybrid(torch.randn(2, 9, 32), state=state)
    assert state.nbytes == 4 * 2 * sum(mixer.state_numel(9) for mixer in hybrid.mixers)


def test_left_padding_and_packing_through_all_layers(hybrid):
    x = torch.randn(2, 12, 32)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, :5] = False
    y = hybrid(x, Layout(mask=mask))
    assert torch.allclose(y[0, 5:], hybrid(x[:1, 5:])[0], atol=1e-4)
    packed = hybrid(x, Layout(segments=torch.tensor([[0] * 4 + [1] * 8] * 2)))
    assert torch.allclose(packed[:, 4:], hybrid(x[:, 4:]), atol=1e-4)


def test_reorder_moves_every_layer(hybrid):
    x = torch.randn(2, 8, 32)
    state = hybrid.init_state(2)
    hybrid(x, state=state)
    index = torch.tensor([1, 1, 0])
    state.reorder(index)
    step = torch.randn(3, 1, 32)
    expected = hybrid(torch.cat([x[index], step], 1))[:, -1:]
    assert torch.allclose(hybrid(step, state=state), expected, atol=1e-4)


def test_crop_where_every_layer_can():
    stack = Stack(32, {"a": MIXERS["a"]}, "a", layers=2).eval()
    x = torch.randn(1, 9, 32)
    state = stack.init_state(1)
    stack(x, state=state)
    state.crop(5)
    assert state.seen.tolist() == [5]
    assert torch.allclose(stack(x[:, 5:], state=state), stack(x)[:, 5:], atol=1e-5)


def test_crop_refuses_as_a_whole():
    stack = Stack(32, {"a": MIXERS["a"], "m": MIXERS["m"]}, "am").eval()
    state = stack.init_state(1)
    stack(torch.randn(1, 4, 32), state=state)
    with pytest.raises(ValueError, match="cannot go back"):
        state.crop(2)
    assert [layer.length for layer in state.states] == [4, 4]


def test_gradient_checkpointing_changes_no_gradient(hybrid):
    hybrid.train()
    x = torch.randn(1, 8, 32)

    def gradients():
        hybrid.zero_grad()
        hybrid(x).square().sum().backward()
        return [p.grad.clone() for p in hybrid.parameters()]

    plain = gradients()
    hybrid.gradient_checkpointing = True
    for there, here in zip(plain, gradients(), strict=True):
        assert torch.allclose(there, here, atol=1e-5)


def test_hidden_states_are_in_the_callers_order(hybrid):
    x = torch.randn(1, 6, 32)
    kept = []
    mask = torch.tensor([[False, False, True, True, True, True]])
    y = hybrid(x, Layout(mask=mask), hidden_states=kept)
    assert len(kept) == 7
    assert torch.equal(kept[0], x)
    assert torch.equal(kept[-1], y)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Stack(32, MIXERS, ""), "pattern: expected at least one letter"),
        (lambda: Stack(32, MIXERS, "msx"), r"pattern: expected letters of mixers \['a', 'm', 's'\], found \['x'\]"),
        (lambda: Stack(32, MIXERS, "ms"), r"mixers: \['a'\] named but not used"),
        (lambda: Stack(32, MIXERS, "msa", layers=2), "pattern: expected at most layers=2 letters, found 3 in 'msa'"),
        (lambda: resolve_pattern("a", {"a": {}}, layers=0), "layers: expected a positive integer, found 0"),
        (lambda: Stack(32, MIXERS, "msa", norm="batchnorm"), "norm: expected one of .*, found 'batchnorm'"),
        (lambda: Stack(32, MIXERS, "msa", feed_forward="relu"), "feed_forward: expected one of .*, found 'relu'"),
        (
            lambda: Stack(32, MIXERS, "msa", feed_forward={"z": None}),
            r"feed_forward: expected letters .* found \['z'\]",
        ),
        (
            lambda: Stack(32, {"a": {"mixer": "atention"}}, "a"),
            "mixer: unknown name 'atention'; did you mean 'attention'",
        ),
        (
            lambda: Stack(32, {"a": {"mixer": "attention", "haeds": 4}}, "a"),
            "haeds: not an argument of mixer 'attention'; did you mean 'heads'",
        ),
        (lambda: Stack(32, {"a": {"heads": 4}}, "a"), "spec: expected a key 'mixer'"),
        (lambda: Stack(32, {"a": {"mixer": "gam", "dim": 4}}, "a"), "spec: dim is that of the model"),
    ],
)
def test_mistakes_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("mode", "pattern"), [(torch.no_grad, "msa"), (torch.inference_mode, "sa"), (torch.enable_grad, "ma")]
)
def test_compiled_steps_equal_one_call(mode, pattern):
    """The memory that layers share in eager mode is left alone by torch.compile."""
    torch.manual_seed(0)
    hybrid = Stack(32, {letter: MIXERS[letter] for letter in pattern}, pattern).eval()
    x = torch.randn(2, 7, 32)
    torch._dynamo.reset()
    compiled = torch.compile(hybrid, backend="aot_eager")
    with mode():
        expected, state = hybrid(x), hybrid.init_state(2)
        found = torch.cat([compiled(part, state=state) for part in x.split([3, 1, 1, 1, 1], dim=1)], dim=1)
    torch._dynamo.reset()
    assert torch.allclose(found, expected, atol=1e-5)


def test_layers_still_count_as_one_after_a_cut() -> None:
    """Reordering and cropping leave the layers of a stack with one count, so that a step computes it once."""
    stack = Stack(8, {"a": {"mixer": "attention", "heads": 2}}, "aa")
    state = stack.init_state(2)
    with torch.no_grad():
        stack(torch.randn(2, 5, 8), state=state)
        state.reorder(torch.tensor([1, 0]))
        state.crop(3)
    assert state.states[0].counters is state.states[1].counters
    assert state.seen.tolist() == [3, 3]


@pytest.mark.parametrize("feed_forward", ["gelu", None])
def test_parallel_residual(feed_forward: str | None) -> None:
    """Both branches read the block's input; a stack without a final norm gives what its last block gives."""
    torch.manual_seed(0)
    mixers = {"a": {"mixer": "attention", "heads": 2}}
    stack = Stack(8, mixers, "a", feed_forward=feed_forward, parallel_residual=True, final_norm=False)
    x, block = torch.randn(2, 5, 8), stack.layers[0]
    expected = x + block.mixer(block.mixer_norm(x))
    if feed_forward is not None:
        expected = expected + block.feed_forward(block.feed_forward_norm(x))
    torch.testing.assert_close(stack(x), expected)
    assert not any(name.startswith("norm.") for name, _ in stack.named_parameters())


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("feed_forward", ["swiglu", None])
def test_last_only_is_the_last_real_token(parallel: bool, feed_forward: str | None) -> None:
    """Of every row, wherever its padding stands; the state advances over all tokens."""
    torch.manual_seed(0)
    mixers = {"a": {"mixer": "attention", "heads": 2, "rope": True}, "m": {"mixer": "mamba2", "head_dim": 4}}
    stack = Stack(8, mixers, "am", feed_forward=feed_forward, parallel_residual=parallel)
    x = torch.randn(3, 6, 8)
    mask = torch.tensor([[False, True, True, True, True, True], [True] * 4 + [False] * 2, [True] * 6])
    with torch.no_grad():
        for layout, ends in ((Layout(mask=mask), [5, 3, 5]), (Layout(), [5, 5, 5])):
            whole, states = stack(x, layout), [stack.init_state(3), stack.init_state(3)]
            found = stack(x, layout, states[0], last_only=True)
            assert found.shape == (3, 1, 8)
            torch.testing.assert_close(found[:, 0], whole[range(3), ends], atol=1e-6, rtol=1e-5)
            stack(x, layout, states[1])
            more = [stack(x[:, :2], state=state) for state in states]
            torch.testing.assert_close(more[0], more[1])
