"""MixerState: fixed, recent and growing tensors, counting, reorder, crop and their refusals."""

from __future__ import annotations

import pytest
import torch

from tokenmix import Layout, MixerState
from tokenmix.state import chunk_places, document_starts


def segments(*rows: list[int]) -> Layout:
    return Layout(segments=torch.tensor(rows))


def test_batch_size_is_checked() -> None:
    with pytest.raises(ValueError, match="batch_size: expected at least 1, found 0"):
        MixerState(0)


def test_put_writes_in_place_unless_gradients_flow() -> None:
    state = MixerState(1)
    first = torch.zeros(1, 2)
    state.put("h", first)
    with torch.no_grad():
        state.put("h", torch.ones(1, 2))
    assert state.get("h") is first
    assert first.tolist() == [[1, 1]]
    with_gradient = torch.ones(1, 2, requires_grad=True)
    state.put("h", 2 * with_gradient)
    state.get("h").sum().backward()
    assert with_gradient.grad.tolist() == [[2, 2]]
    state.detach()
    assert not state.get("h").requires_grad


def test_roll_keeps_the_last_real_tokens() -> None:
    state = MixerState(2)
    state.put("v", torch.zeros(2, 3, 1))
    values = torch.arange(1.0, 9.0).reshape(2, 4, 1)
    state.roll("v", values, torch.tensor([4, 1]))
    assert state.get("v")[..., 0].tolist() == [[2, 3, 4], [0, 0, 5]]
    state.roll("v", 10 * values[:, :1], torch.tensor([0, 1]))
    assert state.get("v")[..., 0].tolist() == [[2, 3, 4], [0, 5, 50]]
    state.roll("v", 100 * values[:, :1])
    assert state.get("v")[..., 0].tolist() == [[3, 4, 100], [5, 50, 500]]


def test_recent_hides_earlier_documents() -> None:
    state = MixerState(1)
    state.put("v", torch.zeros(1, 3, 1))
    layout = segments([0, 0, 1])
    state.roll("v", torch.tensor([[[1.0], [2.0], [3.0]]]))
    state.advance(3, layout)
    assert state.recent("v").flatten().tolist() == [0, 0, 3]
    assert state.recent_mask(3).tolist() == [[False, False, True]]


def test_append_right_after_uneven_chunks() -> None:
    state = MixerState(2)
    state.grow("k", heads=1, width=1, dtype=torch.float32)
    lengths = Layout.from_lengths([3, 1])
    kept = state.append("k", torch.tensor([[[[1.0], [2.0], [3.0]]], [[[4.0], [0.0], [0.0]]]]))
    assert kept.shape == (2, 1, 3, 1)
    state.advance(3, lengths)
    assert not state.uniform
    assert state.seen.tolist() == [3, 1]
    kept = state.append("k", torch.tensor([[[[5.0]]], [[[6.0]]]]))
    assert kept[0, 0, :4, 0].tolist() == [1, 2, 3, 5]
    assert kept[1, 0, :2, 0].tolist() == [4, 6]
    state.advance(1, Layout())
    assert state.nbytes == 4 * 2 * 4


def test_append_with_gradients_equals_without() -> None:
    torch.manual_seed(0)
    chunks = torch.randn(3, 2, 1, 4, 2)
    plain, trained = MixerState(2), MixerState(2)
    for state in (plain, trained):
        state.grow("k", 1, 2, torch.float32)
    leaf = chunks.clone().requires_grad_()
    for i in range(3):
        expected, found = plain.append("k", chunks[i]), trained.append("k", leaf[i])
        plain.advance(4, Layout())
        trained.advance(4, Layout())
        assert torch.equal(found, expected)
    found.sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(leaf))


def test_advance_counts_documents() -> None:
    state = MixerState(2)
    state.advance(4, segments([0, 0, 1, 1], [0, 0, 0, 0]))
    assert state.seen.tolist() == [4, 4]
    assert state.place.tolist() == [2, 4]
    assert state.segment.tolist() == [1, 0]
    layout = Layout(mask=torch.tensor([[True, False], [False, False]]), segments=torch.tensor([[1, 0], [3, 3]]))
    assert state.starts(layout).tolist() == [[False, False], [False, False]]
    state.advance(2, layout)
    assert state.seen.tolist() == [5, 4]
    assert state.place.tolist() == [3, 4]
    assert state.segment.tolist() == [1, 0]


