"""Sources of the user's own, by the file that registers them, as recipes take them."""

import importlib
import sys
from pathlib import Path

import pytest

from tokenmix.data import graphs, pairs
from tokenmix.data.graphs import load_graph
from tokenmix.data.pairs import load_pairs

OWN = """
from tokenmix.data.graphs import load_graph, register_graph
from tokenmix.data.pairs import load_pairs, register_pairs

@register_graph("own_words")
def own_words(root, *, split_seed=0):
    return load_graph("wordnet", split_seed=split_seed)

@register_pairs("own_glyphs")
def own_glyphs(folder, *, size=32):
    return load_pairs("unicode_glyphs", folder=folder, size=size)
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for sources in (graphs.SOURCES, pairs.SOURCES):
        for name in ("own_words", "own_glyphs"):
            monkeypatch.setitem(sources, name, None)  # so that they are forgotten afterwards
            del sources[name]
    (tmp_path / "own_data.py").write_text(OWN)
    return tmp_path / "own_data.py"


def test_a_file_registers_graphs_and_pairs(file: Path) -> None:
    for _ in range(2):  # known the second time
        assert load_graph(f"{file}:own_words", split_seed=3).name == "wordnet"
        assert load_pairs(f"{file}:own_glyphs", size=8).images.shape[1:] == (1, 8, 8)


def test_mistakes_are_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name: .*own_data.py registers nothing under 'own_word'"):
        load_graph(f"{file}:own_word")
    with pytest.raises(ValueError, match=r"no file .*missing.py \(looked in"):
        load_pairs(f"{tmp_path / 'missing.py'}:own_glyphs")
    (tmp_path / "other.py").write_text(OWN)
    with pytest.raises(ValueError, match=r"other.py: ValueError: name: expected a new name, found 'own_words'"):
        load_graph(f"{tmp_path / 'other.py'}:own_words")
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(ValueError, match=r"cannot import .*broken.py: ZeroDivisionError"):
        load_graph(f"{tmp_path / 'broken.py'}:x")


def test_a_file_that_the_program_imported_itself_is_not_run_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(file.parent))
    importlib.import_module("own_data")
    assert load_graph(f"{file}:own_words").name == "wordnet"
    with pytest.raises(ValueError, match=r"own_data.py registers nothing under 'own_word'"):
        load_graph(f"{file}:own_word")
    sys.modules.pop("own_data")
