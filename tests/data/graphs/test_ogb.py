"""The sets of the Open Graph Benchmark from small files under their real names."""

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from graph_cases import served, write_csv, write_ogb

from tokenmix.data.graphs import csv_arrays, load_graph, ogb
from tokenmix.data.graphs.csv_arrays import read_csv


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("name", "split"), [("arxiv", "time"), ("products", "sales_ranking")])
@pytest.mark.parametrize("block", [7, 1 << 24])
def test_raw_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, split: str, block: int) -> None:
    monkeypatch.setattr(csv_arrays, "_BLOCK", block)  # bytes: lines are cut anywhere
    written = write_ogb(tmp_path, name, split, rng())
    for root in (tmp_path, tmp_path / f"ogbn_{name}"):  # the second call reads what the first kept
        data = load_graph(f"ogbn-{name}", root)
        assert torch.equal(data.features, torch.from_numpy(written["features"]))
        assert data.labels.tolist() == written["labels"].tolist()
        expected = {(a, b) for a, b in written["edges"].tolist()} | {(b, a) for a, b in written["edges"].tolist()}
        assert sorted(map(tuple, data.graph.edges().T.tolist())) == sorted(expected)
        assert [part.tolist() for part in (data.train, data.val, data.test)] == [[0, 4, 2], [5], [11, 7]]
    assert len(data.classes) == {"arxiv": 40, "products": 47}[name]
    directed = load_graph(f"ogbn-{name}", tmp_path, undirected=False)
    assert sorted(map(tuple, directed.graph.edges().T.tolist())) == sorted(
        {(a, b) for a, b in written["edges"].tolist()}
    )


def test_files_that_change_are_read_again(tmp_path: Path) -> None:
    write_ogb(tmp_path, "arxiv", "time", rng())
    load_graph("ogbn-arxiv", tmp_path)
    raw = tmp_path / "ogbn_arxiv" / "raw"
    write_csv(raw / "edge.csv.gz", [[3, 4]])
    write_csv(raw / "node-feat.csv.gz", np.full((12, 2), 0.5))
    again = load_graph("ogbn-arxiv", tmp_path)
    assert again.graph.num_edges == 2
    assert again.features.tolist() == [[0.5, 0.5]] * 12


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    written = write_ogb(tmp_path, "arxiv", "time", rng())
    (tmp_path / "ogbn_arxiv" / "tokenmix").write_text("in the way")
    data = load_graph("ogbn-arxiv", tmp_path)
    assert torch.equal(data.features, torch.from_numpy(written["features"]))
    assert data.graph.num_edges == 9


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("raw/node-feat.csv.gz", b"1,2\n" * 11, "expected 12 lines, one for each node, found 11"),
        ("raw/node-feat.csv.gz", b"1,2\n" * 13, "expected 12 lines, one for each node, found 13"),
        (
            "raw/node-feat.csv.gz",
            b"1,2\n1,2,3\n1\n" * 4,
            "expected 2 numbers a line, found other text in lines 1 to 12",
        ),
        ("raw/node-feat.csv.gz", b"1,2\n1,x\n", "expected 2 numbers a line"),
        ("raw/node-feat.csv.gz", b"1,2\n" * 11 + b"1,nan\n", "found nan at node 11, column 1"),
        ("raw/edge.csv.gz", b"0,1\n1,12\n", "expected ids from 0 to 11, found 12"),
        ("raw/node-label.csv.gz", b"41\n" * 12, "labels: expected -100 or 0 to 39, found 41 at node 0"),
        ("raw/node-label.csv.gz", b"1\n" * 5, "labels: expected one for each of 12 nodes, found 5"),
        ("split/time/test.csv.gz", b"4\n", "test: expected every node in one split"),
    ],
)
def test_damaged(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    write_ogb(tmp_path, "arxiv", "time", rng())
    (tmp_path / "ogbn_arxiv" / file).write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=message):
        load_graph("ogbn-arxiv", tmp_path)
    assert not list(tmp_path.rglob("*.part"))


