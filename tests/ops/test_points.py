"""Nearest neighbours and farthest points: both paths against loops in float64."""

import math

import pytest
import torch

from tokenmix import kernels
from tokenmix.ops import native_points, points
from tokenmix.ops.attend import attend
from tokenmix.ops.points import farthest_points, nearest_neighbours
from tokenmix.ops.sources import Neighbours


def distance(a, b):
    total = (a[0] - b[0]) ** 2
    for x, y in zip(a[1:], b[1:], strict=True):
        total += (x - y) ** 2
    return total


def by_hand(coords, count, mask=None, query=None, include_self=True):
    """Every pair, one after the other, in Python's floats."""
    rows = []
    for row, cloud in enumerate(coords.tolist()):
        asking = cloud if query is None else query[row].tolist()
        real = [j for j in range(len(cloud)) if mask is None or mask[row, j]]
        found = []
        for i, q in enumerate(asking):
            ranked = sorted((distance(q, cloud[j]), j) for j in real if include_self or j != i)
            asks = query is not None or mask is None or bool(mask[row, i])
            best = [j for _, j in ranked[:count]] if asks else []
            found.append(best + [-1] * (count - len(best)))
        rows.append(found)
    return torch.tensor(rows)


def chosen_by_hand(coords, count, mask=None, start=None):
    rows = []
    for row, cloud in enumerate(coords.tolist()):
        left = [j for j in range(len(cloud)) if mask is None or mask[row, j]]
        found, nearest = [], dict.fromkeys(left, math.inf)
        following = left[0] if start is None and left else start
        while left and len(found) < count:
            found.append(following)
            left.remove(following)
            nearest = {j: min(nearest[j], distance(cloud[j], cloud[following])) for j in left}
            following = max(left, key=lambda j: (nearest[j], -j), default=None)
        rows.append(found + [-1] * (count - len(found)))
    return torch.tensor(rows)


def cloud(kind, rows, length, dims, dtype=torch.float32):
    generator = torch.Generator().manual_seed(length + dims)
    x = torch.randn(rows, length, dims, generator=generator)
    if kind == "lattice":  # many equal distances
        x = x.mul(1.5).round()
    if kind == "clusters":
        x = torch.randint(4, (rows, length, 1), generator=generator) * 1e3 + x.abs().pow(9) * 1e-3
    if kind == "equal":
        x = torch.ones_like(x)
    if kind == "far":
        x = x + 5e4
    if kind == "line":
        x[..., 1:] = 2.0
    if kind == "scales":  # from subnormal squares to huge ones
        x = x * 10.0 ** torch.randint(-22, 19, x.shape, generator=generator)
    return x.to(dtype)


CASES = [
    ("normal", 2, 97, 3, 5), ("normal", 1, 200, 2, 16), ("lattice", 2, 150, 3, 7), ("clusters", 1, 180, 3, 9),
    ("equal", 2, 120, 3, 6), ("far", 1, 150, 3, 8), ("line", 1, 130, 3, 4), ("scales", 1, 100, 3, 8),
    ("normal", 1, 3, 3, 5), ("normal", 3, 1, 2, 1), ("normal", 1, 60, 1, 4), ("lattice", 1, 90, 2, 40),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}x{case[3]}")
