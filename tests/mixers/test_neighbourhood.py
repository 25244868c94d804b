"""Neighbourhood attention: which edges are read, against a loop, and the laws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tokenmix import Layout, build_mixer
from tokenmix.attention_weights import AttentionShape, AttentionWeights
from tokenmix.laws import LawBroken, check_mixer
from tokenmix.mixers import Attention, NeighbourhoodAttention


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "options", [{}, {"self_loops": False}, {"edge_dim": 4, "bias": True}], ids=["loops", "bare", "edge_attr"]
)
def test_laws(options: dict[str, object]) -> None:
    # storage (law 10) compiles, which takes long: tests/test_laws.py has it
    check_mixer({"mixer": "neighbourhood_attention", "heads": 4, **options}, laws=range(1, 10), print_table=False)


def naive(mixer: NeighbourhoodAttention, x: Tensor, edges: list[tuple[int, int]], attr: Tensor | None) -> Tensor:
    """Loops over tokens, heads and edges (sender, receiver), which are exactly those to read."""
    q, k, v = mixer.q_proj(x), mixer.k_proj(x), mixer.v_proj(x)
    width, rows = mixer.head_dim, []
    for i in range(len(x)):
        heads = []
        for h in range(mixer.heads):
            part = slice(h * width, (h + 1) * width)
            incoming = [(e, j) for e, (j, r) in enumerate(edges) if r == i]
            if not incoming:
                heads.append(x.new_zeros(width))
                continue
            scores = [q[i, part] @ k[j, part] / math.sqrt(width) for _, j in incoming]
            if attr is not None:
                scores = [s + mixer.edge_proj.weight[h] @ attr[e] for s, (e, _) in zip(scores, incoming, strict=True)]
            weights = torch.stack(scores).softmax(0)
            heads.append(sum(w * v[j, part] for w, (_, j) in zip(weights, incoming, strict=True)))
        rows.append(torch.cat(heads))
    return mixer.o_proj(torch.stack(rows))


EDGES = [(0, 1), (2, 1), (2, 1), (3, 0), (4, 4), (1, 3)]  # one twice, a self loop, and token 5 alone


@pytest.mark.parametrize("self_loops", [False, True])
@pytest.mark.parametrize("with_attr", [False, True])
def test_equals_a_loop(self_loops: bool, with_attr: bool) -> None:
    mixer = NeighbourhoodAttention(8, heads=2, self_loops=self_loops, edge_dim=3 if with_attr else None).double()
    x, attr = torch.randn(6, 8, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    layout = Layout(edges=torch.tensor(EDGES).T, edge_attr=attr if with_attr else None)
    read, read_attr = list(EDGES), attr
    if self_loops:
        lacking = [(i, i) for i in range(6) if (i, i) not in EDGES]
        read, read_attr = read + lacking, torch.cat([attr, attr.new_zeros(len(lacking), 3)])
    expected = naive(mixer, x, read, read_attr if with_attr else None)
    found = mixer(x[None], layout)[0]
    assert torch.allclose(found, expected, atol=1e-12)
    assert bool((found[5] == 0).all()) != self_loops


def test_edges_to_padding_other_rows_and_other_segments_are_not_read() -> None:
    mixer = NeighbourhoodAttention(8, heads=2).eval()
    x = torch.randn(2, 4, 8)
    mask = torch.tensor([[True, True, True, False], [True] * 4])
    segments = torch.tensor([[0, 0, 0, 0], [1, 1, 2, 2]])
    inside = torch.tensor([[0, 6, 4], [1, 7, 5]])
    across = torch.tensor([[3, 0, 4, 5, 7], [0, 3, 0, 6, 4]])  # from and to padding; rows; segments
    plain = mixer(x, Layout(mask=mask, segments=segments, edges=inside))
    both = mixer(x, Layout(mask=mask, segments=segments, edges=torch.cat([across, inside], dim=1)))
    assert torch.equal(both, plain)
    without_fields = mixer(x, Layout(edges=torch.cat([across, inside], dim=1)))
    assert not torch.allclose(without_fields[1], plain[1])  # those edges do matter where nothing forbids them
    assert (plain[0, 3] == 0).all()


def test_complete_graph_is_attention() -> None:
    attention = Attention(16, heads=4, causal=False, kv_heads=2, bias=True)
    made = NeighbourhoodAttention(16, heads=4, bias=True)
    names = ("q", "k", "v", "o")
    weights = {n: getattr(attention, f"{n}_proj").weight for n in names}
    biases = {f"{n}_bias": getattr(attention, f"{n}_proj").bias for n in names}
    shape = AttentionShape(dim=16, heads=4, kv_heads=2, head_dim=4, causal=False, bias=True)
    assert made.take_attention(AttentionWeights(**weights, **biases, shape=shape)) == names
    x = torch.randn(2, 5, 16)
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
    layout = Layout(edges=torch.cat([pairs, pairs + 5], dim=1))
    assert torch.allclose(made(x, layout), attention(x), atol=1e-6)
    assert NeighbourhoodAttention(16, heads=2).take_attention(AttentionWeights(**weights, shape=shape)) == ()
    assert NeighbourhoodAttention.options_like(shape) == {"heads": 4, "head_dim": 4, "bias": True}


def test_reach_of_several_rows_and_of_a_single_sender() -> None:
    layout = Layout(edges=torch.tensor([[0, 3, 5, 3], [1, 4, 4, 5]]))
    reach = NeighbourhoodAttention(8, heads=2, self_loops=False).reach(layout, 3)
    expected = torch.zeros(2, 3, 3, dtype=torch.bool)
    expected[0, 1, 0] = True  # a single sender: whatever token 1 asks, the weight is 1
    expected[1, 1, 0] = expected[1, 1, 2] = expected[1, 1, 1] = True
    expected[1, 2, 0] = True
    assert torch.equal(reach, expected)


class ReadsBackwards(NeighbourhoodAttention):
    """The planted fault: senders read receivers."""

    def mix(self, x: Tensor, layout: Layout, state: None) -> Tensor:
        return super().mix(x, Layout(mask=layout.mask, segments=layout.segments, edges=layout.edges.flip(0)), state)


def test_the_law_of_reach_sees_the_direction_of_edges() -> None:
    with pytest.raises(LawBroken, match=r"law 6 \(reach\)"):
        check_mixer(ReadsBackwards(16, heads=2), laws=[6], print_table=False)


def test_no_edges_at_all() -> None:
    none, x = torch.zeros(2, 0, dtype=torch.int64), torch.randn(1, 3, 8)
    mixer = NeighbourhoodAttention(8, heads=2)
    alone = mixer.o_proj(mixer.v_proj(x))
    assert torch.allclose(mixer(x, Layout(edges=none)), alone, atol=1e-6)
    bare = NeighbourhoodAttention(8, heads=2, self_loops=False)
    assert (bare(x, Layout(edges=none)) == 0).all()
    assert bare.reach(Layout(edges=none), 3).sum() == 0


def test_the_layout_is_read_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenmix.mixers import neighbourhood

    calls = []
    original = neighbourhood.read_edges
    monkeypatch.setattr(neighbourhood, "read_edges", lambda *given: calls.append(1) or original(*given))
    layout, x = Layout(edges=torch.tensor([[0], [1]])), torch.randn(1, 3, 8)
    for _ in range(3):
        x = build_mixer({"mixer": "neighbourhood_attention", "heads": 2}, 8)(x, layout)
    assert len(calls) == 1


def test_mistakes_are_named() -> None:
    x = torch.randn(1, 3, 8)
    with pytest.raises(ValueError, match="NeighbourhoodAttention needs edges"):
        NeighbourhoodAttention(8, heads=2)(x)
    with pytest.raises(ValueError, match=r"Layout.edges: expected indices from 0 to 2, found 0 to 3"):
        NeighbourhoodAttention(8, heads=2)(x, Layout(edges=torch.tensor([[0], [3]])))
    edges = torch.tensor([[0], [1]])
    with pytest.raises(ValueError, match="NeighbourhoodAttention needs edge_attr"):
        NeighbourhoodAttention(8, heads=2, edge_dim=3)(x, Layout(edges=edges))
    with pytest.raises(ValueError, match="edge_attr: expected width edge_dim=3, found 2"):
        NeighbourhoodAttention(8, heads=2, edge_dim=3)(x, Layout(edges=edges, edge_attr=torch.zeros(1, 2)))
    with pytest.raises(ValueError, match="heads: expected a divisor of dim=8, found 3"):
        NeighbourhoodAttention(8, heads=3)
    with pytest.raises(TypeError, match="self_loops: expected True or False, found 1"):
        NeighbourhoodAttention(8, heads=2, self_loops=1)
