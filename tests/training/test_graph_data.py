"""What a recipe says of a graph's files, in the words of its configuration."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenmix.data.graphs import NodeData
from tokenmix.data.graphs.features import bag_of_words
from tokenmix.ops.graph import Graph
from tokenmix.training import graph_data
from tokenmix.training.graph_data import GraphConfig, _hop_features_on_disk, prepare_graph


def test_missing_files_are_told_as_fields_of_the_config(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^data\.folder: cora expected .*ind\.cora\.x") as caught:
        prepare_graph(GraphConfig(name="cora", folder=str(tmp_path)), 2, tmp_path)
    assert "data.folder=FOLDER, data.options={download: true} fetches them" in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"^data\.folder: ogbn-arxiv expected .*, found none given"):
        prepare_graph(GraphConfig(name="ogbn-arxiv"), 2, tmp_path)


def test_other_mistakes_keep_their_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^name: "):
        prepare_graph(GraphConfig(name="no_such_graph"), 2, tmp_path)


@pytest.mark.parametrize("positions", [None, "random_walk"])
def test_what_is_kept_of_one_graph_is_not_given_for_another(tmp_path: Path, positions: str | None) -> None:
    sizes = {"num_nodes": 80, "num_edges": 200, "num_features": 4, "communities": 5, "num_classes": 5}
    config = GraphConfig("power_law", store="disk", positions=positions, position_size=3, options=sizes)
    first, again = (prepare_graph(config, 2, tmp_path / "out") for _ in range(2))
    assert torch.equal(first.features[:, 0], first.data.features)
    assert torch.equal(first.features, again.features)
    other = dataclasses.replace(config, options={**sizes, "seed": 1})
    with pytest.raises(ValueError, match=r"output: .* holds hop features of another graph; remove it"):
        prepare_graph(other, 2, tmp_path / "out")
    with pytest.raises(ValueError, match="holds hop features of another graph"):
        prepare_graph(config, 1, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "hop_features")
    new = prepare_graph(other, 2, tmp_path / "out")
    assert torch.equal(new.features[:, 0], new.data.features)
    if positions is not None:
        assert not torch.equal(new.positions, first.positions)


def test_words_in_other_columns_are_another_graph(tmp_path: Path) -> None:
    def data(columns: list[int]) -> NodeData:
        graph, ids = Graph.from_edges(torch.tensor([[0], [1]]), 3), torch.arange(3)
        words = bag_of_words(np.arange(4), np.array(columns), 4)
        return NodeData("words", graph, words, ids % 2, ("a", "b"), ids[:1], ids[1:2], ids[2:], "here")

    first = _hop_features_on_disk(data([0, 1, 2]), 1, tmp_path)
    assert torch.equal(_hop_features_on_disk(data([0, 1, 2]), 1, tmp_path), first)
    with pytest.raises(ValueError, match="holds hop features of another graph"):
        _hop_features_on_disk(data([0, 1, 3]), 1, tmp_path)
    (tmp_path / "source.json").unlink()
    with pytest.raises(ValueError, match="does not say of which graph its hop features are"):
        _hop_features_on_disk(data([0, 1, 2]), 1, tmp_path)


def test_a_start_that_is_killed_before_its_features_are_written_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"num_nodes": 80, "num_edges": 200, "num_features": 4, "communities": 5, "num_classes": 5}
    config = GraphConfig("power_law", store="disk", options=sizes)
    with monkeypatch.context() as patch:
        patch.setattr(graph_data, "hop_features", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare_graph(config, 2, tmp_path)
    found = prepare_graph(config, 2, tmp_path)
    assert torch.equal(found.features[:, 0], found.data.features)