def test_a_file_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"1,2\n3,4\n" * 100)[:-12])
    with pytest.raises(ValueError, match="expected a whole gzip file"):
        read_csv(path)
    path.write_bytes(gzip.compress(b"1,2\r\n3,4"))  # no newline at the end
    assert read_csv(path).tolist() == [[1, 2], [3, 4]]
    path.write_bytes(gzip.compress(b""))
    assert read_csv(path).shape == (0, 1)


def test_missing_files_are_named(tmp_path: Path) -> None:
    write_ogb(tmp_path, "arxiv", "time", rng())
    (tmp_path / "ogbn_arxiv" / "raw" / "edge.csv.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"found no raw/edge.csv.gz in .*ogbn_arxiv; .*arxiv.zip"):
        load_graph("ogbn-arxiv", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"root: ogbn-products expected a folder with raw/edge\.csv\.gz"):
        load_graph("ogbn-products")


def test_fetched_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_ogb(tmp_path / "there", "arxiv", "time", rng())
    with zipfile.ZipFile(tmp_path / "there" / "arxiv.zip", "w") as archive:
        for path in sorted((tmp_path / "there" / "ogbn_arxiv").rglob("*.gz")):
            archive.write(path, Path("arxiv") / path.relative_to(tmp_path / "there" / "ogbn_arxiv"))
    (tmp_path / "there" / "products.zip").write_bytes(b"no archive")
    with served(tmp_path / "there") as url:
        monkeypatch.setattr(ogb, "URL", url)
        data = load_graph("ogbn-arxiv", tmp_path / "here", download=True)
        assert data.labels.tolist() == written["labels"].tolist()
        with pytest.raises(ValueError, match="expected a zip archive"):
            load_graph("ogbn-products", tmp_path / "here", download=True)
        (tmp_path / "here" / "ogbn_products").mkdir()
        (tmp_path / "here" / "ogbn_products" / "mine.txt").write_text("kept")
        with pytest.raises(FileExistsError, match="move it"):
            load_graph("ogbn-products", tmp_path / "here", download=True)
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["ogbn_arxiv", "ogbn_products"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_papers(tmp_path: Path, save: object) -> None:
    folder = tmp_path / "ogbn_papers100M"
    (folder / "raw").mkdir(parents=True)
    features = rng().standard_normal((9, 4)).astype(np.float32)
    edges = np.array([[0, 1, 8], [1, 2, 3]])
    labels = np.array([[0.0], [np.nan], [171], [3], [np.nan], [1], [np.nan], [np.nan], [2]], np.float32)
    save(folder / "raw" / "data.npz", node_feat=features, edge_index=edges, num_nodes_list=[9], node_year=np.zeros(9))
    save(folder / "raw" / "node-label.npz", node_label=labels)
    for part, ids in {"train": [0], "valid": [2, 3], "test": [8]}.items():
        write_csv(folder / f"split/time/{part}.csv.gz", [[i] for i in ids])
    for _ in range(2):
        data = load_graph("ogbn-papers100M", tmp_path)
        assert torch.equal(data.features, torch.from_numpy(features))
        assert data.labels.tolist() == [0, -100, 171, 3, -100, 1, -100, -100, 2]
        assert sorted(map(tuple, data.graph.edges().T.tolist())) == [(0, 1), (1, 0), (1, 2), (2, 1), (3, 8), (8, 3)]
    unpacked = sorted(path.name for path in (folder / "tokenmix").glob("*.npy"))
    assert unpacked == ([] if save is np.savez else ["edge_index.npy", "node-feat.npy"])
    (folder / "split/time/test.csv.gz").write_bytes(gzip.compress(b"1\n"))
    with pytest.raises(ValueError, match="test: expected nodes with a label, found node 1 without one"):
        load_graph("ogbn-papers100M", tmp_path)
    content = bytearray((folder / "raw" / "data.npz").read_bytes())
    (folder / "raw" / "data.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"data\.npz"):
        load_graph("ogbn-papers100M", tmp_path)
