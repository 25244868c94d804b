"""Groups of tokens and the combinator over them: places, shifts, and causality on any layout."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tokenmix.blocks import Stack
from tokenmix.cross_attention import CrossAttention
from tokenmix.gather_scatter import GatherProcessScatter, shift_groups
from tokenmix.groups import TokenGroups, group_tokens
from tokenmix.layout import Layout
from tokenmix.mixers import Attention


def by_hand(row: list[tuple[int, int]], size: int) -> list[list[int]]:
    """Groups of (document, token) pairs: each document begins a group, and has place for one more token."""
    groups: list[list[int]] = []
    for document in dict.fromkeys(d for d, _ in row):
        found = [t for d, t in row if d == document]
        for start in range(0, len(found) + 1, size):
            part = found[start : start + size]
            groups.append(part + [0] * (size - len(part)))
    return groups


@pytest.mark.parametrize("size", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("seed", range(6))
def test_random_rows_equal_groups_by_hand(size: int, seed: int) -> None:
    """Padding anywhere, documents of any length, tokens of a document in one piece or several."""
    generator = torch.Generator().manual_seed(seed)
    length = int(torch.randint(1, 14, (), generator=generator))
    values = torch.randint(1, 99, (3, length), generator=generator)
    mask = torch.rand(3, length, generator=generator) < 0.7
    mask[:, 0] = True
    segments = torch.randint(0, 3, (3, length), generator=generator)
    if seed % 2:
        segments = segments.sort(1).values
    layout = Layout(mask=mask if seed % 3 else None, segments=segments)
    groups = group_tokens(layout, 3, length, size)
    grid = groups.spread(values)
    for row in range(3):
        real = [i for i in range(length) if layout.mask is None or mask[row, i]]
        pairs = sorted(((int(segments[row, i]), i) for i in real), key=lambda pair: pair[0])
        expected = by_hand([(d, int(values[row, i])) for d, i in pairs], size)
        assert grid[row, : len(expected)].tolist() == expected
        assert not grid[row, len(expected) :].any()
        used = groups.count if groups.layout.mask is None else int(groups.layout.mask[row].sum())
        assert used == len(expected)
    back = groups.collect(grid)
    assert torch.equal(back, values if layout.mask is None else values * mask)


def test_collect_ahead_is_the_place_behind() -> None:
    groups = group_tokens(Layout(segments=torch.tensor([[0, 0, 0, 0, 1, 1]])), 1, 6, 2)
    places = torch.arange(1, groups.count * 2 + 1).view(1, groups.count, 2)
    assert groups.collect(places).tolist() == [[1, 2, 3, 4, 7, 8]]
    assert groups.collect(places, ahead=1).tolist() == [[2, 3, 4, 5, 8, 9]]
    plain = group_tokens(Layout(), 1, 4, 2)
    assert plain.places is None
    assert plain.collect(torch.arange(1, 7).view(1, 3, 2), ahead=1).tolist() == [[2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([[0, 1, 3]], r"go up by one within a document .*, found \[1, 3\] in row 0"),
        ([[-1, 0, 1]], "places from 0 on, found -1"),
    ],
)
def test_refused_positions(positions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_tokens(Layout(positions=torch.tensor(positions)), 1, 3, 2)
    with pytest.raises(ValueError, match="size: expected a positive integer, found 0"):
        group_tokens(Layout(), 1, 3, 0)


def test_shift_over_documents() -> None:
    slots = torch.arange(1.0, 7).view(1, 6, 1)
    layout = Layout(segments=torch.tensor([[0, 0, 0, 5, 5, 7]]))
    assert shift_groups(slots, 2, layout).flatten().tolist() == [0, 0, 1, 0, 0, 0]
    assert shift_groups(slots, 1, Layout()).flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert shift_groups(slots, 0, layout) is slots


class Sum(nn.Module):
    """Each group's sum, in two slots."""

    def forward(self, x: Tensor, slots: Tensor | None) -> Tensor:
        total = x.sum(2)
        return torch.stack([total, 2 * total], dim=2)


class Read(nn.Module):
    """A token, and what it may read of slots."""

    def forward(self, x: Tensor, slots: Tensor) -> Tensor:
        return x + slots.sum(2, keepdim=True)


