"""A generated graph of any size, with hubs, communities, features and labels that tell of them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch

from tokenmix.data.graphs.node_data import NodeData, random_split
from tokenmix.ops.graph import Graph
from tokenmix.ops.graph_rows import Keys, distinct_keys

_BLOCK = 1 << 20  # edges or nodes that are drawn together
_IN_MEMORY = 1 << 30  # bytes of features up to which no folder is needed


def power_law(
    root: Path | None = None,
    *,
    seed: int = 0,
    split_seed: int = 0,
    num_nodes: int = 2_000_000,
    num_edges: int = 30_000_000,
    num_features: int = 100,
    communities: int = 300,
    num_classes: int = 50,
    homophily: float = 0.6,
    power: float = 0.45,
    noise: float = 4.0,
) -> NodeData:
    """A graph whose nodes belong to communities of the same size; several communities make a class.

    A node of rank r (1 is the greatest hub) is an end of an edge with odds of r^-power, so that degrees follow a power
    law of exponent 1 + 1 / power. With odds `homophily` the other end is drawn in the same community, by the same law;
    else among all. Features are the mean of the community, drawn from N(0, 1), plus noise. Ids are in random order.

    Args:
        root: the folder to write to, or to read what an earlier call wrote; not needed up to 1 GB of features.
        seed: of everything but the split.
        split_seed: of the random 50/25/25 split.
        num_nodes: N.
        num_edges: undirected edges, all different, no self loops; at most an eighth of all pairs.
        num_features: F; features are float32, memory-mapped where they are written to a folder.
        communities: at most N.
        num_classes: at most as many as communities.
        homophily: from 0 to 1.
        power: from 0 (no hubs) to below 1.
        noise: standard deviation of features within a community.

    Returns:
        The graph.

    Raises:
        ValueError: numbers that cannot be, or no folder for a large graph.

    Source: Chung and Lu 2002, "Connected components in random graphs with given expected degree sequences"; Karrer and
        Newman 2011, arXiv 1008.3926, for communities with hubs.

    Example:
        >>> power_law(num_nodes=1000, num_edges=5000, num_features=8, communities=10, num_classes=5)
        NodeData('power_law': 1,000 nodes, 10,000 directed edges, 8 features, 5 classes, 500/250/250)
    """
    sizes = {
        "num_nodes": num_nodes,
        "num_edges": num_edges,
        "num_features": num_features,
        "communities": communities,
        "num_classes": num_classes,
        "homophily": homophily,
        "power": power,
        "noise": noise,
        "seed": seed,
    }
    _check(num_nodes, num_edges, num_features, communities, num_classes, homophily, power, noise)
    folder = None
    if root is None and num_nodes * num_features * 4 > _IN_MEMORY:
        raise ValueError(
            f"root: expected a folder for {num_nodes * num_features * 4 / 1e9:.1f} GB of features, found none"
        )
    if root is not None:
        key = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:16]
        folder = root / f"power_law-{key}"
    random = np.random.default_rng(seed)
    id_of_rank = random.permutation(num_nodes).astype(np.int32 if num_nodes < 2**31 else np.int64)
    community = np.empty(num_nodes, np.int32)
    community[id_of_rank] = np.arange(num_nodes) % communities  # rank r is in community r modulo their number
    class_of = np.arange(communities) % num_classes
    random.shuffle(class_of)
    means = random.standard_normal((communities, num_features), np.float32)
    kept = None if folder is None else _open_kept(folder)
    if kept is not None:
        graph, features = kept
    else:
        graph = _draw_graph(random, id_of_rank, num_edges, communities, homophily, power)
        features = _draw_features(folder, community, means, noise, seed)
        if folder is not None:
            graph.save(folder / "graph")
            part = folder / f"done.{os.getpid()}.part"
            part.write_text(json.dumps(sizes, indent=1), encoding="utf-8")
            os.replace(part, folder / "done.json")
            graph = Graph.open(folder / "graph")
    labels = torch.from_numpy(class_of[community].astype(np.int64))
    return NodeData(
        "power_law",
        graph,
        torch.from_numpy(features),
        labels,
        tuple(f"class {i}" for i in range(num_classes)),
        *random_split(torch.arange(num_nodes), split_seed),
        f"generated: {json.dumps(sizes)}; split 50/25/25 by seed {split_seed}",
    )


def _open_kept(folder: Path) -> tuple[Graph, np.ndarray] | None:
    """What an earlier call wrote; None where it did not end, or a file is damaged."""
    try:
        json.loads((folder / "done.json").read_text(encoding="utf-8"))
        return Graph.open(folder / "graph"), np.load(folder / "features.npy", mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None


def _check(
    nodes: int, edges: int, width: int, communities: int, classes: int, homophily: float, power: float, noise: float
) -> None:
    for name, value, low, high in (
        ("num_nodes", nodes, 8, 2**32),
        ("num_edges", edges, 0, nodes * (nodes - 1) // 16),
        ("num_features", width, 1, 2**20),
        ("communities", communities, 1, nodes // 4),
        ("num_classes", classes, 1, communities),
        ("homophily", homophily, 0, 1),
        ("noise", noise, 0, float("inf")),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name}: expected from {low} to {high}, found {value}")
    if not 0 <= power < 1:
        raise ValueError(f"power: expected from 0 to below 1, found {power}")
    inside = communities * (nodes // communities) * (nodes // communities - 1) // 2
    if homophily * edges > inside / 4:
        most = int(inside / 4 / homophily)
        raise ValueError(f"num_edges: expected at most {most} with {communities} communities, found {edges}")


def _draw_graph(
    random: np.random.Generator, id_of_rank: np.ndarray, edges: int, communities: int, homophily: float, power: float
) -> Graph:
    """Pairs of ranks as one number, smaller rank first, drawn until there are enough different ones."""
    nodes, bits = len(id_of_rank), np.uint64(32)

    def draw(count: int) -> Keys:
        ends = _draw_pairs(random, count, nodes, communities, homophily, power)
        ends.sort(axis=0)
        return (ends[0] << bits | ends[1])[ends[0] != ends[1]]

    found = distinct_keys(random, edges, _BLOCK, draw)
    pairs = np.empty((2, edges), id_of_rank.dtype)
    for start in range(0, edges, _BLOCK):
        block = found[start : start + _BLOCK]
        pairs[0, start : start + _BLOCK] = id_of_rank[block >> bits]
        pairs[1, start : start + _BLOCK] = id_of_rank[block & np.uint64(2**32 - 1)]
    del found
    return Graph.from_edges(torch.from_numpy(pairs), nodes, undirected=True)


def _draw_pairs(
    random: np.random.Generator, count: int, nodes: int, communities: int, homophily: float, power: float
) -> np.ndarray:
    """(2, count) ranks; u^(1 / (1 - power)) of a uniform u has odds of r^-power at rank r."""
    stretched = random.random((2, count)) ** (1 / (1 - power))
    first = np.minimum((nodes * stretched[0]).astype(np.int64), nodes - 1)
    anywhere = np.minimum((nodes * stretched[1]).astype(np.int64), nodes - 1)
    own = first % communities
    members = (nodes - 1 - own) // communities + 1
    inside = np.minimum((members * stretched[1]).astype(np.int64), members - 1) * communities + own
    return np.stack([first, np.where(random.random(count) < homophily, inside, anywhere)]).astype(np.uint64)


def _draw_features(
    folder: Path | None, community: np.ndarray, means: np.ndarray, noise: float, seed: int
) -> np.ndarray:
    """(N, F) float32, in a file if there is a folder; each block of nodes has a generator of its own."""
    shape = (len(community), means.shape[1])
    if folder is None:
        features = np.empty(shape, np.float32)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"features.{os.getpid()}.part"
        features = np.lib.format.open_memmap(part, "w+", np.float32, shape)
    step = max(1, _BLOCK * 8 // shape[1])
    for block, start in enumerate(range(0, shape[0], step)):
        own = means[community[start : start + step]]
        drawn = np.random.default_rng([seed, block]).standard_normal(own.shape, np.float32)
        features[start : start + step] = own + np.float32(noise) * drawn
    if folder is None:
        return features
    features.flush()  # type: ignore[attr-defined]  # a memmap
    os.replace(part, folder / "features.npy")
    return np.load(folder / "features.npy", mmap_mode="c")
