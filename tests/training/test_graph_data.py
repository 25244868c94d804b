"""What a recipe says of a graph's files, in the words of its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

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