@pytest.mark.parametrize("mixer", ["attention", "mamba2", "gam"])
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_one_property_for_all_that_is_built_on_it(mixer: str, shift: int) -> None:
    """Token t reaches itself and the tokens of groups at least `shift` later, whatever the causal process."""
    torch.manual_seed(0)
    described: dict[str, Any] = {"mixer": mixer}
    described |= {
        "attention": {"heads": 2, "group": 2},
        "mamba2": {"head_dim": 4, "state_size": 4},
        "gam": {"slots": 8, "kernel": 8},
    }[mixer]
    process = Stack(8, {"x": described}, "x", feed_forward=None)
    module = GatherProcessScatter(Sum(), process, Read(), shift=shift).double()
    x = torch.randn(1, 4, 3, 8, dtype=torch.float64)
    with torch.no_grad():
        before = module(x).tokens.flatten(1, 2)[0]
        for changed in range(12):
            other = x.clone()
            other[0, changed // 3, changed % 3] += 1.0
            differs = (module(other).tokens.flatten(1, 2)[0] != before).any(-1)
            reached = [t == changed or t // 3 >= changed // 3 + shift for t in range(12)]
            assert differs.tolist() == reached, changed


def test_slots_of_a_masked_group_are_not_read() -> None:
    torch.manual_seed(0)
    process = Stack(8, {"a": {"mixer": "attention", "heads": 2, "causal": False}}, "a", feed_forward=None)
    module = GatherProcessScatter(Sum(), process, Read())
    x = torch.randn(2, 3, 2, 8)
    layout = Layout(mask=torch.tensor([[True, True, True], [True, True, False]]))
    alone = module(x[1:, :2]).tokens
    torch.testing.assert_close(module(x, layout).tokens[1:, :2], alone, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(module(x).tokens[1:, :2], alone, atol=1e-3)


# ---------------------------------------------------------------------- what they are made of


def test_cross_attention_equals_its_equation() -> None:
    torch.manual_seed(0)
    cross = CrossAttention(12, 8, heads=2, bias=True).double()
    x, context = torch.randn(2, 5, 12).double(), torch.randn(2, 4, 8).double()
    mask = torch.tensor([[True, True, False, True], [False] * 4])
    found = cross(x, context, mask)
    q, k, v = cross.q_proj(x), cross.k_proj(context), cross.v_proj(context)
    for t in range(5):
        parts = []
        for head in (slice(0, 4), slice(4, 8)):
            scores = torch.stack([(q[0, t, head] * k[0, j, head]).sum() / 4**0.5 for j in (0, 1, 3)])
            weights = scores.exp() / scores.exp().sum()
            parts.append(sum(w * v[0, j, head] for w, j in zip(weights, (0, 1, 3), strict=True)))
        torch.testing.assert_close(found[0, t], cross.o_proj(torch.cat(parts)), atol=1e-12, rtol=1e-10)
    assert not found[1].any()  # a row without context
    with pytest.raises(ValueError, match="heads: expected a divisor of inner_dim=8, found 3"):
        CrossAttention(12, 8, heads=3)


@pytest.mark.parametrize("rope", [False, True])
def test_attention_causal_by_groups(rope: bool) -> None:
    """Equals a mask written out; packed, padded, and read in whole groups from a state; told by its reach."""
    torch.manual_seed(0)
    mixer = Attention(16, heads=4, kv_heads=2, group=3, rope=rope).double()
    x = torch.randn(2, 12, 16).double()
    y = mixer(x)
    reach = mixer.reach(Layout(), 12)[0]
    assert reach.tolist() == [[j // 3 <= i // 3 for j in range(12)] for i in range(12)]
    for i in range(12):
        other = x.clone()
        other[:, i] += 1
        assert (mixer(other)[0] != y[0]).any(-1).tolist() == reach[:, i].tolist()
    lengths = [9, 6]
    mask = torch.arange(12) >= 12 - torch.tensor(lengths)[:, None]
    padded = mixer(x, Layout(mask=mask))
    for i, n in enumerate(lengths):
        torch.testing.assert_close(padded[i, 12 - n :], mixer(x[i : i + 1, 12 - n :])[0])
    assert mixer.reach(Layout(mask=mask), 12)[1, 6].tolist() == [False] * 6 + [True] * 3 + [False] * 3
    packed = mixer(x, Layout(segments=torch.tensor([[0] * 5 + [1] * 7] * 2)))
    torch.testing.assert_close(packed, torch.cat([mixer(x[:, :5]), mixer(x[:, 5:])], dim=1))
    state = mixer.init_state(2)
    with torch.no_grad():
        chunks = torch.cat([mixer(part, state=state) for part in x.split([6, 3, 3], dim=1)], dim=1)
    torch.testing.assert_close(chunks, y.detach())
    with pytest.raises(ValueError, match=r"whole groups of 3 tokens, found 4 tokens a row"):
        mixer(x[:, :4], state=mixer.init_state(2))
    with pytest.raises(ValueError, match="group: expected 1 where causal=False or monitor=True, found 2"):
        Attention(16, heads=4, group=2, causal=False)


def test_groups_of_one_size_are_immutable() -> None:
    groups = group_tokens(Layout(), 1, 3, 2)
    assert isinstance(groups, TokenGroups)
    with pytest.raises(AttributeError):
        groups.size = 3  # type: ignore[misc]
