"""States under autocast, with frozen projections, over inference mode, with any document numbers, in wrong hands."""

import copy

import pytest
import torch

from tokenmix import Layout, build_mixer
from tokenmix.blocks import Stack

SPECS = [
    {"mixer": "attention", "heads": 4},
    {"mixer": "attention", "heads": 4, "kv_heads": 2, "rope": True},
    {"mixer": "sliding_window", "heads": 4, "window": 5},
    {"mixer": "ls_attention", "heads": 4, "window": 5},
    {"mixer": "gam", "slots": 8},
    {"mixer": "gam", "slots": 8, "memory": "written"},
    {"mixer": "linear_attention", "heads": 4},
    {"mixer": "mamba", "state_size": 4},
    {"mixer": "mamba2", "state_size": 4, "head_dim": 16},
]
SPLIT = [7, 1, 5, 1, 6]


@pytest.fixture(params=SPECS, ids=lambda spec: "-".join(map(str, spec.values())))
def mixer(request):
    torch.manual_seed(0)
    return build_mixer(request.param, dim=32)


def in_chunks(mixer, x, layout_of=lambda start, stop: None):
    state, parts, start = mixer.init_state(x.shape[0]), [], 0
    for part in x.split(SPLIT, dim=1):
        parts.append(mixer(part, layout_of(start, start + part.shape[1]), state))
        start += part.shape[1]
    return torch.cat(parts, 1)


def test_autocast(mixer):
    x = torch.randn(2, 20, 32)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        y = in_chunks(mixer, x)
    scale = mixer(x).abs().max()
    assert ((y.float() - mixer(x)).abs().max() / scale) < 0.03


@pytest.mark.parametrize("trained", ["", "q_proj", "v_proj", "in_proj", "gate_proj"])
def test_gradients_through_a_state_with_the_rest_frozen(mixer, trained):
    for name, parameter in mixer.named_parameters():
        parameter.requires_grad_(name.startswith(trained) if trained else False)
    x = torch.randn(2, 20, 32, requires_grad=True)
    wanted = [x, *(p for p in mixer.parameters() if p.requires_grad)]
    weight = torch.randn(2, 20, 32)
    expected = torch.autograd.grad((mixer(x) * weight).sum(), wanted)
    found = torch.autograd.grad((in_chunks(mixer, x) * weight).sum(), wanted)
    for there, here in zip(expected, found, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-4)


def test_prefill_in_inference_mode_then_steps_without(mixer):
    x = torch.randn(2, 20, 32)
    state = mixer.init_state(2)
    with torch.inference_mode():
        first = mixer(x[:, :12], Layout(segments=torch.zeros(2, 12, dtype=torch.int64)), state)
    with torch.no_grad():
        rest = [mixer(token, state=state) for token in x[:, 12:].split(1, 1)]
    torch.testing.assert_close(torch.cat([first, *rest], 1), mixer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("numbers", [[3, 1], [5, 2, 9], [0, 1, 0], [2, 0, 2, 0, 2, 0, 2, 0, 2, 0]])
def test_document_numbers_may_be_any_that_differ_from_the_one_before(mixer, numbers):
    x = torch.randn(1, 20, 32)
    lengths = [20 // len(numbers)] * (len(numbers) - 1)
    lengths.append(20 - sum(lengths))
    segments = torch.tensor(numbers).repeat_interleave(torch.tensor(lengths))[None]
    y = in_chunks(mixer, x, lambda start, stop: Layout(segments=segments[:, start:stop]))
    apart = torch.cat([mixer(part) for part in x.split(lengths, dim=1)], 1)
    torch.testing.assert_close(y, apart, rtol=1e-4, atol=1e-4)


def test_steps_without_segments_continue_the_last_document(mixer):
    x = torch.randn(1, 14, 32)
    state = mixer.init_state(1)
    mixer(x[:, :9], Layout(segments=torch.tensor([[0] * 4 + [1] * 5])), state)
    y = torch.cat([mixer(token, state=state) for token in x[:, 9:].split(1, 1)], 1)
    torch.testing.assert_close(y, mixer(x[:, 4:])[:, 5:], rtol=1e-4, atol=1e-4)


def test_states_are_copied_with_their_graph(mixer):
    x = torch.randn(1, 8, 32, requires_grad=True)
    state = mixer.init_state(1)
    mixer(x, state=state)
    other = copy.deepcopy(state)
    step = torch.randn(1, 1, 32)
    first, second = mixer(step, state=state), mixer(step, state=other)
    assert torch.equal(first, second)
    assert state.length == other.length == 9


def test_float64_states_keep_float64(mixer):
    mixer = mixer.double()
    x = torch.randn(2, 20, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(in_chunks(mixer, x), mixer(x), rtol=1e-12, atol=1e-12)


def test_the_state_of_another_mixer_is_refused(mixer):
    other = build_mixer({"mixer": "sliding_window", "heads": 2, "window": 3}, dim=32)
    x = torch.randn(1, 4, 32)
    with pytest.raises(ValueError, match="state: expected one made by this"):
        mixer(x, state=other.init_state(1))
    with pytest.raises(TypeError, match=r"state: .* expected a MixerState from init_state, found int"):
        mixer(x, state=3)
    with pytest.raises(ValueError, match="state: expected one for 1 rows, found 2"):
        mixer(x, state=mixer.init_state(2))


def test_a_window_of_another_size_is_another_mixer():
    narrow, wide = (build_mixer({"mixer": "sliding_window", "heads": 2, "window": w}, dim=32) for w in (4, 8))
    with pytest.raises(ValueError, match="state: expected one made by this SlidingWindow"):
        wide(torch.randn(1, 4, 32), state=narrow.init_state(1))


def test_a_stack_refuses_what_does_not_fit():
    stack = Stack(32, {"a": SPECS[0]}, "aa")
    with pytest.raises(ValueError, match="state: expected a StackState of 2 layers, found MixerState"):
        stack(torch.zeros(1, 3, 32), state=stack.mixers[0].init_state(1))
    with pytest.raises(ValueError, match="state: expected a StackState of 2 layers, found 1"):
        stack(torch.zeros(1, 3, 32), state=Stack(32, {"a": SPECS[0]}, "a").init_state(1))
    with pytest.raises(TypeError, match=r"layout: expected a tokenmix\.Layout, found Tensor"):
        stack(torch.zeros(1, 3, 32), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"x: expected shape \(B, L, dim=32\), found \(1, 3, 31\)"):
        stack(torch.zeros(1, 3, 31))


def test_a_short_document_after_a_long_one_keeps_its_digits():
    torch.manual_seed(0)
    mixer = build_mixer({"mixer": "gam", "slots": 8, "memory": "written"}, dim=16)
    with torch.no_grad():
        mixer.log_prior.fill_(-3.0)
    x = torch.randn(1, 4020, 16)
    segments = torch.tensor([[0] * 4000 + [1] * 20])
    exact = copy.deepcopy(mixer).double()(x[:, 4000:].double())
    with torch.no_grad():
        found = mixer(x, Layout(segments=segments))[:, 4000:]
    assert (found - exact).abs().max() < 2e-6
