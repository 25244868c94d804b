"""WikiCS: articles on computer science and their links, with twenty splits."""

from __future__ import annotations

import json
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch

from tokenmix.data.graphs.download import download_file
from tokenmix.data.graphs.missing import DOWNLOAD, find_folder, reading
from tokenmix.data.graphs.node_data import NodeData
from tokenmix.ops.graph import Graph

URL = "https://github.com/pmernyei/wiki-cs-dataset/raw/master/dataset/data.json"
_KEYS = ("features", "labels", "links", "train_masks", "val_masks", "test_mask")


def wikics(root: Path | None = None, *, split: int = 0, undirected: bool = True, download: bool = False) -> NodeData:
    """WikiCS: 11,701 articles, 216,123 different links, 300 features (mean of word vectors), 10 subjects.

    Args:
        root: the folder with `data.json`, or one with `raw` or `WikiCS/raw` in it.
        split: which of the 20 of train and val; test is the same in all.
        undirected: read links both ways; else an article is read by those that it links to.
        download: fetch the file into `root`.

    Returns:
        The graph.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: the file is missing or damaged, or cannot be fetched.

    Source: Mernyei and Cangea 2020, arXiv 2007.02901. See data_cards/wikics.md.
    """
    try:
        remedy = f"{DOWNLOAD} fetches it from {URL}"
        folder = find_folder("wikics", root, ["raw", "WikiCS/raw"], ["data.json"], remedy)
    except FileNotFoundError:
        if not download or root is None:
            raise
        folder = Path(root)
        download_file(URL, folder / "data.json")
    path = folder / "data.json"
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, found: {error}") from error
    absent = [key for key in _KEYS if key not in content] if isinstance(content, dict) else list(_KEYS)
    if absent:
        raise ValueError(f"{path}: expected {', '.join(_KEYS)}, found no {', '.join(absent)}")
    with reading(path):
        splits = len(content["train_masks"])
    if not 0 <= split < splits:
        raise ValueError(f"split: expected 0 to {splits - 1}, found {split}")
    with reading(path):
        return _data_of(content, split, undirected)


def _data_of(content: dict[str, Any], split: int, undirected: bool) -> NodeData:
    splits, nodes = len(content["train_masks"]), len(content["labels"])
    if len(content["val_masks"]) != splits:
        raise ValueError(f"val_masks: expected {splits}, as many as train_masks, found {len(content['val_masks'])}")
    masks = {"train_masks": content["train_masks"][split], "val_masks": content["val_masks"][split]}
    masks["test_mask"] = content["test_mask"]
    for name, rows in {"features": content["features"], "links": content["links"], **masks}.items():
        if len(rows) != nodes:
            raise ValueError(f"{name}: expected one for each of {nodes} labels, found {len(rows)}")
    labels = torch.tensor(content["labels"], dtype=torch.int64)
    receivers = list(chain.from_iterable(content["links"]))
    senders = list(chain.from_iterable(repeat(i, len(row)) for i, row in enumerate(content["links"])))
    edges = torch.tensor([senders, receivers], dtype=torch.int64)
    train, val, test = (torch.tensor(mask, dtype=torch.bool).nonzero().reshape(-1) for mask in masks.values())
    return NodeData(
        "wikics",
        Graph.from_edges(edges, nodes, undirected=undirected),
        torch.tensor(content["features"], dtype=torch.float32),
        labels,
        tuple(map(str, range(int(labels.max()) + 1))),
        train,
        val,
        test,
        f"data.json of WikiCS, split {split}, {'undirected' if undirected else 'directed'}",
    )
