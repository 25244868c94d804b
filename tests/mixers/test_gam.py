"""GAM: the sheet's parameter counts, its receptive field, what its memory does, and the written memory."""

import pytest
import torch

from tokenmix import Layout
from tokenmix.blocks import Stack
from tokenmix.mixers import GAM


def test_parameters_of_a_published_model():
    """22,599,680 at the authors' defaults: vocabulary 10,000, dim 512, 6 layers, 512 slots, context 256, tied head."""
    stack = Stack(
        512, {"g": {"mixer": "gam"}}, "g", layers=6, feed_forward="gelu", norm="layernorm", feed_forward_bias=True
    )
    embeddings = 10_000 * 512 + 256 * 512
    assert sum(p.numel() for p in stack.parameters()) + embeddings == 22_599_680


@pytest.mark.parametrize(("layers", "kernel"), [(6, 3), (2, 4)])
def test_receptive_field_of_a_stack(layers, kernel):
    torch.manual_seed(0)
    stack = Stack(16, {"g": {"mixer": "gam", "slots": 8, "kernel": kernel}}, "g", layers=layers).double()
    length = 30
    x = torch.randn(1, length, 16, dtype=torch.float64, requires_grad=True)
    stack(x)[0, -1].square().sum().backward()
    reached = x.grad[0].abs().amax(-1) > 0
    field = 1 + layers * (kernel - 1)
    assert reached.tolist() == [False] * (length - field) + [True] * field


def test_static_memory_is_a_function_of_one_token_and_stays_within_its_slots():
    torch.manual_seed(0)
    mixer = GAM(16, slots=8, local=False, fusion="sum")
    x = torch.randn(2, 9, 16)
    y = mixer(x)
    order = torch.randperm(9)
    assert torch.allclose(mixer(x[:, order]), y[:, order], atol=1e-6)
    by_row = torch.stack([(token @ mixer.memory.T).softmax(-1) @ mixer.memory for token in x.flatten(0, 1)])
    assert torch.allclose(y.flatten(0, 1), by_row, atol=1e-6)
    assert (y <= mixer.memory.amax(0) + 1e-6).all()
    assert (y >= mixer.memory.amin(0) - 1e-6).all()


def test_ablations():
    torch.manual_seed(0)
    x = torch.randn(1, 7, 16)
    summed = GAM(16, slots=8, fusion="sum")
    local, memory = GAM(16, fusion="sum", memory="none"), GAM(16, slots=8, fusion="sum", local=False)
    local.load_state_dict(summed.state_dict(), strict=False)
    memory.load_state_dict(summed.state_dict(), strict=False)
    assert torch.allclose(summed(x), local(x) + memory(x), atol=1e-6)
    gated, gated_local = GAM(16, slots=8), GAM(16, memory="none")
    gated_local.load_state_dict(gated.state_dict(), strict=False)
    with torch.no_grad():
        gated.memory.zero_()
    assert torch.allclose(gated(x), gated_local(x), atol=1e-6)


def test_written_memory_equals_its_equation():
    torch.manual_seed(0)
    mixer = GAM(8, slots=4, memory="written", local=False, fusion="sum").double()
    with torch.no_grad():
        mixer.log_prior.fill_(0.3)
    x = torch.randn(1, 12, 8, dtype=torch.float64)
    kappa, slots = mixer.log_prior.exp(), mixer.memory
    written, evidence = torch.zeros(4, 8, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    expected = []
    for token in x[0]:
        address = (slots @ token).softmax(0)
        evidence = evidence + address
        written = written + address[:, None] * mixer.value_proj(token)
        expected.append(address @ ((kappa * slots + written) / (kappa + evidence)[:, None]))
    assert torch.allclose(mixer(x)[0], torch.stack(expected), atol=1e-12)


def test_written_memory_starts_as_the_static_one_with_a_strong_prior():
    torch.manual_seed(0)
    written, static = GAM(8, slots=4, memory="written"), GAM(8, slots=4)
    static.load_state_dict(written.state_dict(), strict=False)
    with torch.no_grad():
        written.log_prior.fill_(20.0)
    x = torch.randn(1, 5, 8)
    assert torch.allclose(written(x), static(x), atol=1e-5)


def test_scale_multiplies_the_scores():
    torch.manual_seed(0)
    mixer = GAM(64, slots=8, local=False, fusion="sum", scale=64**-0.5)
    x = torch.randn(1, 5, 64)
    assert torch.allclose(mixer(x), (x @ mixer.memory.T / 8).softmax(-1) @ mixer.memory, atol=1e-6)


def test_state_does_not_grow():
    assert GAM(16, slots=8).state_numel(3) == GAM(16, slots=8).state_numel(300) == 2 * 16
    assert GAM(16, slots=8, memory="written").state_numel(9) == 2 * 16 + 8 * 16 + 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 0}, "slots: expected a positive integer, found 0"),
        ({"fusion": "mean"}, "fusion: expected 'gated' or 'sum', found 'mean'"),
        ({"memory": "dynamic"}, "memory: expected 'static', 'written' or 'none', found 'dynamic'"),
        ({"memory": "none", "local": False}, "local: expected True where memory='none'"),
        ({"causal": False, "kernel": 4}, "causal: False wants an odd kernel"),
        ({"causal": False, "memory": "written"}, "causal: False wants"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GAM(16, **options)


def test_written_memory_with_padding_and_packing_and_chunks():
    """An empty row must not move the state, nor padding after a row's end."""
    torch.manual_seed(0)
    mixer = GAM(8, slots=4, memory="written").eval()
    x = torch.randn(2, 6, 8)
    state = mixer.init_state(2)
    mixer(x, Layout(segments=torch.tensor([[0, 0, 1, 1, 1, 2], [0] * 6])), state)
    before = {name: tensor.clone() for name, tensor in state.tensors.items()}
    mixer(torch.randn(2, 3, 8), Layout(mask=torch.tensor([[False] * 3, [True] * 3])), state)
    for name, tensor in state.tensors.items():
        assert torch.equal(tensor[0], before[name][0]), name
        assert not torch.equal(tensor[1], before[name][1]), name
