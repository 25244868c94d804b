"""Graphs in compressed rows: built from edges, kept in files, read from memory or from disk."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tokenmix.ops.graph_rows import BLOCK, Keys, check_edges, check_rows, distinct_keys, rows_of, sorted_keys

_SMALL = 4096  # bytes of a file that is not worth mapping
_FILE, _FORMAT = "graph.json", 1


@dataclass(frozen=True, eq=False)
class Graph:
    """A directed graph in compressed rows: node i reads `indices[indptr[i]:indptr[i + 1]]`.

    Args:
        indptr: (N + 1,) int64, where the row of each node begins; rises from 0 to E.
        indices: (E,) int32, or int64 where N is 2^31 or more: the senders that each receiver reads, sorted in a row by
            `from_edges`.
        folder: where `open` found it; worker processes open it there again.
        check_indices: look at every index. `open` leaves that to those who read the rows.

    Raises:
        TypeError: another dtype. ValueError: another shape, or numbers that are no graph.

    Example:
        >>> graph = Graph.from_edges(torch.tensor([[0, 2, 1], [1, 1, 0]]), num_nodes=3)
        >>> graph.indptr.tolist(), graph.indices.tolist()
        ([0, 1, 3, 3], [1, 0, 2])
        >>> graph
        Graph(num_nodes=3, num_edges=3)
    """

    indptr: Tensor
    indices: Tensor
    folder: Path | None = None
    check_indices: InitVar[bool] = True

    def __post_init__(self, check_indices: bool) -> None:
        check_rows(self.indptr, self.indices)
        if check_indices:
            self.check()

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.indptr) - 1

    @property
    def num_edges(self) -> int:
        """E, the entries of all rows; an undirected edge counts twice."""
        return len(self.indices)

    def check(self) -> Graph:
        """The graph itself, after a look at every index, for readers of all rows: `open` looks at none.

        Raises:
            ValueError: an id that no node has.
        """
        if len(self.indices):
            low, high = map(int, self.indices.aminmax())
            if low < 0 or high >= self.num_nodes:
                found = low if low < 0 else high
                raise ValueError(f"indices: expected ids from 0 to {self.num_nodes - 1}, found {found}")
        return self

    def degrees(self) -> Tensor:
        """(N,) int64: the entries of each row.

        Example:
            >>> Graph.from_edges(torch.tensor([[0, 2], [1, 1]]), 3).degrees()
            tensor([0, 2, 0])
        """
        return self.indptr.diff()

    def edges(self) -> Tensor:
        """(2, E) int64, sender over receiver, in the order of the rows: torch_geometric's `edge_index`.

        Example:
            >>> Graph.from_edges(torch.tensor([[2, 0], [1, 1]]), 3).edges().tolist()
            [[0, 2], [1, 1]]
        """
        found = torch.empty(2, self.num_edges, dtype=torch.int64)
        found[0] = self.check().indices
        found[1] = torch.repeat_interleave(self.degrees(), output_size=self.num_edges)
        return found

    def transposed(self) -> Graph:
        """The graph with every edge turned round; duplicates stay.

        Example:
            >>> Graph.from_edges(torch.tensor([[2, 0], [1, 1]]), 3).transposed().edges().tolist()
            [[1, 1], [0, 2]]
        """
        return Graph.from_edges(self.edges().flip(0), self.num_nodes, coalesce=False)

    @classmethod
    def from_edges(
        cls,
        edges: Tensor,
        num_nodes: int,
        *,
        undirected: bool = False,
        coalesce: bool = True,
        self_loops: Literal["keep", "drop", "add"] = "keep",
    ) -> Graph:
        """Sort edges into rows: one key of 64 bits an edge, sorted in place.

        Args:
            edges: (2, E) integers, sender over receiver.
            num_nodes: N, at most 2^32.
            undirected: add every edge turned round; self loops are not doubled.
            coalesce: keep one of equal edges.
            self_loops: "keep" those that are there, "drop" them, or "add": every node has exactly one.

        Raises:
            TypeError: edges that are no integers. ValueError: another shape, or an id that is out of range.

        Example:
            >>> edges = torch.tensor([[0, 0, 1], [1, 1, 1]])
            >>> Graph.from_edges(edges, 2, undirected=True, self_loops="drop").edges().tolist()
            [[1, 0], [0, 1]]
            >>> Graph.from_edges(edges, 1)
            Traceback (most recent call last):
            ValueError: edges: expected ids from 0 to 0, found 1 in edges[0, 2]
        """
        check_edges(edges, num_nodes)
        if self_loops not in ("keep", "drop", "add"):
            raise ValueError(f"self_loops: expected 'keep', 'drop' or 'add', found {self_loops!r}")
        keys = sorted_keys(edges, num_nodes, undirected, self_loops)
        return cls(*rows_of(keys, num_nodes, coalesce), check_indices=False)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `indptr.npy`, `indices.npy` and `graph.json`, which comes last: without it a folder is not whole.

        Args:
            folder: made if it is not there.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _FILE).unlink(missing_ok=True)
        for name in ("indptr", "indices"):
            part = folder / f"{name}.npy.{os.getpid()}.part"
            with part.open("wb") as file:
                np.save(file, getattr(self, name).numpy())
            os.replace(part, folder / f"{name}.npy")
        sizes = {"format": _FORMAT, "num_nodes": self.num_nodes, "num_edges": self.num_edges}
        part = folder / f"{_FILE}.{os.getpid()}.part"
        part.write_text(json.dumps(sizes) + "\n")
        os.replace(part, folder / _FILE)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, memory_map: bool = True) -> Graph:
        """The graph that `save` wrote.

        Args:
            folder: of its files.
            memory_map: leave the numbers on disk, of which the system keeps in memory what is read; else read all.

        Raises:
            FileNotFoundError: no whole graph there. ValueError: damaged files.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Graph.from_edges(torch.tensor([[0], [1]]), 2).save(folder)
            ...     Graph.open(folder)
            Graph(num_nodes=2, num_edges=1)
        """
        folder = Path(folder)
        if not (folder / _FILE).exists():
            raise FileNotFoundError(f"folder: {folder} holds no whole graph: there is no {_FILE}")
        try:
            sizes = json.loads((folder / _FILE).read_text())
            indptr, indices = (
                open_array(folder / f"{name}.npy", memory_map=memory_map) for name in ("indptr", "indices")
            )
            graph = cls(indptr, indices, folder=folder if memory_map else None, check_indices=not memory_map)
            found = {"format": _FORMAT, "num_nodes": graph.num_nodes, "num_edges": graph.num_edges}
            if found != sizes:
                raise ValueError(f"{_FILE} says {sizes}, expected {found}")
        except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"folder: the graph in {folder} is damaged: {error}") from error
        return graph

    def __repr__(self) -> str:
        return f"Graph(num_nodes={self.num_nodes}, num_edges={self.num_edges})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is not None:
            return _reopen, (self.folder, self.num_nodes, self.num_edges)
        return Graph, (self.indptr, self.indices, None, False)


def _reopen(folder: Path, num_nodes: int, num_edges: int) -> Graph:
    """The graph of a pickle, which holds the folder alone."""
    graph = Graph.open(folder)
    if (graph.num_nodes, graph.num_edges) != (num_nodes, num_edges):
        raise ValueError(f"folder: expected {num_nodes} nodes and {num_edges} edges in {folder}, found {graph}")
    return graph


def open_array(path: Path, *, memory_map: bool = True) -> Tensor:
    """A .npy file as a tensor; what is written to it while it is mapped does not reach the file.

    Raises:
        OSError, EOFError, ValueError: no file, or a damaged one.
    """
    mapped = memory_map and path.stat().st_size > _SMALL
    return torch.from_numpy(np.load(path, mmap_mode="c" if mapped else None, allow_pickle=False))


def power_law_graph(num_nodes: int, num_edges: int, *, power: float = 0.45, seed: int = 0) -> Graph:
    """A random undirected graph with hubs: node number r by rank is an end of an edge with odds of r^-power.

    Degrees then follow a power law of exponent 1 + 1 / power. Ids are in random order.

    Args:
        num_nodes: N. num_edges: undirected edges, all different, no self loops; at most a quarter of all pairs.
        power: from 0 (no hubs) to below 1.
        seed: of everything.

    Raises:
        ValueError: sizes or a power that cannot be.

    Source: Chung and Lu 2002, "Connected components in random graphs with given expected degree sequences".

    Example:
        >>> graph = power_law_graph(1000, 5000, seed=1)
        >>> graph, bool(graph.degrees().max() > 8 * graph.degrees().float().mean())
        (Graph(num_nodes=1000, num_edges=10000), True)
    """
    if not 0 <= power < 1:
        raise ValueError(f"power: expected from 0 to below 1, found {power}")
    if not 0 <= num_nodes < 2**31:
        raise ValueError(f"num_nodes: expected below 2^31, found {num_nodes}")
    if not 0 <= num_edges <= num_nodes * (num_nodes - 1) // 4:
        raise ValueError(f"num_edges: expected at most a quarter of the pairs of {num_nodes} nodes, found {num_edges}")
    random = np.random.default_rng(seed)
    places = random.permutation(num_nodes).astype(np.uint32)
    shift = np.uint64(32)

    def draw(count: int) -> Keys:
        ranks = num_nodes * random.random((2, count)) ** (1 / (1 - power))
        ends = places[np.minimum(ranks.astype(np.uint32), num_nodes - 1)]
        ends.sort(axis=0)
        different = ends[0] != ends[1]
        return (ends[0, different].astype(np.uint64) << shift) | ends[1, different]

    found = distinct_keys(random, num_edges, BLOCK, draw)
    edges = np.empty((2, num_edges), np.uint32)
    np.right_shift(found, shift, out=edges[0], casting="unsafe")
    np.bitwise_and(found, np.uint64(0xFFFFFFFF), out=edges[1], casting="unsafe")
    del found
    return Graph.from_edges(torch.from_numpy(edges.view(np.int32)), num_nodes, undirected=True)


def check_graph(graph: object) -> None:
    """Refuse anything but a `Graph`, such as its edges.

    Raises:
        TypeError: names what was found.
    """
    if not isinstance(graph, Graph):
        raise TypeError(f"graph: expected a Graph, found {type(graph).__name__}; Graph.from_edges makes one of edges")
