"""TokenMixer and the registry: what forward checks and does, and every refusal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenmix import Layout, MixerState, TokenMixer, build_mixer, get_mixer, list_mixers, register_mixer
from tokenmix.mixer import _REGISTRY, check_divides, check_positive


class Shift(TokenMixer):
    """Each token becomes the one before it."""

    causal = "optional"

    def __init__(self, dim: int, scale: float = 1.0, causal: bool = True) -> None:
        super().__init__(dim, is_causal=causal)
        self.scale = scale

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        past = torch.zeros_like(x[:, :1]) if state is None else state.get("last")
        if state is not None:
            state.roll("last", x, layout.counts())
        return self.scale * torch.cat([past, x], dim=1)[:, :-1] + 1

    def fill_state(self, state: MixerState, dtype: torch.dtype) -> None:
        state.put("last", torch.zeros(state.batch_size, 1, self.dim, dtype=dtype, device=state.seen.device))


class Pictures(TokenMixer):
    needs = ("grid", "modality")
    ordered = False

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        return x


@pytest.fixture
def _registry() -> Iterator[None]:
    before = dict(_REGISTRY)
    yield
    _REGISTRY.clear()
    _REGISTRY.update(before)


def test_forward_aligns_and_zeroes_padding() -> None:
    x = torch.tensor([[[7.0], [1.0], [float("nan")], [2.0]]])
    layout = Layout(mask=torch.tensor([[False, True, False, True]]))
    assert Shift(1)(x, layout).flatten().tolist() == [0, 1, 0, 2]


def test_forward_with_a_state_counts_real_tokens() -> None:
    mixer = Shift(2)
    state = mixer.init_state(2)
    mixer(torch.ones(2, 3, 2), Layout.from_lengths([3, 1]), state)
    assert state.seen.tolist() == [3, 1]
    assert mixer.state_numel(100) == 2
    assert mixer.state_numel(3) * 2 * 4 == state.nbytes


def test_a_state_follows_device_and_dtype() -> None:
    state = Shift(2).init_state(3, device="meta", dtype=torch.bfloat16)
    assert state.get("last").device.type == "meta"
    assert state.get("last").dtype == torch.bfloat16
    assert state.seen.device.type == "meta"


TOKENS = torch.zeros(2, 6, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Shift(4)(TOKENS.long()), TypeError, "x: expected a floating point tensor, found torch.int64"),
        (lambda: Shift(4)([1.0]), TypeError, "x: expected a floating point tensor, found list"),
        (lambda: Shift(5)(TOKENS), ValueError, r"x: Shift expected shape \(B, L, dim=5\), found \(2, 6, 4\)"),
        (lambda: Shift(4)(TOKENS[0]), ValueError, r"x: Shift expected shape \(B, L, dim=4\), found \(6, 4\)"),
        (
            lambda: Shift(4)(TOKENS[:, :0]),
            ValueError,
            r"x: Shift expected at least one row and one token, found .*2, 0, 4",
        ),
        (lambda: Shift(4)(TOKENS, TOKENS), TypeError, "layout: expected a tokenmix.Layout, found Tensor"),
        (
            lambda: Pictures(4)(TOKENS, Layout(grid=(2, 3))),
            ValueError,
            r"layout: Pictures needs modality, found only \['grid'\]",
        ),
        (lambda: Pictures(4)(TOKENS), ValueError, r"layout: Pictures needs grid, modality, found only \[\]"),
        (
            lambda: Shift(4)(TOKENS, Layout(mask=torch.ones(2, 5, dtype=torch.bool))),
            ValueError,
            r"Layout.mask: expected shape \(2, 6\), found \(2, 5\)",
        ),
        (
            lambda: Shift(4, causal=False)(TOKENS, None, MixerState(2)),
            ValueError,
            "state: Shift is not causal here and takes none",
        ),
        (
            lambda: Shift(4)(TOKENS, None, Shift(4).init_state(3)),
            ValueError,
            "state: expected one for 2 rows, found 3",
        ),
        (
            lambda: Shift(4, causal=False).init_state(1),
            ValueError,
            "Shift is not causal here, so it has no state to run step by step",
        ),
        (lambda: Shift(4).init_state(0), ValueError, "batch_size: expected at least 1, found 0"),
        (lambda: Shift(0), ValueError, "dim: expected a positive integer, found 0"),
        (lambda: Shift(4.0), TypeError, "dim: expected a positive integer, found 4.0"),  # type: ignore[arg-type]
        (lambda: Shift(True), TypeError, "dim: expected a positive integer, found True"),
        (
            lambda: Pictures(4, is_causal=True),
            ValueError,
            "causal: Pictures is causal 'never', found causal=True",
        ),
        (lambda: TokenMixer(4)(TOKENS), TypeError, r"TokenMixer must implement mix\(x, layout, state\)"),
        (lambda: check_divides("heads", 3, "dim", 32), ValueError, "heads: expected a divisor of dim=32, found 3"),
        (lambda: check_positive("window", -1), ValueError, "window: expected a positive integer, found -1"),
    ],
)
def test_refusals(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_always_causal_cannot_be_told_otherwise() -> None:
    class Always(TokenMixer):
        causal = "always"

    assert Always(4).is_causal
    with pytest.raises(ValueError, match="causal: Always is causal 'always', found causal=False"):
        Always(4, is_causal=False)


@pytest.mark.usefixtures("_registry")
def test_registry() -> None:
    register_mixer("shift_for_tests")(Shift)
    assert Shift.name == "shift_for_tests"
    assert get_mixer("shift_for_tests") is Shift
    register_mixer("shift_for_tests")(Shift)  # a module that is loaded again
    with pytest.raises(ValueError, match=r"name: 'shift_for_tests' is taken by .*test_mixer\.Shift"):
        register_mixer("shift_for_tests")(Pictures)
    built = build_mixer({"mixer": "shift_for_tests", "scale": 2.0, "causal": False}, dim=3)
    assert (built.dim, built.scale, built.is_causal) == (3, 2.0, False)
    assert build_mixer("shift_for_tests", 4).dim == 4
    assert list(list_mixers()) == sorted(list_mixers())
    with pytest.raises(ValueError, match="mixer: unknown name 'shift_for_test'; did you mean 'shift_for_tests'"):
        build_mixer("shift_for_test", 4)
    with pytest.raises(ValueError, match=r"mixer: unknown name 'qqqq'; known: .*shift_for_tests"):
        get_mixer("qqqq")
    with pytest.raises(ValueError, match="scael: not an argument of mixer 'shift_for_tests'; did you mean 'scale'"):
        build_mixer({"mixer": "shift_for_tests", "scael": 1}, 4)
    with pytest.raises(ValueError, match=r"spec: expected a key 'mixer' with the mixer's name, found keys \['scale'\]"):
        build_mixer({"scale": 1}, 4)
    with pytest.raises(ValueError, match="spec: dim is that of the model and cannot be set for one mixer"):
        build_mixer({"mixer": "shift_for_tests", "dim": 3}, 4)


def test_every_registered_mixer_takes_the_options_of_its_constructor() -> None:
    for name, options in {"attention": {"causal": False}, "sliding_window": {"rope": True, "window": 4}}.items():
        mixer = build_mixer({"mixer": name, **options}, dim=32)
        assert all(getattr(mixer, {"causal": "is_causal"}.get(key, key)) == value for key, value in options.items())
