"""Nearest neighbours and farthest points of clouds, against SciPy's tree and loops in torch."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.rows import Pair, Row
from tokenmix import kernels
from tokenmix.ops.points import farthest_points, nearest_neighbours

COUNT = 16
SHARE = 4  # one point in so many is sampled


def surface(length: int) -> Tensor:
    """(L, 3): a sphere with a little noise, as a scanner sees things."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(length, 3, generator=generator)
    return x / x.norm(dim=1, keepdim=True) * (1 + 0.01 * torch.randn(length, 1, generator=generator))


def clusters(length: int) -> Tensor:
    """(L, 3): twenty clumps far apart, each denser in its middle."""
    generator = torch.Generator().manual_seed(0)
    centres = 100 * torch.randn(20, 3, generator=generator)
    spread = torch.rand(length, 1, generator=generator) ** 4
    return centres[torch.randint(20, (length,), generator=generator)] + spread * torch.randn(
        length, 3, generator=generator
    )


CLOUDS = {"surface": surface, "clusters": clusters}


def tree(cloud: Tensor) -> Tensor:
    """SciPy's, built and asked."""
    from scipy.spatial import cKDTree

    points = cloud.numpy()
    return torch.from_numpy(cKDTree(points).query(points, COUNT)[1])


def every_pair(cloud: Tensor) -> Tensor:
    """Torch's distances, and the smallest of each row."""
    return torch.cdist(cloud, cloud).topk(COUNT, largest=False).indices


def excess(cloud: Tensor, found: Tensor) -> float:
    """How much farther the neighbours are than the nearest ones in float64, on a sample of the rows, relatively."""
    rows = torch.linspace(0, len(cloud) - 1, 200).long()
    far = (cloud[rows, None].double() - cloud.double()).square().sum(-1)
    best = far.topk(COUNT, largest=False).values
    return float(((far.gather(1, found[rows]).sort(1).values - best) / best[:, -1:].clamp(min=1e-12)).abs().max())


def neighbour_pair(length: int, kind: str = "surface", peer: str = "tree", path: str = "auto") -> Pair:
    cloud = CLOUDS[kind](length)

    def ours() -> Tensor:
        with kernels.use(path):
            return nearest_neighbours(cloud, COUNT)

    theirs = partial(tree if peer == "tree" else every_pair, cloud)

    def errors() -> dict[str, float]:
        return {"ours": excess(cloud, ours()), "theirs": excess(cloud, theirs())}

    return Pair(ours, theirs, errors, limit=1e-6 if peer == "tree" else 1e-4)


def farthest_loop(cloud: Tensor, count: int) -> Tensor:
    """What every point cloud library writes where its kernel does not serve."""
    far, chosen = torch.full((len(cloud),), torch.inf), torch.zeros(count, dtype=torch.int64)
    place = torch.tensor(0)
    for step in range(count):
        chosen[step] = place
        far = torch.minimum(far, (cloud - cloud[place]).square().sum(-1))
        place = far.argmax()
    return chosen


def radius(cloud: Tensor, chosen: Tensor) -> float:
    """How far the farthest point is from those that were chosen."""
    return float(torch.cdist(cloud.double(), cloud[chosen].double()).min(1).values.max())


def farthest_pair(length: int) -> Pair:
    cloud, count = surface(length), length // SHARE
    ours, theirs = partial(farthest_points, cloud, count), partial(farthest_loop, cloud, count)

    def errors() -> dict[str, float]:
        exact = radius(cloud, farthest_loop(cloud.double(), count))
        return {
            name: abs(radius(cloud, run()) / exact - 1)
            for name, run in (("ours radius", ours), ("theirs radius", theirs))
        }

    return Pair(ours, theirs, errors, limit=1e-3)


PEER, PAIRS = "SciPy cKDTree", "torch cdist and topk"
WHAT = f"nearest {COUNT} of points on a surface"
ROWS = [
    Row("points/neighbours", WHAT, PEER, neighbour_pair, 1_000, 1.7, 3.0, needs=("scipy",)),
    Row(
        "points/neighbours", WHAT, PEER, neighbour_pair, 10_000, 1.7, 3.0, needs=("scipy",),
        lengths=(1_000, 3_000, 10_000, 30_000, 100_000),
    ),
    Row("points/neighbours", WHAT, PEER, neighbour_pair, 100_000, 1.7, 3.0, needs=("scipy",), rounds=5),
    Row(
        "points/clusters", f"nearest {COUNT} of points in clumps", PEER, partial(neighbour_pair, kind="clusters"),
        10_000, 1.7, 3.0, needs=("scipy",),
    ),
    Row(
        "points/plain", f"{WHAT}, without the kernels", PAIRS, partial(neighbour_pair, peer="pairs", path="torch"),
        2_000,
    ),
    Row("points/farthest", f"one in {SHARE} points sampled", "a loop in torch", farthest_pair, 10_000, 5.0),
]  # fmt: skip
