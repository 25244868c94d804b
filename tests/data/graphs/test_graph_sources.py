"""Graphs by name, those of a user's own, generated ones, and torch_geometric's Data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokenmix.data.graphs import SOURCES, NodeData, from_pyg, load_graph, power_law, register_graph, to_pyg

SMALL: dict[str, Any] = {
    "num_nodes": 4001,
    "num_edges": 30_000,
    "num_features": 16,
    "communities": 20,
    "num_classes": 6,
}


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("croa", {}, ValueError, "name: unknown graph 'croa'; did you mean 'cora'"),
        ("zzz", {}, ValueError, "name: unknown graph 'zzz'; known: stdlib_calls, package_calls, wordnet"),
        (
            "wordnet",
            {"split_sed": 1},
            ValueError,
            "split_sed: not an option of the graph 'wordnet'; did you mean 'split_seed'",
        ),
        ("cora", {"split": 1}, ValueError, "split: not an option of the graph 'cora'"),
        ("cora", {"split_seed": 1, "seed": 2}, FileNotFoundError, "root: cora expected a folder with ind.cora.x"),
        (
            "debian",
            {},
            FileNotFoundError,
            "root: debian expected a folder with bookworm_main_amd64.npz, found none given",
        ),
    ],
)
def test_refused(name: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_graph(name, **options)


def test_a_source_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenmix.data.graphs.sources.SOURCES", SOURCES)
    monkeypatch.setitem(SOURCES, "wrong", lambda root: 3)
    with pytest.raises(TypeError, match="the source 'wrong' gave int, expected NodeData"):
        load_graph("wrong")
    with pytest.raises(ValueError, match="name: expected a new name, found 'cora', which is registered"):
        register_graph("cora")(lambda root: None)
    try:

        @register_graph("mine")
        def mine(root: Path | None, *, seed: int) -> NodeData:
            return SOURCES["power_law"](root, seed=seed, **SMALL)

        assert torch.equal(load_graph("mine", seed=3).labels, load_graph("power_law", seed=3, **SMALL).labels)
    finally:
        SOURCES.pop("mine", None)


def test_generated_again_from_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = load_graph("power_law", seed=1, **SMALL)
    monkeypatch.setattr(power_law, "_draw_features", power_law._draw_features)
    written = load_graph("power_law", tmp_path, seed=1, **SMALL)
    monkeypatch.setattr(power_law, "_draw_graph", None)  # the third call draws nothing
    opened = load_graph("power_law", tmp_path, seed=1, split_seed=5, **SMALL)
    for one in (written, opened):
        assert torch.equal(here.features, one.features)
        assert torch.equal(here.graph.edges(), one.graph.edges())
        assert torch.equal(here.labels, one.labels)
    assert torch.equal(here.train, written.train)
    assert not torch.equal(here.train, opened.train)
    monkeypatch.undo()
    other = load_graph("power_law", tmp_path, seed=2, **SMALL)
    assert not torch.equal(here.features, other.features)


def test_what_is_generated_is_as_described() -> None:
    data = load_graph("power_law", seed=0, homophily=0.6, power=0.45, noise=0.5, **SMALL)
    edges = data.graph.edges()
    assert data.graph.num_edges == 60_000
    assert bool((edges[0] != edges[1]).all())
    assert len(set(map(tuple, edges.T.tolist()))) == 60_000
    forward, back = edges[0] * 4001 + edges[1], edges[1] * 4001 + edges[0]
    assert torch.equal(forward.sort().values, back.sort().values)
    # Same class: 0.6 by choice, and of the others the share of equal classes, about 1 / 6.
    same = float((data.labels[edges[0]] == data.labels[edges[1]]).double().mean())
    assert abs(same - (0.6 + 0.4 / 6)) < 0.03
    none = load_graph("power_law", seed=0, homophily=0.0, **SMALL)
    ends = none.graph.edges()
    assert abs(float((none.labels[ends[0]] == none.labels[ends[1]]).double().mean()) - 1 / 6) < 0.03
    # Degree of rank r falls as r^-0.45, seen over ranks 40 to 4000.
    degrees = data.graph.degrees().sort(descending=True).values.double().numpy()[40:3000]
    slope = np.polyfit(np.log(np.arange(41, 3001)), np.log(degrees), 1)[0]
    assert -0.6 < slope < -0.35
    flat = load_graph("power_law", seed=0, power=0.0, **SMALL).graph.degrees()
    assert int(flat.max()) < 45
    assert int(data.graph.degrees().max()) > 100
    # Features tell the class by the nearest mean of training nodes of a community-free rule: centred, well apart.
    means = torch.stack([data.features[data.train][data.labels[data.train] == c].mean(0) for c in range(6)])
    nearest = torch.cdist(data.features[data.test], means).argmin(1)
    assert float((nearest == data.labels[data.test]).double().mean()) > 0.5
    noisy = load_graph("power_law", seed=0, noise=100.0, **SMALL)
    nearest = torch.cdist(noisy.features[noisy.test], means).argmin(1)
    assert float((nearest == noisy.labels[noisy.test]).double().mean()) < 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_edges": 4001 * 4000}, "num_edges: expected from 0 to"),
        ({"num_edges": 600_000}, "num_edges: expected at most .* with 20 communities"),
        ({"homophily": 1.5}, "homophily: expected from 0 to 1, found 1.5"),
        ({"power": 1.0}, "power: expected from 0 to below 1, found 1.0"),
        ({"communities": 5}, "num_classes: expected from 1 to 5, found 6"),
        ({"num_nodes": 4}, "num_nodes: expected from 8"),
        ({"noise": -1.0}, "noise: expected from 0 to inf"),
        ({"num_nodes": 3_000_000}, "root: expected a folder for 1.2 GB of features"),
    ],
)
def test_sizes_that_cannot_be(change: dict[str, Any], message: str) -> None:
    wide = {"num_features": 100} if change.get("num_nodes") == 3_000_000 else {}
    with pytest.raises(ValueError, match=message):
        load_graph("power_law", **{**SMALL, **wide, **change})


def test_there_and_back() -> None:
    pytest.importorskip("torch_geometric")
    data = load_graph("power_law", **SMALL)
    again = from_pyg(to_pyg(data), "again", classes=data.classes)
    assert torch.equal(again.features, data.features)
    assert torch.equal(again.graph.edges(), data.graph.edges())
    for name in ("train", "val", "test"):
        assert torch.equal(getattr(again, name), getattr(data, name).sort().values)
    assert again.classes == data.classes


def test_from_a_data_of_torch_geometric() -> None:
    kind = pytest.importorskip("torch_geometric.data").Data
    edges = torch.tensor([[0, 0, 1, 4], [1, 1, 2, 4]])
    y = torch.tensor([[0.0], [float("nan")], [2.0], [1.0], [-1.0]])
    masks = {f"{name}_mask": torch.zeros(5, 2, dtype=torch.bool) for name in ("train", "val", "test")}
    masks["train_mask"][[0, 2], [0, 1]] = True
    masks["val_mask"][3] = True
    masks["test_mask"][[2, 0], [0, 1]] = True
    data = from_pyg(kind(x=torch.eye(5).to_sparse(), edge_index=edges, y=y, **masks), split=1)
    assert data.labels.tolist() == [0, -100, 2, 1, -100]
    assert [part.tolist() for part in (data.train, data.val, data.test)] == [[2], [3], [0]]
    assert data.graph.edges().tolist() == [[0, 1, 4], [1, 2, 4]]
    assert data.features.layout == torch.sparse_csr
    free = from_pyg(kind(x=torch.eye(5), edge_index=edges, y=y))
    assert sorted(torch.cat([free.train, free.val, free.test]).tolist()) == [0, 2, 3]
    whole = kind(x=torch.eye(5), edge_index=edges, y=y, **masks)
    with pytest.raises(ValueError, match="split: expected 0 to 1, the columns of train_mask, found 2"):
        from_pyg(whole, split=2)
    with pytest.raises(ValueError, match="expected train_mask, val_mask and test_mask or none of them"):
        from_pyg(kind(x=torch.eye(5), edge_index=edges, y=y, val_mask=masks["val_mask"]))
    with pytest.raises(ValueError, match="expected x, edge_index and y, found no y"):
        from_pyg(kind(x=torch.eye(5), edge_index=edges))
    with pytest.raises(ValueError, match=r"data\.y: expected one label for each of 5 nodes"):
        from_pyg(kind(x=torch.eye(5), edge_index=edges, y=torch.zeros(4)))