def test_neighbours_equal_every_pair_compared(case, path):
    kind, rows, length, dims, count = case
    coords = cloud(kind, rows, length, dims)
    mask = torch.rand(rows, length, generator=torch.Generator().manual_seed(1)) < 0.7
    for options in ({}, {"include_self": False}, {"mask": mask}, {"mask": mask, "include_self": False}):
        found = nearest_neighbours(coords, count, **options)
        assert found.dtype == torch.int64
        assert torch.equal(found, by_hand(coords.double(), count, **options)), options
    query = cloud(kind, rows, length + 5, dims)
    for options in ({}, {"mask": mask}):
        found = nearest_neighbours(coords, count, query=query, **options)
        assert torch.equal(found, by_hand(coords.double(), count, query=query.double(), **options)), options


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}x{case[3]}")
def test_farthest_points_equal_a_loop(case, path):
    kind, rows, length, dims, _ = case
    coords = cloud(kind, rows, length, dims)
    mask = torch.rand(rows, length, generator=torch.Generator().manual_seed(1)) < 0.7
    for count in (1, length // 3 + 1, length + 2):
        found = farthest_points(coords, count)
        assert torch.equal(found, chosen_by_hand(coords.double(), count))
        assert torch.equal(farthest_points(coords, count, mask=mask), chosen_by_hand(coords.double(), count, mask))
        last = length - 1
        found = farthest_points(coords, count, start=last)
        assert torch.equal(found, chosen_by_hand(coords.double(), count, start=last))


def test_both_paths_agree_on_larger_clouds():
    """Clouds whose float32 distances would be told apart wrongly, in float64 the same bits."""
    for kind in ("normal", "lattice", "clusters", "equal", "far"):
        coords = cloud(kind, 2, 3000, 3)
        found, chosen = nearest_neighbours(coords, 12), farthest_points(coords, 200)
        with kernels.use("torch"):
            assert torch.equal(found, nearest_neighbours(coords, 12)), kind
            assert torch.equal(chosen, farthest_points(coords, 200)), kind


def test_equal_points_take_no_longer():
    """A tree whose boxes all touch would read every point for every query: 1e10 of them here."""
    if not kernels.available():
        pytest.skip("the tree is native")
    found = nearest_neighbours(torch.ones(100_000, 3), 8)
    assert torch.equal(found, torch.arange(8).expand(100_000, -1))
    assert farthest_points(torch.ones(1000, 3), 5).tolist() == [0, 1, 2, 3, 4]


def test_rows_and_padding_are_apart(path):
    coords = cloud("normal", 3, 80, 3)
    mask = torch.arange(80) < torch.tensor([80, 31, 0])[:, None]
    near, far = nearest_neighbours(coords, 6, mask=mask), farthest_points(coords, 40, mask=mask)
    other = coords.masked_fill(~mask[..., None], torch.nan)
    assert torch.equal(near, nearest_neighbours(other, 6, mask=mask))
    assert torch.equal(far, farthest_points(other, 40, mask=mask))
    assert torch.equal(near[1, :31], nearest_neighbours(coords[1, :31], 6))
    assert torch.equal(far[1, :31], farthest_points(coords[1, :31], 31))
    assert (near[1, 31:] == -1).all()
    assert (near[2] == -1).all()
    assert (far[1, 31:] == -1).all()
    assert (far[2] == -1).all()


def test_order_and_place_do_not_matter(path):
    """Permutation equivariance and invariance to translation, on a cloud without equal distances."""
    coords = (cloud("normal", 1, 120, 3)[0] * 64).round() / 64  # translation by whole numbers is then exact
    near, far = nearest_neighbours(coords, 9), farthest_points(coords, 30)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(5))
    moved = nearest_neighbours(coords[order], 9)
    gaps = (coords[:, None] - coords[near]).double().square().sum(-1)
    moved_gaps = (coords[order][:, None] - coords[order][moved]).double().square().sum(-1)
    assert torch.equal(gaps[order], moved_gaps)
    place = int((order == 0).nonzero())
    assert torch.equal(order[farthest_points(coords[order], 30, start=place)], far)
    shifted = coords + torch.tensor([1024.0, -4096.0, 3.0])
    assert torch.equal(near, nearest_neighbours(shifted, 9))
    assert torch.equal(far, farthest_points(shifted, 30))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype, path):
    coords = cloud("normal", 1, 70, 3, dtype)
    assert torch.equal(nearest_neighbours(coords, 5), by_hand(coords.double(), 5))
    assert torch.equal(farthest_points(coords, 20), chosen_by_hand(coords.double(), 20))


def test_more_coordinates_and_more_neighbours():
    coords = cloud("normal", 1, 300, 7)
    assert torch.equal(nearest_neighbours(coords, 4), by_hand(coords.double(), 4))
    assert torch.equal(farthest_points(coords, 20), chosen_by_hand(coords.double(), 20))
    coords = cloud("normal", 1, 300, 3)
    assert torch.equal(nearest_neighbours(coords, 290), by_hand(coords.double(), 290))


def test_small_blocks_change_nothing(monkeypatch):
    coords = cloud("lattice", 2, 90, 3)
    with kernels.use("torch"):
        expected = [nearest_neighbours(coords, 6, include_self=same) for same in (True, False)]
        monkeypatch.setattr(points, "_BLOCK", 200)
        found = [nearest_neighbours(coords, 6, include_self=same) for same in (True, False)]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_the_kernel_serves_what_it_is_made_for():
    coords = torch.zeros(1, 9, 3)
    if kernels.available():
        assert native_points.fits(coords, 256)
    with kernels.use("torch"):
        assert not native_points.fits(coords)
    for other in (coords.double(), torch.zeros(1, 9, 4)):
        assert not native_points.fits(other)
    assert not native_points.fits(coords, 257)


def test_any_number_of_threads_gives_the_same():
    coords, before, found = cloud("lattice", 3, 2000, 3), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(torch.cat([nearest_neighbours(coords, 10), nearest_neighbours(coords[:1], 10)]))
            assert torch.equal(farthest_points(coords, 50), chosen_by_hand(coords.double(), 50)[:, :50])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_layout_in_memory_does_not_matter(path):
    coords = cloud("normal", 2, 60, 3)
    other = coords.mT.contiguous().mT
    assert torch.equal(nearest_neighbours(coords, 4), nearest_neighbours(other, 4))
    assert torch.equal(farthest_points(coords, 9), farthest_points(other, 9))