def test_starts_and_places_across_a_border() -> None:
    state = MixerState(2)
    state.advance(2, segments([0, 0], [0, 1]))
    layout = segments([0, 2, 2], [2, 2, 3])
    assert state.starts(layout).tolist() == [[False, True, False], [True, False, True]]
    assert chunk_places(3, layout, state).tolist() == [[2, 0, 1], [0, 1, 0]]
    assert chunk_places(3, Layout(), state).tolist() == [[2, 3, 4], [1, 2, 3]]
    assert state.starts(Layout()) is None


def test_places_without_a_state() -> None:
    assert chunk_places(3, Layout(), None).tolist() == [[0, 1, 2]]
    assert chunk_places(3, segments([4, 5, 5]), None).tolist() == [[0, 0, 1]]
    assert document_starts(Layout()) is None
    assert document_starts(segments([4, 4, 7])).tolist() == [[True, False, True]]


def test_reorder_keeps_every_tensor_in_step() -> None:
    state = MixerState(3)
    state.put("h", torch.arange(3.0)[:, None])
    state.grow("k", 1, 1, torch.float32)
    state.append("k", torch.arange(6.0).reshape(3, 1, 2, 1))
    state.advance(2, Layout.from_lengths([2, 1, 1]))
    state.reorder(torch.tensor([1, 2, 2, 1]))
    assert state.batch_size == 4
    assert state.get("h").flatten().tolist() == [1, 2, 2, 1]
    assert state.seen.tolist() == [1, 1, 1, 1]
    assert state.length == 1  # the longest row is gone
    assert state.uniform
    kept = state.append("k", torch.tensor([7.0, 8.0, 9.0, 10.0]).reshape(4, 1, 1, 1))
    assert kept[:, 0, :, 0].tolist() == [[2, 7], [4, 8], [4, 9], [2, 10]]


def test_crop_of_growing_tensors() -> None:
    state = MixerState(2)
    state.grow("k", 1, 1, torch.float32)
    state.append("k", torch.arange(6.0).reshape(2, 1, 3, 1))
    state.advance(3, Layout.from_lengths([3, 1]))
    state.crop(5)
    assert state.seen.tolist() == [3, 1]
    state.crop(2)
    assert state.seen.tolist() == [2, 1]
    assert state.place.tolist() == [2, 1]
    assert state.nbytes == 4 * 2 * 2
    kept = state.append("k", torch.tensor([8.0, 9.0]).reshape(2, 1, 1, 1))
    assert kept[0, 0, :, 0].tolist() == [0, 1, 8]
    assert kept[1, 0, :2, 0].tolist() == [3, 9]


def test_crop_refuses() -> None:
    state = MixerState(1)
    state.put("h", torch.zeros(1, 2))
    state.advance(3, Layout())
    with pytest.raises(ValueError, match="length: expected an integer of at least 0, found -1"):
        state.crop(-1)
    message = r"crop\(length=1\): this state has seen 3 tokens and cannot go back, since \['h'\] keep a summary"
    with pytest.raises(ValueError, match=message):
        state.crop(1)
    packed = MixerState(1)
    packed.grow("k", 1, 1, torch.float32)
    packed.append("k", torch.zeros(1, 1, 3, 1))
    packed.advance(3, segments([0, 0, 1]))
    with pytest.raises(ValueError, match=r"crop\(length=1\): the cut lies before the current document of a row"):
        packed.crop(1)
    assert packed.seen.tolist() == [3]


def test_crop_counts_from_the_first_token_of_the_row() -> None:
    state = MixerState(1)
    state.grow("k", 1, 1, torch.float32)
    state.append("k", torch.zeros(1, 1, 4, 1))
    state.advance(4, segments([0, 1, 1, 1]))
    state.crop(3)
    assert state.place.tolist() == [2]
