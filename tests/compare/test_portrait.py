import json

import pytest
import torch
from torch import nn

from tokenmix import mixer as registry
from tokenmix.blocks import Stack
from tokenmix.compare import portrait as portrait_module
from tokenmix.compare.portrait import PortraitConfig, distinct_mixers, draw_portrait, reach_of
from tokenmix.laws import LAWS
from tokenmix.mixer import TokenMixer

DIM, HEADS = 16, 2
GAM = {"mixer": "gam", "slots": 8, "kernel": 3}
ATTENTION = {"mixer": "attention", "heads": HEADS}
MAMBA2 = {"mixer": "mamba2", "state_size": 8, "head_dim": 8}
WINDOW = {"mixer": "sliding_window", "heads": HEADS, "window": 16}
PICTURE = PortraitConfig(length=24, laws=False)


def a_stack(spec, layers=2):
    torch.manual_seed(0)
    return Stack(DIM, {"x": spec}, "x", layers=layers)


class Peeks(TokenMixer):
    """Claims to be causal, and reads the next token but one."""

    causal, cost = "always", "L"

    def mix(self, x, layout, state):
        return x + 1e-3 * torch.cat([x[:, 2:], torch.zeros_like(x[:, :2])], dim=1)


class Raises(TokenMixer):
    """Never computes anything."""

    causal = "optional"

    def mix(self, x, layout, state):
        raise IndexError("there is no such slot")


class Fades(TokenMixer):
    """y_t = sum over s of exp(-3 (t - s)) x_s: in float64 nothing is left after 249 tokens, though all are read."""

    causal, cost = "always", "L^2"

    def mix(self, x, layout, state):
        back = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        return torch.exp(-3.0 * back.clamp(min=0).to(x.dtype)).tril() @ x


class Blank(TokenMixer):
    """Gives NaN."""

    causal, cost = "always", "L"

    def mix(self, x, layout, state):
        return x * float("nan")


class Uncopyable(TokenMixer):
    """Holds what cannot be copied."""

    causal, cost = "always", "L"

    def __init__(self, dim):
        super().__init__(dim)
        self.scale = nn.Parameter(torch.ones(()))
        self.stream = (number for number in range(3))

    def mix(self, x, layout, state):
        return self.scale * x


OURS = {"peeks": Peeks, "raises": Raises, "fades": Fades, "blank": Blank, "uncopyable": Uncopyable}


@pytest.fixture
def known(monkeypatch):
    for name, cls in OURS.items():
        monkeypatch.setitem(registry._REGISTRY, name, cls)


# ---------------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    ("spec", "layers", "expected"),
    [
        (GAM, 2, (4, True)),
        (GAM | {"kernel": 4}, 3, (9, True)),
        (GAM | {"memory": "none"}, 1, (2, True)),
        (WINDOW, 2, (30, True)),
        (WINDOW | {"window": 5}, 1, (4, True)),
        (ATTENTION, 2, (1023, False)),
        (MAMBA2, 2, (1023, False)),
        ({"mixer": "mamba", "state_size": 4}, 1, (1023, False)),
        ({"mixer": "linear_attention", "heads": HEADS}, 1, (1023, False)),
        (GAM | {"memory": "written"}, 1, (1023, False)),
    ],
)
def test_reach_of_stacks_whose_reach_is_known(spec, layers, expected):
    assert reach_of(a_stack(spec, layers)) == expected


def test_a_row_as_long_as_the_reach_does_not_show_its_end():
    stack = a_stack(WINDOW)
    assert draw_portrait(stack, PICTURE)["reach"] == 30  # more than its 24 tokens show
    assert reach_of(stack, length=31) == (30, False)
    assert reach_of(stack, length=32) == (30, True)


@pytest.mark.usefixtures("known")
def test_a_decay_that_runs_out_of_numbers_is_no_end():
    reach, bounded = reach_of(a_stack({"mixer": "fades"}, layers=1))
    assert 240 < reach < 260  # exp(-3 * 249) is about 1e-324, the smallest number there is
    assert not bounded


def test_influence_is_that_of_changing_one_token_at_a_time():
    found = draw_portrait(a_stack(WINDOW | {"window": 4}), PICTURE)
    influence = torch.tensor(found["influence"])
    back = torch.arange(24)[:, None] - torch.arange(24)
    assert influence.shape == (24, 24)
    assert float(influence.max()) == 1
    assert bool((influence[(back >= 0) & (back <= 6)] > 0).all())  # two layers of three tokens back
    assert float(influence[(back < 0) | (back > 6)].max()) == 0
    nearest, farthest = influence.diagonal().mean(), influence.diagonal(-6).mean()
    assert float(nearest) > 5 * float(farthest)
    assert found["reach"] == 6
    assert found["reach_bounded"] is True
    assert found["reads_future"] is False


def test_influence_keeps_three_digits():
    values = [value for row in draw_portrait(a_stack(ATTENTION), PICTURE)["influence"] for value in row]
    assert all(value == float(f"{value:.3g}") for value in values)
    assert len(set(values)) > 100