def test_random_starts():
    coords, mask = torch.randn(400, 10, 2, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 2 == 1
    mask = mask.expand(400, 10).clone()
    mask[7] = False
    found = farthest_points(coords, 1, mask=mask, start="random", seed=3)[:, 0]
    assert found[7] == -1
    drawn = torch.bincount(found[found >= 0], minlength=10)
    assert drawn[::2].sum() == 0
    assert drawn[1::2].min() > 50  # 80 are expected
    assert torch.equal(found, farthest_points(coords, 1, mask=mask, start="random", seed=3)[:, 0])
    assert not torch.equal(found, farthest_points(coords, 1, mask=mask, start="random", seed=4)[:, 0])


def test_nothing_at_all(path):
    assert nearest_neighbours(torch.zeros(0, 3), 2).shape == (0, 2)
    assert nearest_neighbours(torch.zeros(0, 3), 2, query=torch.zeros(1, 3)).tolist() == [[-1, -1]]
    assert farthest_points(torch.zeros(2, 0, 3), 2).tolist() == [[-1, -1], [-1, -1]]
    assert nearest_neighbours(torch.zeros(0, 4, 3), 2).shape == (0, 4, 2)


def test_attention_reads_the_neighbours():
    coords = torch.tensor([[0.0], [1.0], [5.0]])
    v = torch.tensor([1.0, 3.0, 100.0]).view(1, 1, 3, 1)
    y = attend(torch.zeros_like(v), v, v, Neighbours(nearest_neighbours(coords, 2)))
    assert y.flatten().tolist() == [2.0, 2.0, 51.5]


def test_operators_and_gradients():
    coords = cloud("normal", 2, 40, 3).requires_grad_()
    assert not nearest_neighbours(coords, 3).requires_grad
    torch.library.opcheck(torch.ops.tokenmix.nearest_neighbours, (coords.detach(), 3, None, None, False))
    start = torch.zeros(2, dtype=torch.int64)
    torch.library.opcheck(torch.ops.tokenmix.farthest_points, (coords.detach(), 3, None, start))
    compiled = torch.compile(lambda x: nearest_neighbours(x, 3) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(coords.detach()), nearest_neighbours(coords, 3) + 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x: nearest_neighbours(x.long(), 1),
            TypeError,
            "coords: expected a floating point tensor, found torch.i",
        ),
        (lambda x: nearest_neighbours(x[0, 0], 1), ValueError, r"coords: expected shape .* found \(3,\)"),
        (lambda x: nearest_neighbours(x, 0), ValueError, "count: expected a positive integer, found 0"),
        (lambda x: nearest_neighbours(x, 2.0), TypeError, "count: expected a positive integer, found 2.0"),
        (lambda x: nearest_neighbours(x, 1, mask=torch.ones(2, 4)), TypeError, "mask: expected a bool tensor"),
        (
            lambda x: farthest_points(x, 1, mask=torch.ones(2, 3).bool()),
            ValueError,
            r"mask: .*\(2, 4\), found \(2, 3\)",
        ),
        (lambda x: nearest_neighbours(x, 1, query=x[..., :2]), ValueError, r"query: expected shape \(2, M, 3\)"),
        (lambda x: nearest_neighbours(x, 1, query=x, include_self=False), ValueError, "include_self: expected True"),
        (lambda x: farthest_points(x, 1, start=4), ValueError, "start: expected an index from 0 to 3, found 4"),
        (lambda x: farthest_points(x, 1, start="last"), ValueError, "start: expected 'first', 'random' or an index"),
        (lambda x: farthest_points(x, 1, start=True), TypeError, "start: expected"),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.zeros(2, 4, 3))


def test_bad_numbers_are_named(path):
    coords = torch.zeros(2, 4, 3)
    coords[1, 2, 0] = torch.nan
    for function in (nearest_neighbours, farthest_points):
        with pytest.raises(
            ValueError, match=r"coords: expected finite numbers, found \[nan, 0.0, 0.0\] at point 2 of row"
        ):
            function(coords, 1)
    with pytest.raises(ValueError, match="query: expected finite numbers"):
        nearest_neighbours(torch.zeros(4, 3), 1, query=torch.full((1, 3), torch.inf))
    mask = torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(
        ValueError, match="start: expected a real point in every row, found 2, which is padding in row 1"
    ):
        farthest_points(
            coords, 1, mask=mask.index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(False)), start=2
        )


def test_a_fault_is_noticed(monkeypatch):
    if not kernels.available():
        pytest.skip("the fault is in the native path")
    right = native_points.run_nearest
    monkeypatch.setattr(native_points, "run_nearest", lambda *a: right(a[0].bfloat16(), *a[1:]))
    with pytest.raises(AssertionError):
        test_neighbours_equal_every_pair_compared(CASES[0], "auto")
