"""Layout: constructors, order, permutation, and every refusal with what was expected and found."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tokenmix import Layout
from tokenmix.layout import put_tokens, take_tokens


def test_from_lengths() -> None:
    assert Layout.from_lengths([2, 0, 3]).mask.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert Layout.from_lengths(torch.tensor([1]), length=2).mask.tolist() == [[True, False]]


def test_from_padding_mask() -> None:
    mask = torch.tensor([[0, 1, 1]])
    for given in (mask, mask.float(), mask.bool(), mask.to(torch.int32)):
        assert Layout.from_padding_mask(given).mask.tolist() == [[False, True, True]]


def test_from_cu_seqlens() -> None:
    layout = Layout.from_cu_seqlens(torch.tensor([0, 1, 4], dtype=torch.int32))
    assert layout.segments.tolist() == [[0, 1, 1, 1]]
    assert layout.fields() == ("segments",)


def test_from_pyg() -> None:
    edges = torch.tensor([[0, 1], [1, 2]])
    data = SimpleNamespace(
        num_nodes=3,
        edge_index=edges,
        edge_attr=torch.ones(2),
        pos=torch.zeros(3, 2),
        normal=torch.ones(3, 3),
        batch=torch.tensor([0, 0, 1]),
    )
    layout = Layout.from_pyg(data)
    layout.validate(1, 3)
    assert layout.fields() == ("segments", "coords", "normals", "edges", "edge_attr")
    assert layout.edge_attr.shape == (2, 1)
    assert layout.segments.tolist() == [[0, 0, 1]]
    assert Layout.from_pyg(SimpleNamespace(num_nodes=3)).fields() == ()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Layout.from_lengths([[1]]), ValueError, r"lengths: expected one integer a row, found shape \(1, 1\)"),
        (lambda: Layout.from_lengths([1.5]), ValueError, "lengths: expected one integer a row, found .*float32"),
        (lambda: Layout.from_lengths([3], 2), ValueError, r"lengths: expected values from 0 to 2, found \[3\]"),
        (lambda: Layout.from_lengths([2, -1]), ValueError, r"lengths: expected values from 0 to 2, found \[2, -1\]"),
        (
            lambda: Layout.from_padding_mask(torch.ones(3)),
            ValueError,
            r"attention_mask: expected shape \(B, L\), found \(3,\)",
        ),
        (
            lambda: Layout.from_padding_mask(torch.tensor([[0.0, -1e9]])),
            ValueError,
            r"attention_mask: expected only 0 \(padding\) and 1 \(real\), found values from -1000000000.0 to 0.0",
        ),
        (
            lambda: Layout.from_cu_seqlens(torch.tensor([0])),
            ValueError,
            r"cu_seqlens: expected 1-D integers, at least \[0, L\], found shape \(1,\) of torch.int64",
        ),
        (lambda: Layout.from_cu_seqlens(torch.tensor([0.0, 2.0])), ValueError, "cu_seqlens: .* of torch.float32"),
        (
            lambda: Layout.from_cu_seqlens(torch.tensor([0, 2, 2])),
            ValueError,
            r"cu_seqlens: expected increasing integers from 0, found \[0, 2, 2\]",
        ),
        (lambda: Layout.from_cu_seqlens(torch.tensor([1, 2])), ValueError, r"integers from 0, found \[1, 2\]"),
        (lambda: Layout.from_pyg(3), TypeError, "data: expected a torch_geometric Data or Batch, found int"),
    ],
)
def test_constructors_refuse(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


WHOLE = torch.zeros(2, 6, dtype=torch.int64)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"mask": WHOLE}, TypeError, r"Layout.mask: expected bool \(see Layout.from_padding_mask .*found torch.int64"),
        ({"mask": WHOLE[:1].bool()}, ValueError, r"Layout.mask: expected shape \(2, 6\), found \(1, 6\)"),
        ({"mask": [[True] * 6] * 2}, TypeError, "Layout.mask: expected a tensor, found list"),
        ({"mask": WHOLE.bool().to("meta")}, ValueError, r"Layout.mask: expected device cpu .*found meta"),
        ({"segments": WHOLE.float()}, TypeError, "Layout.segments: expected integers, found torch.float32"),
        ({"segments": WHOLE[:, :5]}, ValueError, r"Layout.segments: expected shape \(2, 6\), found \(2, 5\)"),
        ({"positions": WHOLE[0]}, ValueError, r"Layout.positions: expected shape \(2, 6\), found \(6,\)"),
        ({"modality": WHOLE.bool()}, TypeError, "Layout.modality: expected integers, found torch.bool"),
        ({"coords": torch.zeros(2, 6)}, ValueError, r"Layout.coords: expected shape \(2, 6, k\), found \(2, 6\)"),
        ({"coords": WHOLE[..., None]}, TypeError, "Layout.coords: expected floats, found torch.int64"),
        (
            {"normals": torch.zeros(2, 6, 2)},
            ValueError,
            r"Layout.normals: expected shape \(2, 6, 3\), found \(2, 6, 2\)",
        ),
        (
            {"grid": (2, 2)},
            ValueError,
            r"Layout.grid: expected axes whose product is 6 tokens, found \(2, 2\) \(4\)",
        ),
        (
            {"grid": (1, 1, 2, 3)},
            ValueError,
            r"Layout.grid: expected 1 to 3 positive integers, found \(1, 1, 2, 3\)",
        ),
        ({"grid": (-2, -3)}, ValueError, r"Layout.grid: expected 1 to 3 positive integers, found \(-2, -3\)"),
        ({"edges": WHOLE[:, :0].T}, ValueError, r"Layout.edges: expected shape \(2, E\), found \(0, 2\)"),
        ({"edges": torch.zeros(2, 3)}, TypeError, "Layout.edges: expected integers, found torch.float32"),
        ({"edges": WHOLE + 12}, ValueError, "Layout.edges: expected indices from 0 to 11, found 12 to 12"),
        ({"edges": WHOLE - 1}, ValueError, "Layout.edges: expected indices from 0 to 11, found -1 to -1"),
        (
            {"edges": WHOLE, "edge_attr": torch.zeros(5, 2)},
            ValueError,
            r"Layout.edge_attr: expected shape \(6, k\), found \(5, 2\)",
        ),
        ({"edge_attr": torch.zeros(5, 2)}, ValueError, "Layout.edge_attr: expected together with edges"),
    ],
)
def test_validate_refuses(fields: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Layout(**fields).validate(2, 6, torch.device("cpu"))


def test_validate_accepts_everything_at_once() -> None:
    Layout(
        mask=WHOLE.bool(),
        segments=WHOLE,
        positions=WHOLE.int(),
        grid=(2, 3),
        coords=torch.zeros(2, 6, 2),
        normals=torch.zeros(2, 6, 3),
        edges=torch.tensor([[0, 11], [11, 0]]),
        edge_attr=torch.zeros(2, 4),
        modality=WHOLE,
    ).validate(2, 6, torch.device("cpu"))


def test_aligned_brings_documents_to_the_front() -> None:
    layout = Layout(
        mask=torch.tensor([[False, True, True, False, True]]),
        segments=torch.tensor([[9, 1, 0, 0, 1]]),
        coords=torch.arange(5.0)[None, :, None],
        grid=(5,),
    )
    aligned, order = layout.aligned()
    assert order.tolist() == [[2, 1, 4, 0, 3]]
    assert aligned.mask.tolist() == [[True, True, True, False, False]]
    assert aligned.segments.tolist() == [[0, 1, 1, 9, 0]]
    assert aligned.coords.flatten().tolist() == [2, 1, 4, 0, 3]
    assert aligned.grid is None
    assert aligned.aligned().order is None
    assert dataclasses.replace(aligned, mask=layout.mask).aligned().order is not None
    assert aligned.aligned() == (aligned, None)


def test_aligned_leaves_a_plain_sequence_alone() -> None:
    layout = Layout(grid=(2, 3))
    assert layout.aligned() == (layout, None)


def test_permuted_carries_edges_along() -> None:
    torch.manual_seed(0)
    x, edges = torch.randn(2, 4, 1), torch.tensor([[0, 3, 5, 7], [1, 0, 6, 4]])
    order = torch.stack([torch.randperm(4), torch.randperm(4)])
    moved = Layout(edges=edges).permuted(order).edges
    before, after = x.flatten()[edges], take_tokens(x, order).flatten()[moved]
    assert torch.equal(before, after)


def test_put_undoes_take() -> None:
    torch.manual_seed(0)
    values = torch.randn(2, 5, 3, 2)
    order = torch.stack([torch.randperm(5), torch.randperm(5)])
    taken = take_tokens(values, order)
    assert torch.equal(taken[1, 0], values[1, order[1, 0]])
    assert torch.equal(put_tokens(taken, order), values)


def test_counts_and_to() -> None:
    layout = Layout.from_lengths([2, 3])
    assert layout.counts().tolist() == [2, 3]
    assert Layout().counts() is None
    assert layout.to("meta").mask.device.type == "meta"
    assert Layout(grid=(2,)).to("meta").grid == (2,)
