"""Codebook attention: equal to attention over quantised tokens, and what training does; the codes of nodes."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from tokenmix import Layout
from tokenmix.attention_weights import AttentionShape, AttentionWeights
from tokenmix.laws import LawBroken, check_mixer
from tokenmix.mixers import CodebookAttention, NodeCodes
from tokenmix.state import MixerState


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("options", [{}, {"code_dim": 8, "bias": True, "restart": None}], ids=["plain", "projected"])
def test_laws(options: dict[str, object]) -> None:
    # storage (law 10) compiles, which takes long: tests/test_laws.py has it
    description = {"mixer": "codebook_attention", "heads": 4, "codes": 16, **options}
    check_mixer(description, laws=range(1, 10), print_table=False)


class ReadsTokens(CodebookAttention):
    """The planted fault: the mean of the row leaks into the queries."""

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        return super().mix(x + x.mean(1, keepdim=True), layout, state)


def test_the_law_of_reach_sees_a_leak() -> None:
    with pytest.raises(LawBroken, match=r"law 6 \(reach\)"):
        check_mixer(ReadsTokens(16, heads=2, codes=8), laws=[6], print_table=False)


@pytest.mark.parametrize("code_dim", [None, 6])
def test_equals_dense_attention_over_tokens_replaced_by_their_codes(code_dim: int | None) -> None:
    """softmax over M codes with log n_m = softmax over N tokens; in loops over queries and heads, float64."""
    mixer = CodebookAttention(8, heads=2, codes=5, code_dim=code_dim).eval()
    tokens = torch.randn(40, code_dim or 8)
    assigned = mixer.quantiser.assign(tokens)
    mixer.quantiser.counts.copy_(assigned.bincount(minlength=5))
    mixer.quantiser.counts[assigned[0]] = 0  # a dead code, and its tokens with it
    replaced = mixer.quantiser.codebook().double()[assigned[assigned != assigned[0]]]  # (N, width)
    x = torch.randn(3, 8)
    found = mixer(x[None])[0].double()
    wide = copy.deepcopy(mixer).double()
    z = x.double() if wide.code_proj is None else wide.code_proj(x.double())
    q, k, v = wide.q_proj(z), wide.k_proj(replaced), wide.v_proj(replaced)
    for i in range(3):
        heads = []
        for h in range(2):
            part = slice(4 * h, 4 * h + 4)
            weights = torch.stack([q[i, part] @ key[part] / math.sqrt(4) for key in k]).softmax(0)
            heads.append(sum(w * value[part] for w, value in zip(weights, v, strict=True)))
        assert torch.allclose(found[i], wide.o_proj(torch.cat(heads)), atol=1e-5)


def test_a_dead_code_weighs_exactly_nothing() -> None:
    mixer = CodebookAttention(8, heads=2, codes=5).eval()
    x = torch.randn(2, 3, 8)
    mixer.quantiser.counts[3] = 0
    before = mixer(x)
    mixer.quantiser.code[3] = 1e6
    assert torch.equal(mixer(x), before)
    mixer.quantiser.counts[3] = 1e-3
    assert not torch.allclose(mixer(x), before)
    mixer.quantiser.counts.zero_()
    assert (mixer(x) == 0).all()


def test_training_reads_first_and_then_moves_the_codes() -> None:
    mixer = CodebookAttention(8, heads=2, codes=4)
    x = torch.randn(2, 6, 8)
    mixer(torch.randn(2, 6, 8))  # the first batch
    before = copy.deepcopy(mixer.quantiser.state_dict())
    expected = copy.deepcopy(mixer).eval()(x)
    assert torch.equal(mixer(x), expected)
    other = copy.deepcopy(mixer.quantiser)
    other.load_state_dict(before)
    other.update(x)
    for name, value in mixer.quantiser.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    moved = copy.deepcopy(mixer.quantiser.state_dict())
    assert not torch.equal(moved["code"], before["code"])
    mixer.eval()(x)
    assert all(torch.equal(value, moved[name]) for name, value in mixer.quantiser.state_dict().items())


def test_padding_does_not_move_the_codes() -> None:
    mixer = CodebookAttention(8, heads=2, codes=4, code_dim=3)
    padded = copy.deepcopy(mixer)
    x = torch.randn(1, 6, 8)
    for seed in range(2):
        torch.manual_seed(seed)
        mixer(x)
        torch.manual_seed(seed)
        padded(torch.cat([x, torch.full((1, 3, 8), torch.nan)], 1), Layout.from_lengths([6], 9))
    for name, value in mixer.quantiser.state_dict().items():
        assert torch.allclose(padded.quantiser.state_dict()[name], value, atol=1e-6), name


def test_gradients_reach_every_projection_in_training_and_autocast() -> None:
    mixer = CodebookAttention(8, heads=2, codes=4, code_dim=6)
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            mixer(torch.randn(2, 6, 8)).square().sum().backward()
        for name, parameter in mixer.named_parameters():
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name
        mixer.zero_grad()
    assert {name for name, _ in mixer.named_parameters()} == {
        f"{name}.weight" for name in ("code_proj", "q_proj", "k_proj", "v_proj", "o_proj")
    }


def test_published_options() -> None:
    mixer = CodebookAttention(8, heads=2, codes=64, init="normal", restart=None)
    x = torch.randn(1, 6, 8)
    assert (mixer(x) == 0).all()  # nothing has been assigned yet
    assert mixer.quantiser.code.norm(dim=1).max() > 1e3
    assert mixer(x).abs().max() > 0
    assert CodebookAttention(8, heads=2, codes=64)(x).abs().max() > 0


def test_takes_an_attention() -> None:
    shape = AttentionShape(dim=8, heads=2, kv_heads=1, head_dim=4, causal=True)
    weights = AttentionWeights(
        q=torch.randn(8, 8), k=torch.randn(4, 8), v=torch.randn(4, 8), o=torch.randn(8, 8), shape=shape
    )
    mixer = CodebookAttention(8, codes=4, **CodebookAttention.options_like(shape))
    assert mixer.take_attention(weights) == ("q", "k", "v", "o")
    assert torch.equal(mixer.k_proj.weight, weights.k.repeat(2, 1))
    assert torch.equal(mixer.o_proj.weight, weights.o)
    assert CodebookAttention(8, heads=2, codes=4, code_dim=8).take_attention(weights) == ()
    assert CodebookAttention(8, heads=4, codes=4).take_attention(weights) == ()


def test_reset_forgets() -> None:
    mixer = CodebookAttention(8, heads=2, codes=4)
    mixer(torch.randn(2, 6, 8) + 9)
    mixer.reset_parameters()
    assert not mixer.quantiser.initialised
    assert (mixer.quantiser.mean == 0).all()
    assert (mixer.quantiser.counts == 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "heads: expected a divisor of dim=8, found 3"),
        ({"codes": 0}, "codes: expected a positive integer, found 0"),
        ({"code_dim": 0}, "code_dim: expected a positive integer, found 0"),
        ({"init": "zeros"}, "init: expected 'first_batch' or 'normal', found 'zeros'"),
    ],
)
def test_mistakes_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodebookAttention(8, **{"heads": 2, **options})


# ---------------------------------------------------------------------- codes of nodes


@pytest.mark.parametrize("random_start", [False, True])
def test_counts_of_nodes_equal_bincount(random_start: bool) -> None:
    nodes = NodeCodes(30, 7, random_start=random_start)
    assert nodes.counts().sum() == (30 if random_start else 0)
    expected = nodes.codes.tolist()
    for _ in range(20):
        ids = torch.randint(30, (12,))  # with repetitions
        codes = torch.randint(-1, 7, (12,))
        nodes.set(ids, codes)
        for i, code in zip(ids.tolist(), codes.tolist(), strict=True):
            expected[i] = code
        assert nodes.codes.tolist() == expected
        known = nodes.codes[nodes.codes >= 0]
        assert torch.equal(nodes.counts(), known.long().bincount(minlength=7))
    before = nodes.codes.clone()
    nodes.set(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert torch.equal(nodes.codes, before)


def test_node_codes_are_saved_and_reset_and_made_without_memory() -> None:
    nodes, fresh = NodeCodes(9, 3), NodeCodes(9, 3)
    nodes.set(torch.arange(9), torch.arange(9) % 3)
    fresh.load_state_dict(nodes.state_dict())
    fresh.set(torch.tensor([0]), torch.tensor([2]))
    assert fresh.counts().tolist() == [2, 3, 4]
    counts = nodes.counts()
    counts.zero_()  # a copy
    assert nodes.counts().tolist() == [3, 3, 3]
    nodes.reset_parameters()
    assert nodes.counts().tolist() == [0, 0, 0]
    assert (nodes.codes == -1).all()
    with torch.device("meta"):
        assert NodeCodes(10**9, 3, random_start=True).codes.is_meta


@pytest.mark.parametrize(
    ("ids", "codes", "error", "message"),
    [
        ([9], [0], ValueError, "ids: expected numbers from 0 to 8, found 9"),
        ([-1], [0], ValueError, "ids: expected numbers from 0 to 8, found -1"),
        ([0], [3], ValueError, "codes: expected numbers from -1 to 2, found 3"),
        ([0], [-2], ValueError, "codes: expected numbers from -1 to 2, found -2"),
        ([0, 1], [0], ValueError, r"codes: expected as many as ids, found \(1,\) and \(2,\)"),
        ([[0]], [0], ValueError, r"ids: expected shape \(n,\), found \(1, 1\)"),
        ([0.5], [0], TypeError, r"ids: expected integers, found torch\.float32"),
    ],
)
def test_wrong_nodes_are_refused(ids: list[int], codes: list[int], error: type[Exception], message: str) -> None:
    nodes = NodeCodes(9, 3)
    with pytest.raises(error, match=message):
        nodes.set(torch.tensor(ids), torch.tensor(codes))
    assert (nodes.codes == -1).all()
