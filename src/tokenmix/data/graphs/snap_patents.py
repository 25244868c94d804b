"""snap-patents: patents, whom they cite, and in which fifth of the years they were granted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tokenmix.data.graphs.features import bag_of_words
from tokenmix.data.graphs.missing import find_folder, reading
from tokenmix.data.graphs.node_data import NO_LABEL, NodeData, random_split
from tokenmix.ops.graph import Graph

_FILE = "snap_patents.mat"
_REMEDY = (
    "it lies on Google Drive as 1ldh23TSY1PwXia6dU0MYcpyEgX-w3Hia: `pip install gdown`, then "
    "`gdown 1ldh23TSY1PwXia6dU0MYcpyEgX-w3Hia -O snap_patents.mat`"
)


def snap_patents(
    root: Path | None = None,
    *,
    split_seed: int = 0,
    reads: Literal["cited", "citing", "both"] = "cited",
    classes: int = 5,
) -> NodeData:
    """snap-patents: 2,923,922 patents, 13,975,788 citations, 269 sparse features.

    The class is the fifth of the years, as even as years allow: c is the number of quantiles k / 5 up to the year.

    Args:
        root: the folder with `snap_patents.mat`, or one with `data` in it.
        split_seed: of the random 50/25/25 split, in which patents without a year do not take part.
        reads: which neighbours a patent reads: those that it cites (as in LargeGT's code), those that cite it, or both.
        classes: of even size.

    Returns:
        The graph, directed unless `reads` is "both".

    Raises:
        ModuleNotFoundError: no scipy. FileNotFoundError, ValueError: no file, or a damaged one.

    Source: Leskovec and others 2005 (SNAP); Lim and others 2021, arXiv 2110.14446. See data_cards/snap_patents.md.
    """
    if reads not in ("cited", "citing", "both"):
        raise ValueError(f"reads: expected 'cited', 'citing' or 'both', found {reads!r}")
    _check_classes(classes)
    path = find_folder("snap-patents", root, ["data"], [_FILE], _REMEDY) / _FILE
    arrays = _read(path)
    with reading(path):
        return _data_of(arrays, split_seed, reads, classes)


def _data_of(arrays: dict[str, Any], split_seed: int, reads: str, classes: int) -> NodeData:
    nodes = int(np.asarray(arrays["num_nodes"]).reshape(-1)[0])
    given = np.ascontiguousarray(arrays["edge_index"])
    if (given != given.astype(np.int64)).any():
        raise ValueError(f"edge_index: expected whole numbers, found {given[given != given.astype(np.int64)][0]}")
    citing_cited = torch.from_numpy(given.astype(np.int64))
    edges = citing_cited if reads == "citing" else citing_cited.flip(0)
    from scipy.sparse import csr_matrix  # `_read` needed scipy before

    words = csr_matrix(arrays["node_feat"])
    labels = year_classes(np.asarray(arrays["years"], np.float64).reshape(-1), classes)
    train, val, test = random_split((labels != NO_LABEL).nonzero().reshape(-1), split_seed)
    return NodeData(
        "snap-patents",
        Graph.from_edges(edges, nodes, undirected=reads == "both"),
        bag_of_words(words.indptr, words.indices, words.shape[1], words.data),
        labels,
        tuple(f"years {i + 1}/{classes}" for i in range(classes)),
        train,
        val,
        test,
        f"{_FILE}, a patent reads {reads} ones; split 50/25/25 by seed {split_seed}",
    )


def year_classes(years: np.ndarray, classes: int) -> Tensor:
    """Classes of about the same size: the number of quantiles 1/classes, 2/classes, … that are not above a year.

    Args:
        years: (N,), NaN where unknown.
        classes: how many.

    Returns:
        (N,) int64; -100 for NaN.

    Example:
        >>> year_classes(np.array([1970.0, 1980, 1990, 2000, float("nan")]), 2)
        tensor([   0,    0,    1,    1, -100])
    """
    _check_classes(classes)
    known = ~np.isnan(years)
    bounds = np.quantile(years[known], np.arange(1, classes) / classes) if known.any() else np.empty(0)
    found = np.searchsorted(bounds, years, side="right")
    return torch.from_numpy(np.where(known, found, NO_LABEL).astype(np.int64))


def _check_classes(classes: int) -> None:
    if classes < 2:
        raise ValueError(f"classes: expected at least 2, found {classes}")


def _read(path: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("snap-patents needs scipy: pip install 'tokenmix[graphs]'") from error
    names = ("edge_index", "node_feat", "num_nodes", "years")
    try:
        found = loadmat(path)
    except NotImplementedError as error:  # a file of MATLAB 7.3 is HDF5
        raise ValueError(
            f"{path}: expected a .mat file up to version 7, found one of version 7.3 (HDF5); load it in MATLAB or "
            "h5py and save it with scipy.io.savemat, or take the original file"
        ) from error
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise ValueError(f"{path}: expected a .mat file, found: {error}") from error
    absent = [name for name in names if name not in found]
    if absent:
        raise ValueError(f"{path}: expected {', '.join(names)}, found no {', '.join(absent)}")
    return {name: found[name] for name in names}
