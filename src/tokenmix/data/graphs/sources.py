"""Graphs by the name of where they come from."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tokenmix.data.graphs.call_sources import package_calls, stdlib_calls
from tokenmix.data.graphs.features import check_features
from tokenmix.data.graphs.node_data import NodeData
from tokenmix.data.graphs.ogb import ogbn_arxiv, ogbn_products
from tokenmix.data.graphs.ogb_papers import ogbn_papers100M
from tokenmix.data.graphs.planetoid import citeseer, cora, pubmed
from tokenmix.data.graphs.power_law import power_law
from tokenmix.data.graphs.snap_patents import snap_patents
from tokenmix.data.graphs.wikics import wikics
from tokenmix.data.graphs.word_graphs import debian, wordnet
from tokenmix.nearest import nearest
from tokenmix.plugins import registered_name

Source = Callable[..., NodeData]
_LOOKED_AT = 4 << 30  # bytes of features up to which all are looked at for NaN
_OPEN_TO_ALL = ("split_seed", "seed")  # passed on where a source has them

SOURCES: dict[str, Source] = {
    "stdlib_calls": stdlib_calls,
    "package_calls": package_calls,
    "wordnet": wordnet,
    "debian": debian,
    "cora": cora,
    "citeseer": citeseer,
    "pubmed": pubmed,
    "ogbn-arxiv": ogbn_arxiv,
    "ogbn-products": ogbn_products,
    "ogbn-papers100M": ogbn_papers100M,
    "snap-patents": snap_patents,
    "wikics": wikics,
    "power_law": power_law,
}


def load_graph(name: str = "stdlib_calls", root: str | os.PathLike[str] | None = None, **options: Any) -> NodeData:
    """A graph with features, labels and splits of its nodes.

    Args:
        name: of the source, one of `SOURCES`, or "my_file.py:NAME", a file that registers it under this name.
        root: the folder of its files; for a graph that is built here, where it is kept for the next time (default: the
            user's cache folder).
        options: those of the source's function. `split_seed` (of a random 50/25/25 split) and `seed` (of a generated
            graph) may be given for every source; one with a split or data of its own does not use them.

    Raises:
        ValueError: an unknown source or option, with the nearest; data that cannot be. FileNotFoundError: files are
            missing; the message says which, and which command or folder would mend it.

    Example:
        >>> data = load_graph("wordnet", split_seed=1)
        >>> data
        NodeData('wordnet': 117,659 nodes, 367,578 directed edges, 8,192 features, 45 classes, 58,829/29,415/29,415)
        >>> load_graph("wordnt")
        Traceback (most recent call last):
        ...
        ValueError: name: unknown graph 'wordnt'; did you mean 'wordnet' or ...?
    """
    name = registered_name(name, SOURCES)
    if name not in SOURCES:
        raise ValueError(f"name: unknown graph {name!r}; {nearest(name, SOURCES)}")
    load = SOURCES[name]
    known = [option for option in inspect.signature(load).parameters if option != "root"]
    for option in options:
        if option not in known and option not in _OPEN_TO_ALL:
            raise ValueError(f"{option}: not an option of the graph {name!r}; {nearest(option, known)}")
    split_seed = options.get("split_seed", 0)
    if not isinstance(split_seed, int) or split_seed < 0:
        raise ValueError(f"split_seed: expected a whole number of 0 or more, found {split_seed!r}")
    passed = {option: value for option, value in options.items() if option in known}
    data = load(None if root is None else Path(root).expanduser(), **passed)
    if not isinstance(data, NodeData):
        raise TypeError(f"name: the source {name!r} gave {type(data).__name__}, expected NodeData")
    if data.features.layout == torch.sparse_csr or data.features.numel() * 4 <= _LOOKED_AT:
        check_features(data.features)
    return data


def register_graph(name: str) -> Callable[[Source], Source]:
    """Add a source of your own: a function of `root` and keywords that gives `NodeData`.

    Args:
        name: under which `load_graph` and the recipe find it.

    Raises:
        ValueError: the name is taken.

    Example:
        >>> @register_graph("my_graph")
        ... def my_graph(root, *, split_seed=0):
        ...     return wordnet(None, split_seed=split_seed)
        >>> load_graph("my_graph").name
        'wordnet'
        >>> del SOURCES["my_graph"]
    """

    def add(load: Source) -> Source:
        if name in SOURCES:
            raise ValueError(f"name: expected a new name, found {name!r}, which is registered")
        SOURCES[name] = load
        return load

    return add
