"""Graphs from the files of the standard sets: the real ones where they are here, else small ones of their names."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graph_cases import SHARED, needs, served, write_citeseer

from tokenmix.data.graphs import load_graph, planetoid, wikics
from tokenmix.data.graphs.snap_patents import year_classes


@pytest.fixture(autouse=True)
def few_to_choose_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in for CiteSeer has ten nodes, not thousands."""
    if "cora" not in request.node.name:
        monkeypatch.setattr(planetoid, "_VALIDATION", 2)


def neighbours(data: Any, node: int) -> list[int]:
    return data.graph.indices[data.graph.indptr[node] : data.graph.indptr[node + 1]].tolist()


def test_test_nodes_are_put_in_their_places(tmp_path: Path) -> None:
    """Row i of tx is the i-th node of test.index; node 7 is in no row."""
    pytest.importorskip("scipy")
    written = write_citeseer(tmp_path / "CiteSeer" / "raw")
    data = load_graph("citeseer", tmp_path)
    x = data.features.to_dense().numpy()
    assert np.array_equal(x[:6], written["known"])
    for row, node in enumerate((8, 6, 9)):
        assert np.array_equal(x[node], written["tested"][row].astype(np.float32)), node
    assert not x[7].any()
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2, 1, -100, 2, 0]
    assert data.train.tolist() == [0, 1]
    assert data.test.tolist() == [8, 6, 9]
    assert [neighbours(data, node) for node in (0, 1, 3, 7, 9)] == [[1], [0], [8], [], [6]]  # no loop, none twice


def test_as_torch_geometric_reads_it(tmp_path: Path) -> None:
    """All but the nodes in no row, which it gives the label 0."""
    datasets = pytest.importorskip("torch_geometric.datasets")
    write_citeseer(tmp_path / "CiteSeer" / "raw", known=510)
    theirs, ours = datasets.Planetoid(str(tmp_path), "CiteSeer")[0], load_graph("citeseer", tmp_path)
    assert torch.equal(theirs.x, ours.features.to_dense())
    assert torch.equal(theirs.y[ours.labels >= 0], ours.labels[ours.labels >= 0])
    assert set(map(tuple, theirs.edge_index.T.tolist())) == set(map(tuple, ours.graph.edges().T.tolist()))
    assert theirs.test_mask.nonzero().reshape(-1).tolist() == sorted(ours.test.tolist())


def test_a_pickle_that_would_run_something(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    write_citeseer(tmp_path)
    trap = tmp_path / "trap"

    class Bad:
        def __reduce__(self) -> Any:
            return Path.touch, (trap,)

    for value in (Bad(), {0: [Bad()]}):
        (tmp_path / "ind.citeseer.graph").write_bytes(pickle.dumps(value, protocol=2))
        with pytest.raises(ValueError, match=r"ind.citeseer.graph: expected a pickle of arrays, found: it asks for"):
            load_graph("citeseer", tmp_path)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("allx", b"", "allx: expected a pickle of arrays"),
        ("allx", pickle.dumps([1]), "allx: expected SparseRows, found list"),
        ("ty", pickle.dumps([1]), "ty: expected ndarray, found list"),
        ("test.index", b"8\n6\n", "test.index: expected 3 different ids from 6"),
        ("test.index", b"8\n6\n6\n", "found 2 different ones of 3 from 6"),
        ("test.index", b"5\n6\n7\n", "from 5"),
        ("test.index", b"8\nx\n9\n", "x"),
    ],
)
def test_damaged_files_of_citeseer(tmp_path: Path, part: str, content: bytes, message: str) -> None:
    pytest.importorskip("scipy")
    write_citeseer(tmp_path)
    (tmp_path / f"ind.citeseer.{part}").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_graph("citeseer", tmp_path)


