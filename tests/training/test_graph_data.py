"""What a recipe says of a graph's files, in the words of its configuration."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from tokenmix.training.graph_data import GraphConfig, prepare_graph


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
