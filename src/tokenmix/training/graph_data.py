"""A graph made ready for LargeGT: where its hop features are kept, and the positional encodings of its nodes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from tokenmix.data.graphs import NodeData, load_graph
from tokenmix.data.graphs.missing import DOWNLOAD
from tokenmix.data.node_batches import NodeCollator
from tokenmix.models.large_gt import LargeGTConfig
from tokenmix.ops.graph_positions import laplacian_encoding, random_walk_encoding
from tokenmix.ops.hop_features import hop_features, open_hop_features
from tokenmix.training.resume import write_text

_BLOCK = 1 << 24  # numbers that are read together
IN_MEMORY = 4 << 30  # bytes of hop features above which they go to a file


@dataclass
class GraphConfig:
    """Which graph, and what is computed of it beforehand."""

    name: str = "stdlib_calls"
    """A source of `tokenmix.data.graphs.load_graph`, or "my_file.py:NAME" for one that the file registers."""
    folder: str | None = None
    """Where its files are, if it is not built on the spot."""
    split_seed: int = 0
    """Of the split into training, validation and test, where the source has none of its own."""
    options: dict[str, Any] = field(default_factory=dict)
    """More keywords of the source."""
    store: Literal["auto", "graph", "memory", "disk"] = "auto"
    """Hop features: computed by the model in every step from the graph in memory ("graph": the way of sparse features),
    or beforehand, in memory or in a file under the output folder."""
    positions: Literal["laplacian", "random_walk"] | None = None
    """Positional encodings that the global half reads."""
    position_size: int = 32
    """Width of them."""


class PreparedGraph(NamedTuple):
    """A graph with what models read of it.

    Args:
        data: graph, raw features, labels and splits.
        features: (N, hops + 1, F) hop features; None where models compute them from the graph.
        positions: (N, p), or None.
        description: a line for the table.
    """

    data: NodeData
    features: Tensor | None
    positions: Tensor | None
    description: str

    def collator(self, model: LargeGTConfig, seed: int, *, resample: bool) -> NodeCollator:
        """What makes the batches of a model, see `NodeCollator.of`."""
        options: dict[str, Any] = {"seed": seed, "resample": resample}
        return NodeCollator.of(model, self.data.graph, features=self.features, positions=self.positions, **options)


def prepare_graph(config: GraphConfig, hops: int, folder: str | os.PathLike[str]) -> PreparedGraph:
    """Load a graph, and compute hop features and positional encodings; those are kept in a folder for the next start.

    Args:
        config: which, and how.
        hops: powers of the normalised adjacency.
        folder: for what is kept.

    Raises:
        ValueError, FileNotFoundError: an unknown graph, or files that are missing.
    """
    with PartialState().main_process_first():  # what is built, downloaded or converted is written once
        data = _load(config)
    store = config.store
    if store == "auto":
        size = data.features.shape[0] * data.features.shape[1] * 4 * (hops + 1)
        sparse = data.features.layout == torch.sparse_csr
        store = "graph" if sparse else "memory" if size < IN_MEMORY else "disk"
    features = None
    if store == "memory":
        features = hop_features(data.graph, data.features, hops)
    elif store == "disk":
        with PartialState().main_process_first():
            features = _hop_features_on_disk(data, hops, Path(folder) / "hop_features")
    with PartialState().main_process_first():
        positions = _positions(config, data, Path(folder))
    return PreparedGraph(data, features, positions, describe_graph(data))


def _load(config: GraphConfig) -> NodeData:
    try:
        return load_graph(config.name, config.folder, **{"split_seed": config.split_seed, **config.options})
    except (OSError, ValueError) as error:
        told = str(error)
        if not told.startswith("root:"):
            raise
        told = told.replace(DOWNLOAD, "data.folder=FOLDER, data.options={download: true}")
        raise type(error)(told.replace("root:", "data.folder:", 1)) from error


def describe_graph(data: NodeData) -> str:
    """Its counts in a line."""
    nodes, edges = data.graph.num_nodes, data.graph.num_edges
    splits = f"{len(data.train):,} / {len(data.val):,} / {len(data.test):,} for training, validation and test"
    return f"{data.name}: {nodes:,} nodes, {edges:,} directed edges, {len(data.classes)} classes; {splits}"


def _hop_features_on_disk(data: NodeData, hops: int, folder: Path) -> Tensor:
    """Those that an earlier start, or another process, wrote of the same graph; else written now."""
    about, settings = folder / "source.json", _fingerprint({"hops": hops}, *_numbers(data))
    try:
        found = open_hop_features(folder)
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(about, settings)  # before the features: a start that is killed between them leaves none
        return hop_features(data.graph, data.features, hops, out=folder)
    if not about.exists():
        raise ValueError(f"output: {folder} does not say of which graph its hop features are; remove it")
    if about.read_text(encoding="utf-8") != settings:
        raise ValueError(f"output: {folder} holds hop features of another graph; remove it, or write elsewhere")
    return found


def _positions(config: GraphConfig, data: NodeData, folder: Path) -> Tensor | None:
    if config.positions is None:
        return None
    path = folder / "positions.npy"
    about = path.with_suffix(".json")
    settings = _fingerprint(dataclasses.asdict(config), data.graph.indptr, data.graph.indices)
    if path.exists() and about.exists() and about.read_text(encoding="utf-8") == settings:
        return torch.from_numpy(np.load(path))
    if config.positions == "laplacian":
        found = laplacian_encoding(data.graph, config.position_size) * data.graph.num_nodes**0.5  # entries of order 1
    else:
        found = random_walk_encoding(data.graph, config.position_size)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"positions.{os.getpid()}.npy")
    np.save(temporary, found.float().numpy())
    os.replace(temporary, path)
    write_text(about, settings)
    return found.float()


def _numbers(data: NodeData) -> list[Tensor]:
    """Of which hop features are computed: edges and features."""
    x = data.features
    features = [x.crow_indices(), x.col_indices(), x.values()] if x.layout == torch.sparse_csr else [x]
    return [data.graph.indptr, data.graph.indices, *features]


def _fingerprint(settings: dict[str, Any], *numbers: Tensor) -> str:
    """JSON that tells what is kept of one graph from that of another: settings, and a digest of what it depends on."""
    digest = hashlib.blake2b(digest_size=16)
    for part in numbers:
        digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
        step = max(1, _BLOCK // max(1, part[:1].numel()))
        for start in range(0, len(part), step):  # all of it, a part at a time: features may be larger than memory
            digest.update(np.ascontiguousarray(part[start : start + step].numpy()).data)
    return json.dumps({**settings, "graph": digest.hexdigest()})
