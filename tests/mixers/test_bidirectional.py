"""Both ways: equal to a loop over documents, whatever padding, packing and places; its reach and errors."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tokenmix import Layout, build_mixer
from tokenmix.mixers import Bidirectional

DIM = 16
INNER: dict[str, dict[str, Any]] = {
    "mamba": {"mixer": "mamba", "state_size": 4},
    "mamba2": {"mixer": "mamba2", "state_size": 8, "head_dim": 8, "chunk": 4},
    "linear_attention": {"mixer": "linear_attention", "heads": 2},
    "rope_window": {"mixer": "sliding_window", "heads": 2, "window": 4, "rope": True},
    "gam_written": {"mixer": "gam", "slots": 8, "memory": "written"},
}
MASKS = {
    "none": None,
    "right": [[1, 1, 1, 1, 1, 0, 0, 0, 0], [1] * 9, [0] * 9],
    "left": [[0, 0, 0, 0, 1, 1, 1, 1, 1], [1] * 9, [0] * 8 + [1]],
    "scattered": [[0, 1, 0, 1, 1, 0, 0, 1, 0], [1, 0, 1, 0, 1, 0, 1, 0, 1], [1, 1, 0, 1, 1, 1, 1, 1, 1]],
}
SEGMENTS = [[0, 0, 0, 1, 1, 1, 1, 2, 2], [5, 5, 5, 5, 5, 5, 5, 5, 5], [0, 1, 0, 1, 0, 1, 2, 2, 2]]
PLACES = [[3, 4, 9, 0, 2, 3, 7, 1, 6], [0, 1, 2, 5, 6, 7, 20, 21, 22], [0, 1, 2, 3, 4, 5, 6, 7, 8]]


def mixer_of(name: str) -> Bidirectional:
    torch.manual_seed(0)
    made = Bidirectional(DIM, INNER[name])
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def one_way(mixer: Any, x: Tensor, places: Tensor | None) -> Tensor:
    """(n, dim) tokens of one document alone."""
    return mixer(x[None], Layout(positions=None if places is None else places[None]))[0]


def naive(mixer: Any, x: Tensor, layout: Layout) -> Tensor:
    """Each document of each row alone: forward, and unflipped backward of the flipped; places count from its end."""
    y = torch.zeros_like(x)
    for row in range(x.shape[0]):
        kept = torch.ones(x.shape[1], dtype=torch.bool) if layout.mask is None else layout.mask[row]
        labels = torch.zeros(x.shape[1]) if layout.segments is None else layout.segments[row]
        for label in labels[kept].unique():
            index = ((labels == label) & kept).nonzero()[:, 0]
            places = None if layout.positions is None else layout.positions[row, index]
            from_end = None if places is None else (places.max() - places).flip(0)
            there = one_way(mixer.forwards, x[row, index], places)
            back = one_way(mixer.backwards, x[row, index].flip(0), from_end).flip(0)
            y[row, index] = there + back
    return y


@torch.no_grad()
def check(mixer: Bidirectional, padding: str, packed: bool, placed: bool) -> None:
    mask = None if MASKS[padding] is None else torch.tensor(MASKS[padding]).bool()
    layout = Layout(
        mask=mask,
        segments=torch.tensor(SEGMENTS) if packed else None,
        positions=torch.tensor(PLACES) if placed else None,
    )
    x = torch.randn(3, 9, DIM, generator=torch.Generator().manual_seed(1))
    found, expected = mixer(x, layout), naive(mixer, x, layout)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    if mask is not None:
        loud = torch.where(mask[..., None], x, torch.full_like(x, 1e3))
        assert torch.equal(mixer(loud, layout), found)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("name", INNER)
def test_equals_a_loop_over_documents(name: str, padding: str, packed: bool) -> None:
    check(mixer_of(name), padding, packed, placed=False)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("padding", MASKS)
def test_equals_a_loop_with_places_of_ones_own(padding: str, packed: bool) -> None:
    """Rotations by places from the other end: what a window reads backwards is as far as forwards."""
    mixer = mixer_of("rope_window")
    check(mixer, padding, packed, placed=True)
    x = torch.randn(3, 9, DIM)
    moved = mixer(x, Layout(positions=torch.tensor(PLACES)))
    assert (moved - mixer(x)).abs().max() > 1e-2  # places matter at all


def test_the_two_directions_have_weights_of_their_own() -> None:
    mixer = mixer_of("mamba")
    there, back = mixer.forwards.in_proj.weight, mixer.backwards.in_proj.weight
    assert there.shape == back.shape
    assert not torch.equal(there, back)
    before = [parameter.clone() for parameter in mixer.parameters()]
    mixer.reset_parameters()
    for (name, parameter), old in zip(mixer.named_parameters(), before, strict=True):
        assert not torch.equal(parameter, old), name


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("padding", MASKS)
def test_reach_is_what_gradients_reach(padding: str, packed: bool) -> None:
    mixer = mixer_of("rope_window").double()
    mask = None if MASKS[padding] is None else torch.tensor(MASKS[padding]).bool()
    layout = Layout(mask=mask, segments=torch.tensor(SEGMENTS) if packed else None)
    x = torch.randn(3, 9, DIM, dtype=torch.float64, requires_grad=True)
    y = mixer(x, layout)
    found = torch.zeros(3, 9, 9, dtype=torch.bool)
    for row in range(3):
        for i in range(9):
            if y[row, i].requires_grad:
                (gradient,) = torch.autograd.grad(y[row, i].square().sum(), x, retain_graph=True)
                found[row, i] = gradient[row].abs().sum(-1) > 0
    expected = mixer.reach(layout, 9)
    assert expected is not None
    assert torch.equal(found, expected.expand(3, 9, 9))


def test_it_reads_the_whole_row_and_so_has_no_state() -> None:
    mixer = mixer_of("mamba")
    assert not mixer.is_causal
    with pytest.raises(ValueError, match="is not causal here, so it has no state"):
        mixer.init_state(1)


def test_descriptions_nest_and_what_does_not_fit_is_refused() -> None:
    assert isinstance(build_mixer({"mixer": "bidirectional", "inner": "mamba"}, DIM), Bidirectional)
    for inner, message in (
        (
            {"mixer": "attention", "heads": 2, "causal": False},
            "inner: expected a causal mixer, found .*both ways",
        ),
        ({"mixer": "bidirectional", "inner": "mamba"}, "inner: expected a causal mixer, found"),
        (
            {"mixer": "mamba", "state_sise": 4},
            "state_sise: not an argument of mixer 'mamba'; did you mean",
        ),
        ("mambo", "mixer: unknown name 'mambo'; did you mean 'mamba"),
    ):
        with pytest.raises(ValueError, match=message):
            Bidirectional(DIM, inner)


def _flip(layout: Layout, batch: int, length: int, device: Any = None) -> tuple[Layout, Tensor]:
    return layout, torch.arange(length - 1, -1, -1).expand(batch, length)  # as if no row had padding


def _keep_places(layout: Layout, batch: int, length: int, device: Any = None) -> tuple[Layout, Tensor]:
    turned, order = ORIGINAL(layout, batch, length, device)
    places = None if layout.positions is None else layout.positions.gather(1, order)
    return Layout(mask=turned.mask, segments=turned.segments, positions=places), order


def _forget_documents(layout: Layout, batch: int, length: int, device: Any = None) -> tuple[Layout, Tensor]:
    turned, order = ORIGINAL(layout, batch, length, device)
    return Layout(mask=turned.mask, positions=turned.positions), order


def _no_turn(layout: Layout, batch: int, length: int, device: Any = None) -> tuple[Layout, Tensor]:
    turned, order = ORIGINAL(layout, batch, length, device)
    return turned, torch.arange(length).expand_as(order)


ORIGINAL = Layout.reversed


@pytest.mark.parametrize(("fault", "padding", "packed", "placed"), [
    (_flip, "right", False, False),
    (_keep_places, "none", False, True),
    (_forget_documents, "none", True, False),
    (_no_turn, "none", False, False),
])  # fmt: skip
def test_planted_faults_are_caught(
    monkeypatch: pytest.MonkeyPatch, fault: Any, padding: str, packed: bool, placed: bool
) -> None:
    mixer = mixer_of("rope_window")
    check(mixer, padding, packed, placed)
    monkeypatch.setattr(Layout, "reversed", fault)
    with pytest.raises(AssertionError):
        check(mixer, padding, packed, placed)