def test_who_reads_the_future():
    assert draw_portrait(a_stack(ATTENTION), PICTURE)["reads_future"] is False
    found = draw_portrait(a_stack(ATTENTION | {"causal": False}), PICTURE)
    assert found["reads_future"] is True
    assert found["state_growth"] is found["state_bytes_per_token"] is None
    found = draw_portrait(a_stack(GAM | {"causal": False}), PICTURE)
    assert (found["reads_future"], found["reach"], found["reach_bounded"]) == (True, 2, True)


def test_one_layer_that_reads_far_is_enough():
    torch.manual_seed(0)
    hybrid = Stack(DIM, {"g": GAM, "a": ATTENTION}, "gga", layers=3)
    assert reach_of(hybrid) == (1023, False)


# ---------------------------------------------------------------------- state


@pytest.mark.parametrize(
    ("spec", "growth", "per_token"),
    [(ATTENTION, "growing", 2 * 4 * 2 * DIM), (MAMBA2, "flat", 0), (GAM, "flat", 0), (WINDOW, "flat", 0)],
)
def test_growth_of_the_state(spec, growth, per_token):
    found = draw_portrait(a_stack(spec), PICTURE)
    assert (found["state_growth"], found["state_bytes_per_token"]) == (growth, per_token)


# ---------------------------------------------------------------------- laws


def verdicts(found, description=None):
    laws = found["laws"][description] if description else next(iter(found["laws"].values()))
    return {entry["law"]: entry for entry in laws}


def test_laws_of_each_distinct_mixer_once():
    torch.manual_seed(0)
    mixers = {"g": GAM, "w": WINDOW | {"window": 32}}
    found = draw_portrait(Stack(DIM, mixers, "ggw", layers=6), PortraitConfig(length=8), mixers)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found["laws"]) == [json.dumps(spec) for spec in mixers.values()]
    for description in found["laws"]:
        tried = verdicts(found, description)
        assert list(tried) == [law.name for law in LAWS]
        assert [entry["number"] for entry in tried.values()] == [law.number for law in LAWS]
        assert {entry["status"] for entry in tried.values()} == {"passed", "not claimed"}
        assert tried["reach"]["status"] == "passed"  # in rows longer than the window
        assert tried["equivariance"]["status"] == "not claimed"
        assert tried["padding"]["worst"] <= tried["padding"]["tolerance"]


def test_mixers_are_told_apart_by_their_options():
    mixers = {"a": GAM, "b": GAM | {"slots": 4}, "c": GAM | {"slots": 4}, "d": WINDOW}
    stack = Stack(DIM, mixers, "abcd")
    from_attributes = [json.loads(text) for text in distinct_mixers(stack)]
    assert [options.get("slots") for options in from_attributes] == [8, 4, 4, None]
    assert [options.get("letter") for options in from_attributes] == [None, None, "c", None]
    assert from_attributes[3]["window"] == 16
    given = distinct_mixers(stack, mixers)
    assert [json.loads(text) for text in given] == [mixers["a"], mixers["b"], mixers["d"]]
    assert [mixer is stack.mixers[i] for mixer, i in zip(given.values(), (0, 1, 3), strict=True)] == [True] * 3


def test_without_laws_there_are_none():
    assert draw_portrait(a_stack(GAM), PICTURE)["laws"] == {}


@pytest.mark.usefixtures("known")
def test_a_mixer_that_peeks_is_found_out():
    found = draw_portrait(a_stack({"mixer": "peeks"}, layers=1), PortraitConfig(length=12))
    assert found["reads_future"] is True
    tried = verdicts(found)
    assert tried["causality"]["status"] == "broken"
    assert "depends on the later token" in tried["causality"]["note"]
    assert tried["causality"]["worst"] > tried["causality"]["tolerance"]
    assert tried["values"]["status"] == "passed"


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("name", "text"),
    [("raises", "IndexError: there is no such slot"), ("blank", "NaN or inf"), ("uncopyable", "generator")],
)
def test_a_mixer_that_does_not_work_has_broken_laws_and_an_error(name, text):
    found = draw_portrait(a_stack({"mixer": name}, layers=1), PortraitConfig(length=8))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert text in found["error"]
    assert found["influence"] is found["reach"] is found["reads_future"] is found["reach_bounded"] is None
    tried = verdicts(found)
    assert len(tried) == len(LAWS)
    assert tried["values"]["status"] == "broken"
    assert text in tried["values"]["note"]


def test_the_stack_and_random_numbers_are_left_as_they_were():
    stack = a_stack(GAM)
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    torch.manual_seed(3)
    first = draw_portrait(stack, PICTURE)
    left = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(left, torch.rand(1))
    assert draw_portrait(stack, PICTURE) == first
    assert stack.training
    assert all(parameter.grad is None for parameter in stack.parameters())
    assert all(torch.equal(before[name], value) for name, value in stack.state_dict().items())


@pytest.mark.parametrize(
    ("spec", "expected"), [(GAM, 48), (WINDOW | {"window": 40}, 80), (WINDOW | {"window": 500}, 256), (ATTENTION, 48)]
)
def test_rows_of_the_laws_are_longer_than_the_window(spec, expected):
    assert portrait_module._law_length(a_stack(spec, layers=1).mixers[0]) == expected


@pytest.mark.parametrize("length", [0, 1])
def test_a_picture_of_less_than_two_tokens_is_refused(length):
    with pytest.raises(ValueError, match="length: expected"):
        PortraitConfig(length=length)