def test_fetched_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy")
    write_citeseer(tmp_path / "there")
    here = tmp_path / "here"
    with pytest.raises(FileNotFoundError, match=r"citeseer expected ind.citeseer.x, .*download=True fetches them"):
        load_graph("citeseer", here)
    with served(tmp_path / "there") as url:
        monkeypatch.setattr(planetoid, "URL", url)
        data = load_graph("citeseer", here, download=True)
        assert data.graph.num_nodes == 10
        monkeypatch.setattr(planetoid, "_SHA256", {"ind.citeseer.ty": "0" * 64})
        (here / "ind.citeseer.ty").unlink()
        with pytest.raises(ValueError, match="expected sha256 0000"):
            load_graph("citeseer", here, download=True)
        (tmp_path / "there" / "ind.citeseer.ty").unlink()
        with pytest.raises(ConnectionError, match=r"ind.citeseer.ty could not be fetched \(.*404.*`curl -L -o"):
            load_graph("citeseer", here, download=True)
    assert sorted(path.name for path in here.iterdir()) == sorted(path.name for path in (tmp_path / "there").iterdir())


@needs("cora")
def test_cora_is_that_of_the_paper() -> None:
    data = load_graph("cora", SHARED / "cora")
    assert (data.graph.num_nodes, data.graph.num_edges, data.features.shape[1]) == (2708, 10_556, 1433)
    # Counts of the seven classes in McCallum's original set, by name.
    counts = dict(zip(data.classes, data.labels.bincount().tolist(), strict=True))
    assert counts["Neural_Networks"] == 818
    assert counts["Rule_Learning"] == 180
    assert [len(part) for part in (data.train, data.val, data.test)] == [140, 500, 1000]
    assert data.labels[data.train].bincount().tolist() == [20] * 7
    edges = data.graph.edges()
    assert (data.labels[edges[0]] == data.labels[edges[1]]).double().mean() > 0.8  # a wrong order of test nodes: 0.6


def write_patents(folder: Path) -> dict[str, Any]:
    from scipy.io import savemat
    from scipy.sparse import csc_matrix

    folder.mkdir(parents=True, exist_ok=True)
    years = np.array([[1963.0, 1970, 1975, 1980, 1985, 1990, 1995, 1999, np.nan, 1963]])
    content = {
        "edge_index": np.array([[4, 4, 7, 5], [0, 1, 4, 0]]),
        "node_feat": csc_matrix(np.arange(30.0).reshape(10, 3) % 4),
        "num_nodes": np.array([[10]]),
        "years": years,
    }
    savemat(folder / "snap_patents.mat", content)
    return content


