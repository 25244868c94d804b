"""What the stages minimise, against sums written out, and what may and may not change."""

import copy

import pytest
import torch
from conversion_cases import build
from torch import Tensor

from tokenmix.conversion.measure import gap_closed
from tokenmix.conversion.objectives import match_hidden, match_logits, record_attention
from tokenmix.conversion.stages import choose_weights
from tokenmix.hf import swap_mixers, swapped_mixers

IDS = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0))


def test_an_exact_copy_has_no_error() -> None:
    teacher = build()
    student = swap_mixers(copy.deepcopy(teacher), {"0": "attention", "2": "attention"})
    loss, errors = match_hidden(teacher, student, IDS)
    assert set(errors) == {"0", "2"}
    assert loss < 1e-9


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "qwen2"])
def test_hidden_errors_are_those_of_each_layer_alone(family: str) -> None:
    """Each mixer gets what the original's attention got: errors below do not reach the layers above."""
    teacher = build(family)
    student = swap_mixers(copy.deepcopy(teacher), {"0": "mamba2", "2": {"mixer": "gam", "slots": 8}})
    loss, errors = match_hidden(teacher, student, IDS)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    names = {"0": "self_attn", "2": "self_attn"} if family != "gpt_neox" else {"0": "attention", "2": "attention"}
    for key, attention in names.items():
        layer = teacher.base_model.layers[int(key)]

        def keep(
            module: object, args: object, kwargs: dict[str, Tensor], output: tuple[Tensor], key: str = key
        ) -> None:
            inputs[key] = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]  # type: ignore[index]
            outputs[key] = output[0]

        getattr(layer, attention).register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        teacher(IDS)
        expected = {}
        for key, mixer in swapped_mixers(student).items():
            wrong = (mixer(inputs[key]) - outputs[key]).double()
            expected[key] = float((wrong * wrong).sum() / (outputs[key].double() ** 2).sum())
    assert {key: pytest.approx(value, rel=1e-4) for key, value in expected.items()} == {
        key: value.item() for key, value in errors.items()
    }
    assert loss.item() == pytest.approx(sum(expected.values()) / 2, rel=1e-4)


def test_recording_leaves_nothing_behind() -> None:
    model = build()
    seen = record_attention(model, ["model.layers.1.self_attn"], IDS)
    assert list(seen) == ["model.layers.1.self_attn"]
    assert not model.get_submodule("model.layers.1.self_attn")._forward_hooks
    assert not seen["model.layers.1.self_attn"][2].requires_grad


def test_logits_are_compared_by_their_divergence() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    for temperature in (1.0, 2.0):
        total = 0.0
        for b in range(2):
            for t in range(3):
                p = torch.softmax(teacher[b, t].double() / temperature, 0)
                q = torch.softmax(student[b, t].double() / temperature, 0)
                total += float((p * (p / q).log()).sum())
        found = match_logits(teacher, student, temperature)
        assert found.item() == pytest.approx(temperature**2 * total / 6, rel=1e-5)


def test_which_weights_are_trained() -> None:
    model = swap_mixers(build(), {"1": "mamba2"})
    choose_weights(model, "mixers")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("model.layers.1.self_attn.mixer.") for name in trained)
    choose_weights(model, "all")
    assert all(p.requires_grad for p in model.parameters())


def test_share_of_the_gap() -> None:
    assert gap_closed(swap=10.0, stage=4.0, original=2.0) == 0.75
    assert gap_closed(swap=10.0, stage=12.0, original=2.0) == -0.25
    assert gap_closed(swap=2.0, stage=2.0, original=2.0) is None
    assert gap_closed(swap=float("inf"), stage=2.0, original=1.0) is None
