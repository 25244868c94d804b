"""Files of graphs whose content does not fit: the error names the file and what was found in it."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graph_cases import write_citeseer, write_csv, write_ogb

from tokenmix.data.graphs import from_pyg, load_graph
from tokenmix.data.graphs.missing import reading
from tokenmix.data.graphs.word_graphs import data_of_arrays
from tokenmix.ops.graph import Graph

WIKICS: dict[str, Any] = {
    "features": [[0.1, 0.2]] * 4,
    "labels": [0, 1, 0, 1],
    "links": [[1], [0], [3], [2]],
    "train_masks": [[1, 0, 0, 0]] * 2,
    "val_masks": [[0, 1, 0, 0]] * 2,
    "test_mask": [0, 0, 1, 1],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"links": [[1], [0]]}, "links: expected one for each of 4 labels, found 2"),
        ({"links": [[9], [0], [3], [2]]}, "edges: expected ids from 0 to 3, found 9"),
        ({"train_masks": [[1, 0]] * 2}, "train_masks: expected one for each of 4 labels, found 2"),
        ({"val_masks": [[0, 1, 0, 0]]}, "val_masks: expected 2, as many as train_masks, found 1"),
        ({"test_mask": [0, 0, 1, 1, 1]}, "test_mask: expected one for each of 4 labels, found 5"),
        ({"features": None}, "TypeError"),
        ({"features": [[0.1, 0.2]] * 3 + [[0.1]]}, "expected sequence of length 2"),
        ({"labels": list("abcd")}, "too many dimensions"),
        ({"features": [], "labels": [], "links": [], "train_masks": [[]], "val_masks": [[]], "test_mask": []}, "max"),
    ],
)
def test_wikics(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "data.json").write_text(json.dumps(WIKICS | change))
    with pytest.raises(ValueError, match=rf"data\.json: .*{message}"):
        load_graph("wikics", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge_index": np.array([[0, 1.5, 2], [1, 2, 3]])}, "edge_index: expected whole numbers, found 1.5"),
        ({"edge_index": np.array([[0, 1], [1, 2], [2, 3]])}, r"edges: expected shape \(2, E\), found \(3, 2\)"),
        ({"num_nodes": np.array([])}, "IndexError"),
        ({"num_nodes": 5}, r"features: expected shape \(5, F\), found \(4, 4\)"),
    ],
)
def test_patents(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    good = {"edge_index": np.array([[0, 1, 2], [1, 2, 3]]), "num_nodes": 4, "years": np.arange(1970.0, 1974)}
    savemat(tmp_path / "snap_patents.mat", {**good, "node_feat": np.eye(4), **change})
    with pytest.raises(ValueError, match=rf"snap_patents\.mat: .*{message}"):
        load_graph("snap-patents", tmp_path)


def test_patents_with_dense_features(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    arrays = {"edge_index": np.array([[0, 1], [1, 2]]), "num_nodes": 3, "years": np.arange(1970.0, 1973)}
    savemat(tmp_path / "snap_patents.mat", {**arrays, "node_feat": np.diag([1.0, 2, 3])})
    assert torch.equal(load_graph("snap-patents", tmp_path).features.to_dense(), torch.diag(torch.tensor([1.0, 2, 3])))


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("ally", np.eye(3)[[0, 1]], r"ally: expected shape \(6, 3\), rows of allx and columns of y, found \(2, 3\)"),
        ("ty", np.eye(2)[[0, 1, 0]], r"ty: expected shape \(3, 3\), rows of tx and columns of y, found \(3, 2\)"),
        ("graph", {0: [99]}, "edges: expected ids from 0 to 9, found 99"),
        ("graph", {"a": ["b"]}, "too many dimensions"),
    ],
)
def test_citeseer(tmp_path: Path, part: str, value: Any, message: str) -> None:
    pytest.importorskip("scipy")
    write_citeseer(tmp_path)
    (tmp_path / f"ind.citeseer.{part}").write_bytes(pickle.dumps(value, protocol=2))
    with pytest.raises(ValueError, match=rf"ind\.citeseer.*{message}"):
        load_graph("citeseer", tmp_path)


@pytest.mark.parametrize(
    ("file", "rows", "message"),
    [
        ("raw/node-label", [[1.5]] * 12, "labels: expected whole numbers or NaN, found 1.5"),
        ("raw/node-label", [[float("inf")]] * 12, "labels: expected whole numbers or NaN, found inf"),
        ("raw/edge", [[0, 1, 2]], r"edges: expected shape \(2, E\)"),
        ("split/time/train", [[12]], "train: expected ids from 0 to 11, found 12"),
    ],
)
def test_arxiv(tmp_path: Path, file: str, rows: list[list[float]], message: str) -> None:
    write_ogb(tmp_path, "arxiv", "time", np.random.default_rng(0))
    write_csv(tmp_path / "ogbn_arxiv" / f"{file}.csv.gz", rows)
    with pytest.raises(ValueError, match=f"ogbn_arxiv.*: {message}"):
        load_graph("ogbn-arxiv", tmp_path)


def test_arxiv_of_other_files_is_read_again_though_they_are_older(tmp_path: Path) -> None:
    """unzip keeps the times of the archive: what replaces a file may be older than what was made of it."""
    write_ogb(tmp_path, "arxiv", "time", np.random.default_rng(0))
    before = load_graph("ogbn-arxiv", tmp_path)
    raw = tmp_path / "ogbn_arxiv" / "raw"
    write_csv(raw / "edge.csv.gz", [[0, 1]])
    write_csv(raw / "node-feat.csv.gz", [[7.0, 7.0, 7.0]] * 12)
    for name in ("edge", "node-feat"):
        os.utime(raw / f"{name}.csv.gz", (1.5e9, 1.5e9))
    after = load_graph("ogbn-arxiv", tmp_path)
    assert (before.graph.num_edges, after.graph.num_edges) == (9, 2)
    assert after.features.unique().tolist() == [7.0]


def test_edges_that_lie_the_other_way_are_no_other_graph() -> None:
    arrays = {
        "y": np.array([0, 1, 0]),
        "edge": np.array([[0, 1, 0], [1, 2, 2]]),
        "feat_indptr": np.array([0, 1, 1, 1]),
        "feat_index": np.array([0]),
        "classes": np.array(["a", "b"]),
        "vocab": np.array(["w"]),
    }
    with pytest.raises(ValueError, match=r"edge: expected shape \(E, 2\) in the file of debian, found \(2, 3\)"):
        data_of_arrays("debian", arrays, 0, "here")
    arrays["edge"] = arrays["edge"].T
    assert data_of_arrays("debian", arrays, 0, "here").graph.num_edges == 6


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            torch.ones(2, dtype=torch.bool),
            r"expected bool of shape \(4,\) or \(4, splits\), found torch.bool of \(2,\)",
        ),
        (torch.tensor([2, 3, 0, 1]), "found torch.int64 of"),
    ],
)
def test_masks_of_torch_geometric(mask: torch.Tensor, message: str) -> None:
    kind = pytest.importorskip("torch_geometric.data").Data
    none = torch.zeros(4, dtype=torch.bool)
    data = kind(x=torch.eye(4), edge_index=torch.tensor([[0], [1]]), y=torch.tensor([0, 1, 0, 1]))
    data.train_mask, data.val_mask, data.test_mask = mask, none, none
    with pytest.raises(ValueError, match=rf"data\.train_mask: .*{message}"):
        from_pyg(data)
    data.y = torch.tensor([0, float("inf"), 0, 1])
    with pytest.raises(ValueError, match=r"data\.y: expected classes, found inf"):
        from_pyg(data)


def test_what_is_kept_is_forgotten_before_it_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the graph of other files was saved, and before that was noted; then the first files come back."""
    write_ogb(tmp_path, "arxiv", "time", np.random.default_rng(0))
    edges = tmp_path / "ogbn_arxiv" / "raw" / "edge.csv.gz"
    first, times = edges.read_bytes(), (1.5e9, 1.5e9)
    os.utime(edges, times)
    assert load_graph("ogbn-arxiv", tmp_path).graph.num_edges == 9
    write_csv(edges, [[0, 1]])
    save = Graph.save

    def killed(graph: Graph, folder: Path) -> None:
        save(graph, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Graph, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            load_graph("ogbn-arxiv", tmp_path)
    edges.write_bytes(first)
    os.utime(edges, times)
    assert load_graph("ogbn-arxiv", tmp_path).graph.num_edges == 9


def test_what_is_no_fault_of_a_file_keeps_its_words(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(json.dumps(WIKICS))
    with pytest.raises(ValueError, match=r"^split: expected 0 to 1, found 7"):
        load_graph("wikics", tmp_path, split=7)
    with pytest.raises(ValueError, match=r"^split_seed: expected a whole number of 0 or more, found -1"):
        load_graph("wordnet", split_seed=-1)
    with pytest.raises(RuntimeError, match=r"^not enough memory"), reading(tmp_path):
        raise RuntimeError("not enough memory")
