"""The laws: green for correct mixers and the whole registry, red for every planted fault, by number and name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import laws_faults_numbers
import laws_faults_tokens
import laws_mixers
from tokenmix import TokenMixer, build_mixer, list_mixers
from tokenmix.laws import LAWS, LawBroken, check_mixer
from tokenmix.laws.cost import largest_slope

PLANTED = [(number, cls) for number, classes in laws_mixers.FAULTS.items() for cls in classes]

# options of the registered mixers to check; a mixer without an entry is checked with its defaults
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "attention": [
        {"heads": 4},
        {"heads": 4, "causal": False},
        {"heads": 4, "kv_heads": 2},
        {"heads": 4, "rope": True},
        {"heads": 4, "kv_heads": 2, "rope": True, "causal": False, "bias": True},
        {"heads": 4, "rope": True, "rope_frequencies": [1.0, 0.3], "rope_scale": 1.2, "qk_norm": True},
    ],
    "sliding_window": [
        {"heads": 4, "window": 5},
        {"heads": 4, "window": 5, "causal": False},
        {"heads": 4, "window": 4, "kv_heads": 2},
        {"heads": 4, "window": 5, "rope": True},
    ],
    "ls_attention": [
        {"heads": 4, "long_heads": 1, "window": 5},
        {"heads": 4, "long_heads": 1, "window": 5, "causal": False},
        {"heads": 4, "kv_heads": 2, "long_heads": 2, "window": 5, "rope": True, "qk_norm": True},
    ],
    "bidirectional": [
        {"inner": {"mixer": "mamba", "state_size": 8}},
        {"inner": {"mixer": "mamba2", "state_size": 16, "head_dim": 16}},
        {"inner": {"mixer": "sliding_window", "heads": 4, "window": 5, "rope": True}},
        {"inner": {"mixer": "gam", "slots": 16, "memory": "written"}},
    ],
    "codebook_attention": [{"heads": 4, "codes": 16}, {"heads": 4, "codes": 16, "code_dim": 8, "bias": True}],
    "gam": [{"slots": 16}, {"slots": 16, "memory": "written"}, {"slots": 16, "causal": False}],
    "linear_attention": [{"heads": 4}, {"heads": 4, "causal": False}],
    "mamba": [{"state_size": 8}],
    "mamba2": [{"state_size": 16, "head_dim": 16}, {"state_size": 16, "head_dim": 16, "chunk": 8}],
    "mossformer": [
        {"group": 8, "key_size": 16, "kernel": 5},
        {"group": 8, "key_size": 16, "kernel": 5, "causal": True},
        {"group": 3, "key_size": 40, "kernel": 4, "expansion": 3, "causal": True},
        {"group": 8, "key_size": 16, "kernel": 5, "causal": True, "causal_conv": False},
    ],
    "neighbourhood_attention": [
        {"heads": 4},
        {"heads": 4, "self_loops": False},
        {"heads": 4, "edge_dim": 4, "bias": True},
    ],
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _described(name: str, options: dict[str, Any]) -> str:
    return ",".join([name, *(f"{key}={value}" for key, value in options.items())])


REGISTERED = [
    pytest.param({"mixer": name, **options}, id=_described(name, options))
    for name in list_mixers()
    for options in VARIANTS.get(name, [{}])
]


@pytest.mark.parametrize("description", REGISTERED)
def test_registered_mixers_obey_the_laws(description: dict[str, Any]) -> None:
    check_mixer(description, dim=32)


@pytest.mark.parametrize("cls", laws_mixers.CORRECT, ids=lambda cls: cls.__name__)
def test_correct_mixers_pass(cls: type[TokenMixer]) -> None:
    report = check_mixer(cls(16))
    assert report.passed
    assert len(report.verdicts) == len(LAWS)


@pytest.mark.parametrize(("number", "cls"), PLANTED, ids=lambda value: getattr(value, "__name__", str(value)))
def test_planted_faults_are_caught_by_their_law(number: int, cls: type[TokenMixer]) -> None:
    name = next(law.name for law in LAWS if law.number == number)
    with pytest.raises(LawBroken, match=rf"law {number} \({name}\) is broken by {cls.__name__}: ") as caught:
        check_mixer(cls(16), laws=[number])
    assert (caught.value.number, caught.value.law) == (number, name)


def test_every_law_has_a_planted_fault() -> None:
    assert all(laws_mixers.FAULTS[law.number] for law in LAWS)
    assert [law.number for law in LAWS] == list(range(1, 11))
    assert all(law.statement for law in LAWS)


# the message says what was found, with numbers
@pytest.mark.parametrize(
    ("cls", "number", "message"),
    [
        (
            laws_faults_tokens.LeaksOneToken,
            4,
            r"output \d+ depends on the later token \d+, relative change: .*1e-12",
        ),
        (laws_faults_tokens.IgnoresItsInput, 4, r"no output at or after token \[0\] moves when it changes: 0, "),
        (laws_faults_tokens.WrongStateSize, 5, r"state_numel\(1\) says 196 bytes for 1 rows, found 192"),
        (laws_faults_tokens.StaleCounter, 5, r"expected state.seen \[1\], found \[0\]"),
        (
            laws_faults_numbers.WindowWiderThanItsReach,
            6,
            r"output \d+ depends on token \d+, which is outside its reach, relative change: 0\.\d+",
        ),
        (laws_faults_numbers.WindowNarrowerThanItsReach, 6, "reach says that output 3 may depend on token 0, but"),
        (laws_faults_numbers.DeadParameter, 8, "gradient of unused: there is none"),
        (
            laws_faults_numbers.QuadraticInElements,
            9,
            r"elements written .*for cost 'L': slope: 1\.\d+, .* 1.1",
        ),
        (laws_faults_numbers.QuadraticInProducts, 9, r"FLOPs .*for cost 'L': slope: 1\.\d+, .* 1.1"),
        (laws_faults_numbers.UnknownCost, 9, r"cost: 'cheap' is not understood; known: L, L\*w"),
        (laws_faults_numbers.UnknownSymmetry, 7, "unknown 'mirror', known: permutation, se3"),
        (laws_faults_tokens.NanForAPaddedRow, 1, r"a fully padded row, float32: \d+ of \d+ numbers are NaN or inf"),
    ],
)
def test_messages_of_broken_laws(cls: type[TokenMixer], number: int, message: str) -> None:
    with pytest.raises(LawBroken, match=message):
        check_mixer(cls(16), laws=[number], print_table=False)


def test_the_mixer_and_the_random_numbers_are_left_as_they_were() -> None:
    mixer = laws_mixers.GatedConv(16).train()
    before, random = copy.deepcopy(mixer.state_dict()), torch.random.get_rng_state()
    check_mixer(mixer, print_table=False)
    assert mixer.training
    assert all(torch.equal(value, before[name]) for name, value in mixer.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())


def test_report_and_table(capsys: pytest.CaptureFixture[str]) -> None:
    report = check_mixer(laws_faults_tokens.LeaksOneToken(16), laws=["values", 4, 6, 7], raise_on_failure=False)
    assert [verdict.status for verdict in report.verdicts] == ["passed", "broken", "broken", "not claimed"]
    assert not report.passed
    assert [verdict.law.number for verdict in report.broken] == [4, 6]
    printed = capsys.readouterr().out
    assert "LeaksOneToken" in printed
    assert "4 causality" in printed
    assert "broken" in printed
    assert "equivariance is empty" in " ".join(printed.split())


def test_a_mixer_that_raises_breaks_the_law() -> None:
    class Raises(TokenMixer):
        def mix(self, x: torch.Tensor, layout: Any, state: Any) -> torch.Tensor:
            raise RuntimeError("no kernel")

    with pytest.raises(LawBroken, match=r"law 1 \(values\) .* raised RuntimeError: no kernel") as caught:
        check_mixer(Raises, dim=8, print_table=False)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_what_can_be_checked() -> None:
    assert check_mixer(laws_mixers.SetMean, dim=8, laws=[1], print_table=False).mixer == "SetMean"
    with pytest.raises(TypeError, match="mixer: expected a TokenMixer, a subclass, a name or a description"):
        check_mixer(torch.nn.Linear(3, 3))  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ValueError, match="laws: unknown 11, known: 1 values, 2 padding"):
        check_mixer(laws_mixers.SetMean, laws=[11])
    with pytest.raises(ValueError, match="length: expected at least 24 tokens"):
        check_mixer(laws_mixers.SetMean, length=8)
    with pytest.raises(ValueError, match="unknown name 'atention'"):
        check_mixer("atention")
    if "attention" in list_mixers():
        assert check_mixer(build_mixer("attention", 32), laws=["values"], print_table=False).passed


@pytest.mark.parametrize(
    ("cost", "slope"),
    [
        ("L", 1.1),
        ("L*w", 1.1),
        ("L * w * d", 1.1),
        ("L log L", 1.2),
        ("L log(L)", 1.2),
        ("L^1.5", 1.6),
        ("L^2", 2.05),
        ("L*L", 2.05),
        ("L^2 + L*w", 2.05),
        ("E", 1.1),
        ("L + E", 1.1),
        ("E + L*w", 1.1),
        ("w", None),
        ("1", None),
        ("", None),
        ("O(L)", None),
        ("L +", None),
    ],
)
def test_cost_strings(cost: str, slope: float | None) -> None:
    assert largest_slope(cost) == slope


def test_a_reach_whose_edge_is_not_met_is_not_passed() -> None:
    report = check_mixer({"mixer": "sliding_window", "heads": 4, "window": 128}, laws=[6], print_table=False)
    assert report.verdicts[0].status == "not claimed"
    assert "its edge lies beyond the 32 tokens tried: give a larger length" in report.verdicts[0].note
    longer = check_mixer({"mixer": "sliding_window", "heads": 4, "window": 40}, laws=[6], length=60, print_table=False)
    assert longer.verdicts[0].status == "passed"
