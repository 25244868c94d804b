"""ogbn-arxiv and ogbn-products from the raw files of the Open Graph Benchmark, without the package ogb."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tokenmix.data.graphs.csv_arrays import is_fresh, kept_table, made_from, read_csv
from tokenmix.data.graphs.download import download_zip
from tokenmix.data.graphs.missing import DOWNLOAD, find_folder, reading
from tokenmix.data.graphs.node_data import NO_LABEL, NodeData
from tokenmix.ops.graph import Graph

URL = "http://snap.stanford.edu/ogb/data/nodeproppred"
_RAW = ("edge", "node-feat", "node-label", "num-node-list")
_SPLITS = ("train", "valid", "test")


def ogbn_arxiv(root: Path | None = None, *, undirected: bool = True, download: bool = False) -> NodeData:
    """ogbn-arxiv: 169,343 papers of computer science, 1,166,243 citations, 128 features, 40 subjects; split by year.

    Args:
        root: the folder that holds `ogbn_arxiv`, or that folder.
        undirected: read citations both ways, as is usual; else a paper is read by those that it cites.
        download: fetch the archive (80 MB) into `root`.

    Returns:
        The graph; its features are memory-mapped from `tokenmix/node-feat.npy` in its folder, written the first time.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: files are missing or damaged, or cannot be fetched.

    Source: Hu and others 2020, arXiv 2005.00687. See data_cards/ogbn.md.
    """
    return _ogbn("arxiv", "time", 40, root, undirected, download)


def ogbn_products(root: Path | None = None, *, undirected: bool = True, download: bool = False) -> NodeData:
    """ogbn-products: 2,449,029 products, 61,859,140 pairs bought together, 100 features, 47 classes; split by sales.

    Args:
        root: the folder that holds `ogbn_products`, or that folder.
        undirected: as OGB reads it: the file has each pair once.
        download: fetch the archive (1.4 GB) into `root`.

    Returns:
        The graph; its features are memory-mapped from `tokenmix/node-feat.npy` in its folder, written the first time.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: files are missing or damaged, or cannot be fetched.

    Source: Hu and others 2020, arXiv 2005.00687; Chiang and others 2019, arXiv 1905.07953. See data_cards/ogbn.md.
    """
    return _ogbn("products", "sales_ranking", 47, root, undirected, download)


def ogb_folder(name: str, files: list[str], root: Path | None, download: bool, archive: str) -> Path:
    """The folder of a set of OGB, fetched if that is wanted.

    Args:
        name: such as "arxiv".
        files: that must be there, relative to it.
        root: what the user gives.
        download: fetch the archive into `root`.
        archive: its name, without .zip.

    Raises:
        FileNotFoundError: it is not there. ConnectionError, ValueError, FileExistsError: it cannot be fetched.
    """
    url = f"{URL}/{archive}.zip"
    remedy = f"{DOWNLOAD} fetches {url}, or unpack it there as ogbn_{name}"
    try:
        return find_folder(f"ogbn-{name}", root, [f"ogbn_{name}"], files, remedy)
    except FileNotFoundError:
        if not download or root is None:
            raise
    download_zip(url, root / f"ogbn_{name}", archive)
    return find_folder(f"ogbn-{name}", root, [f"ogbn_{name}"], files, remedy)


def split_files(split: str) -> list[str]:
    """Files with the ids of each split."""
    return [f"split/{split}/{part}.csv.gz" for part in _SPLITS]


def read_splits(folder: Path, split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Ids to train on, to choose by and to test."""
    train, val, test = (torch.from_numpy(read_csv(folder / file)[:, 0].copy()) for file in split_files(split))
    return train, val, test


def labels_of(numbers: np.ndarray) -> Tensor:
    """Labels of one column, with -100 for NaN.

    Raises:
        ValueError: a number that is not whole.

    Example:
        >>> labels_of(np.array([[1.0], [float("nan")]]))
        tensor([   1, -100])
    """
    flat = np.asarray(numbers, np.float64).reshape(-1)
    wrong = flat[~np.isnan(flat) & (np.isinf(flat) | (flat != np.round(flat)))]
    if len(wrong):
        raise ValueError(f"labels: expected whole numbers or NaN, found {wrong[0]}")
    return torch.from_numpy(np.where(np.isnan(flat), NO_LABEL, np.nan_to_num(flat)).astype(np.int64))


def kept_graph(folder: Path, edges_file: Path, edges: Callable[[], np.ndarray], nodes: int, undirected: bool) -> Graph:
    """The graph of edges, from the folder where the first call saved it, if that can be written.

    Args:
        folder: of the data set.
        edges_file: where the edges are; a graph that was saved from other content is not used.
        edges: gives (2, E), sender over receiver.
        nodes: N.
        undirected: add every edge turned round.
    """
    kept = folder / "tokenmix" / ("graph_undirected" if undirected else "graph")
    whole = kept / "graph.json"
    if is_fresh(whole, edges_file):
        with contextlib.suppress(ValueError):  # damaged: it is built again
            return Graph.open(kept)
    graph = Graph.from_edges(torch.from_numpy(edges()), nodes, undirected=undirected)
    try:
        with made_from(whole, edges_file):
            graph.save(kept)
    except OSError:
        return graph
    return Graph.open(kept)


def _ogbn(name: str, split: str, classes: int, root: Path | None, undirected: bool, download: bool) -> NodeData:
    files = [f"raw/{part}.csv.gz" for part in _RAW] + split_files(split)
    folder = ogb_folder(name, files, root, download, name)
    with reading(folder):
        raw = folder / "raw"
        nodes = int(read_csv(raw / "num-node-list.csv.gz").sum())
        labels = labels_of(read_csv(raw / "node-label.csv.gz", np.float64))
        features = kept_table(raw / "node-feat.csv.gz", nodes, folder / "tokenmix" / "node-feat.npy")
        edges = raw / "edge.csv.gz"
        graph = kept_graph(folder, edges, lambda: np.ascontiguousarray(read_csv(edges).T), nodes, undirected)
        ways = "undirected" if undirected else "directed"
        train, val, test = read_splits(folder, split)
        return NodeData(
            f"ogbn-{name}",
            graph,
            torch.from_numpy(features),
            labels,
            tuple(map(str, range(classes))),
            train,
            val,
            test,
            f"raw files of ogbn-{name}, split by {split}, {ways}",
        )