def test_patents(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    written = write_patents(tmp_path / "data")
    data = load_graph("snap-patents", tmp_path, split_seed=1)
    assert [neighbours(data, node) for node in (4, 7, 5, 0)] == [[0, 1], [4], [0], []]
    citing = load_graph("snap-patents", tmp_path, reads="citing")
    assert [neighbours(citing, node) for node in (4, 7, 5, 0)] == [[7], [], [], [4, 5]]
    both = load_graph("snap-patents", tmp_path, reads="both")
    assert neighbours(both, 4) == [0, 1, 7]
    assert np.array_equal(data.features.to_dense().numpy(), written["node_feat"].toarray())
    assert data.labels.tolist() == year_classes(written["years"][0], 5).tolist()
    assert data.labels[8] == -100
    assert sorted(torch.cat([data.train, data.val, data.test]).tolist()) == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    with pytest.raises(ValueError, match="reads: expected 'cited', 'citing' or 'both', found 'cites'"):
        load_graph("snap-patents", tmp_path, reads="cites")


def test_classes_of_years_are_those_of_the_loop() -> None:
    years = np.random.default_rng(0).integers(1963, 2000, 500).astype(float)
    expected = [sum(year >= np.quantile(years, k / 5) for k in (1, 2, 3, 4)) for year in years]
    assert year_classes(years, 5).tolist() == expected
    assert min(np.bincount(expected)) > 70


def test_patents_in_another_format(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    path = tmp_path / "snap_patents.mat"
    # A header of MATLAB 7.3: text, then version 0x0200 and the mark of the byte order.
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(ValueError, match=re.escape("found one of version 7.3 (HDF5)")):
        load_graph("snap-patents", tmp_path)
    path.write_bytes(b"no such file" * 30)
    with pytest.raises(ValueError, match=r"expected a \.mat file"):
        load_graph("snap-patents", tmp_path)
    from scipy.io import savemat

    savemat(path, {"years": np.zeros(3)})
    with pytest.raises(ValueError, match="found no edge_index, node_feat, num_nodes"):
        load_graph("snap-patents", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"snap_patents\.mat in .*gdown"):
        load_graph("snap-patents", tmp_path / "nowhere")


def write_wikics(path: Path) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "features": [[0.5 * i, -1.0] for i in range(6)],
        "labels": [0, 1, 2, 0, 1, 2],
        "links": [[1, 2], [0], [], [3, 5], [], [4]],
        "train_masks": [[i == split for i in range(6)] for split in range(3)],
        "val_masks": [[i == 3 for i in range(6)] for _ in range(3)],
        "test_mask": [i > 3 for i in range(6)],
    }
    path.write_text(json.dumps(content))
    return content


def test_wikics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = write_wikics(tmp_path / "WikiCS" / "raw" / "data.json")
    data = load_graph("wikics", tmp_path, split=2)
    assert data.features.tolist() == content["features"]
    assert [part.tolist() for part in (data.train, data.val, data.test)] == [[2], [3], [4, 5]]
    assert [neighbours(data, node) for node in range(6)] == [[1, 2], [0], [0], [3, 5], [5], [3, 4]]
    directed = load_graph("wikics", tmp_path, undirected=False)
    assert [neighbours(directed, node) for node in range(6)] == [[1], [0], [0], [3], [5], [3]]
    with pytest.raises(ValueError, match="split: expected 0 to 2, found 3"):
        load_graph("wikics", tmp_path, split=3)
    with served(tmp_path / "WikiCS" / "raw") as url:
        monkeypatch.setattr(wikics, "URL", f"{url}/data.json")
        assert load_graph("wikics", tmp_path / "other", download=True).graph.num_nodes == 6
    path = tmp_path / "other" / "data.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="expected JSON"):
        load_graph("wikics", path.parent)
    path.write_text("[]")
    with pytest.raises(ValueError, match="found no features, labels"):
        load_graph("wikics", path.parent)


def test_nan_in_a_file_is_named(tmp_path: Path) -> None:
    content = write_wikics(tmp_path / "data.json")
    content["features"][4][1] = float("nan")
    (tmp_path / "data.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="features: expected finite numbers, found nan at node 4, column 1"):
        load_graph("wikics", tmp_path)


@needs("debian_deps")
def test_debian() -> None:
    data = load_graph("debian", SHARED)
    names = np.load(SHARED / "debian_deps" / "bookworm_main_amd64.npz")["name"]
    hub = int(data.graph.degrees().argmax())
    assert (names[hub], int(data.graph.degrees()[hub])) == ("libc6", 21_814)
    assert data.features.shape[1] == 4096
    assert data.classes[data.labels[hub]] == "libs"


def test_wordnet() -> None:
    data, harder = load_graph("wordnet"), load_graph("wordnet", hypernyms=False)

    def same_class(one: Any) -> float:
        edges = one.graph.edges()
        return float((one.labels[edges[0]] == one.labels[edges[1]]).double().mean())

    assert round(same_class(data), 3) == 0.709
    assert same_class(harder) < 0.5
    assert data.classes[data.labels[0]] == "noun.Tops"  # entity
    full, part = (set(map(tuple, one.graph.edges()[:, ::50].T.tolist())) for one in (data, harder))
    assert set(map(tuple, data.graph.edges().T.tolist())) >= part
    assert full
    assert (Path(planetoid.__file__).parent / "files" / "LICENSE.WordNet").stat().st_size > 1000
