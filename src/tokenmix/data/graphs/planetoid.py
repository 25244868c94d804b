"""Cora, CiteSeer and PubMed from the files of Planetoid, with the public split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenmix.data.graphs.download import download_file
from tokenmix.data.graphs.features import bag_of_words
from tokenmix.data.graphs.missing import DOWNLOAD, find_folder, reading
from tokenmix.data.graphs.node_data import NO_LABEL, NodeData
from tokenmix.data.graphs.safe_pickle import SparseRows, read_pickle
from tokenmix.ops.graph import Graph

URL = "https://github.com/kimiyoung/planetoid/raw/master/data"
_PARTS = ("x", "y", "tx", "ty", "allx", "ally", "graph", "test.index")
_VALIDATION = 500
_CLASSES = {
    "cora": (
        "Theory",
        "Reinforcement_Learning",
        "Genetic_Algorithms",
        "Neural_Networks",
        "Probabilistic_Methods",
        "Case_Based",
        "Rule_Learning",
    ),
}
# Of the files at commit af6abf4 of kimiyoung/planetoid.
_SHA256 = {
    "ind.cora.allx": "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543",
    "ind.cora.ally": "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71",
    "ind.cora.graph": "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d",
    "ind.cora.test.index": "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875",
    "ind.cora.tx": "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a",
    "ind.cora.ty": "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad",
    "ind.cora.x": "23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab",
    "ind.cora.y": "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1",
}


def cora(root: Path | None = None, *, download: bool = False) -> NodeData:
    """Cora: 2,708 papers on machine learning, 5,278 citations, 1,433 words, 7 classes; 140 to train on.

    Args:
        root: the folder with `ind.cora.*`, or one with `Cora/raw` (torch_geometric's) or `cora` in it.
        download: fetch missing files into `root`.

    Returns:
        The graph, undirected, without self loops and duplicates; the public split.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: files are missing or damaged, or cannot be fetched.

    Source: Yang, Cohen, Salakhutdinov 2016, arXiv 1603.08861. See data_cards/planetoid.md.

    Example:
        >>> cora(Path("../shared/data/cora"))  # doctest: +SKIP
        NodeData('cora': 2,708 nodes, 10,556 directed edges, 1,433 features, 7 classes, 140/500/1,000)
    """
    return _planetoid("cora", "Cora", root, download)


def citeseer(root: Path | None = None, *, download: bool = False) -> NodeData:
    """CiteSeer: 3,327 papers, 4,552 citations, 6 classes; 15 papers without words, class or citation have no label.

    Arguments, result and errors are those of `cora`.
    """
    return _planetoid("citeseer", "CiteSeer", root, download)


def pubmed(root: Path | None = None, *, download: bool = False) -> NodeData:
    """PubMed: 19,717 papers on diabetes, 44,324 citations, 500 weighted words, 3 classes.

    Arguments, result and errors are those of `cora`.
    """
    return _planetoid("pubmed", "PubMed", root, download)


def _planetoid(name: str, folder_name: str, root: Path | None, download: bool) -> NodeData:
    files = [f"ind.{name}.{part}" for part in _PARTS]
    inner = [f"{folder_name}/raw", name, "raw"]
    try:
        folder = find_folder(name, root, inner, files, f"{DOWNLOAD} fetches them from {URL}")
    except FileNotFoundError:
        if not download or root is None:
            raise
        folder = Path(root)
        for file in files:
            if not (folder / file).is_file():
                download_file(f"{URL}/{file}", folder / file, _SHA256.get(file))
    return _read(name, folder)


def _read(name: str, folder: Path) -> NodeData:
    parts = {part: read_pickle(folder / f"ind.{name}.{part}") for part in _PARTS[:-1]}
    kinds: dict[str, type] = {
        "allx": SparseRows,
        "tx": SparseRows,
        "ally": np.ndarray,
        "ty": np.ndarray,
        "y": np.ndarray,
        "graph": dict,
    }
    for part, kind in kinds.items():
        if not isinstance(parts[part], kind):
            found = type(parts[part]).__name__
            raise ValueError(f"{folder}/ind.{name}.{part}: expected {kind.__name__}, found {found}")
    try:
        test = np.loadtxt(folder / f"ind.{name}.test.index", dtype=np.int64, ndmin=1)
    except ValueError as error:
        raise ValueError(f"{folder}/ind.{name}.test.index: expected a whole number a line, found: {error}") from error
    with reading(folder / f"ind.{name}"):
        return _data_of(name, folder, parts, test)


def _data_of(name: str, folder: Path, parts: dict[str, Any], test: np.ndarray) -> NodeData:
    known, width = parts["allx"].size
    for part, rows in (("ally", known), ("ty", parts["tx"].size[0])):
        if parts[part].shape != (rows, parts["y"].shape[-1]):
            expected = f"({rows}, {parts['y'].shape[-1]}), rows of {part.replace('y', 'x')} and columns of y"
            raise ValueError(f"{folder}/ind.{name}.{part}: expected shape {expected}, found {parts[part].shape}")
    nodes = int(test.max(initial=known - 1)) + 1
    if len(test) != parts["tx"].size[0] or len(np.unique(test)) != len(test) or test.min(initial=known) < known:
        raise ValueError(
            f"{folder}/ind.{name}.test.index: expected {parts['tx'].size[0]} different ids from {known}, the rows "
            f"of tx, found {len(np.unique(test))} different ones of {len(test)} from {test.min(initial=known)}"
        )
    # Row i of tx and ty is node test[i]. Nodes from `known` on that are in no row have neither words nor a class.
    place = np.concatenate([np.arange(known), test])
    labels = np.full(nodes, NO_LABEL, np.int64)
    hot = np.concatenate([parts["ally"], parts["ty"]])
    labels[place] = np.where(hot.any(axis=1), hot.argmax(axis=1), NO_LABEL)
    row, column, value = _entries(parts["allx"], parts["tx"])
    row = place[row]
    order = np.lexsort((column, row))
    indptr = np.cumsum(np.bincount(row + 1, minlength=nodes + 1))
    train = torch.arange(len(parts["y"]))
    classes = _CLASSES.get(name, tuple(str(i) for i in range(hot.shape[1])))
    return NodeData(
        name,
        _graph(parts["graph"], nodes),
        bag_of_words(indptr, column[order], width, value[order]),
        torch.from_numpy(labels),
        classes,
        train,
        torch.arange(len(train), len(train) + _VALIDATION),
        torch.from_numpy(test),
        f"Planetoid's files of {name}, the public split",
    )


def _entries(*matrices: SparseRows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and value of all entries of matrices below each other."""
    rows = np.concatenate([np.diff(matrix.indptr) for matrix in matrices])
    columns = np.concatenate([matrix.indices for matrix in matrices])
    values = np.concatenate([matrix.data for matrix in matrices])
    return np.repeat(np.arange(len(rows)), rows), columns.astype(np.int64), values.astype(np.float32)


def _graph(neighbours: dict[int, list[int]], nodes: int) -> Graph:
    pairs: list[tuple[Any, int]] = [(other, node) for node, row in neighbours.items() for other in row]
    edges = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    return Graph.from_edges(edges, nodes, undirected=True, self_loops="drop")
