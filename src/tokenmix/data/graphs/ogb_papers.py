"""ogbn-papers100M from its raw files, memory-mapped: 57 GB of features never go through memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tokenmix.data.graphs.csv_arrays import kept_member
from tokenmix.data.graphs.missing import reading
from tokenmix.data.graphs.node_data import NodeData
from tokenmix.data.graphs.ogb import kept_graph, labels_of, ogb_folder, read_splits, split_files
from tokenmix.data.graphs.word_graphs import read_arrays

_FILES = ["raw/data.npz", "raw/node-label.npz"]
_CLASSES = 172


def ogbn_papers100M(root: Path | None = None, *, undirected: bool = True, download: bool = False) -> NodeData:
    """ogbn-papers100M: 111,059,956 papers, 1,615,685,872 citations, 128 features, 172 classes; 1.5 million have one.

    Packed arrays of `raw/data.npz` are unpacked once to .npy files beside it (83 GB of disk), and are memory-mapped; so
    is the graph. Building the undirected graph takes about 60 GB of memory the first time, the directed one half.

    Args:
        root: the folder that holds `ogbn_papers100M`, or that folder.
        undirected: read citations both ways; else a paper is read by those that it cites.
        download: fetch the archive (57 GB) into `root`.

    Returns:
        The graph; papers without a label have -100.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: files are missing or damaged, or cannot be fetched.

    Source: Hu and others 2020, arXiv 2005.00687. See data_cards/ogbn.md.
    """
    folder = ogb_folder("papers100M", _FILES + split_files("time"), root, download, "papers100M-bin")
    with reading(folder):
        raw, kept = folder / "raw", folder / "tokenmix"
        nodes = int(read_arrays(raw / "data.npz", ("num_nodes_list",))["num_nodes_list"].sum())
        features = kept_member(raw / "data.npz", "node_feat", kept / "node-feat.npy")
        if features.dtype != np.float32:
            raise ValueError(f"{raw / 'data.npz'}: expected node_feat of float32, found {features.dtype}")
        labels = labels_of(read_arrays(raw / "node-label.npz", ("node_label",))["node_label"])

        def edges() -> np.ndarray:
            return kept_member(raw / "data.npz", "edge_index", kept / "edge_index.npy")

        graph = kept_graph(folder, raw / "data.npz", edges, nodes, undirected)
        ways = "undirected" if undirected else "directed"
        train, val, test = read_splits(folder, "time")
        return NodeData(
            "ogbn-papers100M",
            graph,
            torch.from_numpy(features),
            labels,
            tuple(map(str, range(_CLASSES))),
            train,
            val,
            test,
            f"raw files of ogbn-papers100M, split by time, {ways}",
        )
