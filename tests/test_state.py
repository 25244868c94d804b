"""MixerState: fixed, recent and growing tensors, counting, reorder, crop and their refusals."""

from __future__ import annotations

import pytest
import torch

from tokenmix import Layout, MixerState
from tokenmix.counters import Counters
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


def read_ring(state: MixerState, name: str) -> list[list[float]]:
    """The tokens of each row, oldest first, by the slots that they should be in."""
    ring, size = state.get(name), state.get(name).shape[2]
    rows = zip(ring[:, 0, :, 0], state.seen.tolist(), strict=True)
    return [[float(row[token % size]) for token in range(max(0, seen - size), seen)] for row, seen in rows]


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("chunks", [[1] * 9, [2, 1, 6], [5, 1, 1, 2], [9]])
def test_rings_keep_the_last_tokens(chunks: list[int], gradients: bool) -> None:
    values = torch.arange(1.0, 19.0).reshape(2, 1, 9, 1)
    state, start = MixerState(2), 0
    state.ring("k", heads=1, size=4, width=1, dtype=torch.float32)
    with torch.set_grad_enabled(gradients):
        for length in chunks:
            state.overwrite("k", values[:, :, start : start + length])
            state.advance(length, Layout())
            start += length
            kept = [row[max(0, start - 4) : start].tolist() for row in values[:, 0, :, 0]]
            assert read_ring(state, "k") == kept
            assert state.in_order("k")[:, 0, :, 0].tolist() == [[0.0] * (3 - len(row[-3:])) + row[-3:] for row in kept]


def test_rings_of_rows_of_different_lengths() -> None:
    state = MixerState(2)
    state.ring("k", heads=1, size=3, width=1, dtype=torch.float32)
    first = torch.tensor([[1.0, 2, 3, 4, 5], [6, 7, 0, 0, 0]])[:, None, :, None]
    counts = torch.tensor([5, 2])
    state.overwrite("k", first, counts)
    state.advance(5, Layout.from_lengths(counts, 5))
    assert read_ring(state, "k") == [[3, 4, 5], [6, 7]]
    assert state.in_order("k")[:, 0, :, 0].tolist() == [[4, 5], [6, 7]]
    state.overwrite("k", torch.tensor([8.0, 9.0])[:, None, None, None])
    assert state.ages(3).tolist() == [[2, 1, 0], [2, 1, 0]]  # both are at slot 2
    state.advance(1, Layout())
    assert read_ring(state, "k") == [[4, 5, 8], [6, 7, 9]]
    state.overwrite("k", torch.tensor([[0.0], [10.0]])[:, None, :, None], torch.tensor([0, 1]))
    state.advance(1, Layout(mask=torch.tensor([[False], [True]])))
    assert read_ring(state, "k") == [[4, 5, 8], [7, 9, 10]]
    state.reorder(torch.tensor([1, 1, 0]))
    assert read_ring(state, "k") == [[7, 9, 10], [7, 9, 10], [4, 5, 8]]


def test_steps_write_in_place() -> None:
    """One token more moves nothing and allocates nothing, as long as there is room."""
    state = MixerState(2)
    state.grow("k", 1, 4, torch.float32)
    state.ring("r", 1, 3, 4, torch.float32)
    state.reserve(40)
    with torch.no_grad():
        places = set()
        for _ in range(40):
            grown = state.append("k", torch.ones(2, 1, 1, 4))
            ring = state.overwrite("r", torch.ones(2, 1, 1, 4))
            places.add((grown.data_ptr(), ring.data_ptr()))
            state.advance(1, Layout())
    assert len(places) == 1
    assert state.nbytes == 4 * 2 * 4 * (40 + 3)
    with pytest.raises(ValueError, match="length: expected an integer of at least 0, found -1"):
        state.reserve(-1)


def test_reserving_much_more_than_is_needed_is_put_off() -> None:
    state = MixerState(1)
    state.grow("k", 1, 1, torch.float32)
    state.reserve(10**12)
    with torch.no_grad():
        assert state.append("k", torch.ones(1, 1, 2, 1)).shape == (1, 1, 2, 1)
    assert state._growing["k"].shape[2] == 1024


def test_short_rows_hold_zeros_behind_their_tokens() -> None:
    """What is masked must still be a number."""
    state = MixerState(2)
    state.grow("k", 1, 1, torch.float32)
    state.reserve(8)
    with torch.no_grad():
        state.append("k", torch.ones(2, 1, 3, 1))
        state._growing["k"][:, :, 3:] = torch.nan  # what memory may hold
        state.advance(3, Layout.from_lengths([3, 1]))
        for _ in range(3):
            kept = state.append("k", torch.ones(2, 1, 1, 1))
            state.advance(1, Layout())
            assert not kept.isnan().any()


def test_layers_that_share_counters_count_once() -> None:
    first, second = MixerState(2), MixerState(2)
    second.counters = first.counters
    layout = Layout.from_lengths([3, 1])
    assert chunk_places(3, layout, first) is chunk_places(3, layout, second)
    for state in (first, second):
        state.advance(3, layout)
    assert first.counters is second.counters
    assert first.seen.tolist() == [3, 1]
    assert (first.length, first.counters.shortest, first.uniform) == (3, 1, False)
    first.advance(1, layout := Layout())
    other = MixerState(2)  # the same layout, but other counters
    other.advance(1, layout)
    assert other.seen.tolist() == [1, 1]
    assert second.seen.tolist() == [3, 1]


def test_counters_never_change() -> None:
    before = Counters.start(1)
    layout = Layout(segments=torch.tensor([[4, 5]]))
    after = before.after(2, layout)
    assert (before.seen.tolist(), before.packed) == ([0], False)
    assert (after.seen.tolist(), after.place.tolist(), after.segment.tolist()) == ([2], [1], [5])
    assert after.packed
    assert after.shortest == 0


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
