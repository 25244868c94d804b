"""The call graph by `ast`, against a slow one written from its description."""

import ast
import pickle
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenmix.data.graphs import build_call_graph, call_sources, load_graph
from tokenmix.data.graphs.call_graph import functions_of

SOURCES = {
    "alpha.py": """
def load_file(path, *rest, mode="r", **others):
    def inner_step(value): return helper(value).close()
    return [inner_step(part) for part in path]
class Reader:
    async def read(self, sizeLimit=Default.limit):
        await self.load_file(alpha, alpha.beta)
        self.read()
    def close(self): pass
""",
    "beta/__init__.py": """
def helper(HTTPServer): return lambda: undefined()()
def close(): load_file(helper)
def close(): many()
""",
    "beta/many.py": "def many(): pass\ndef many(): pass\ndef many(): pass\ndef many(x): load_file(x)\n",
    "gamma.py": "def lonely(): helper()\n",
    "broken.py": "def broken(:\n",
}


@pytest.fixture
def files(tmp_path: Path) -> list[tuple[str, str]]:
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    names = ("alpha.py", "beta/__init__.py", "beta/many.py", "broken.py", "gamma.py")
    return [(str(tmp_path / name), name.split("/")[0].removesuffix(".py")) for name in names]


def slowly(files: list[tuple[str, str]], dropped: set[str], smallest: int, candidates: int) -> dict[str, list]:
    """Functions by ast.walk of each one; edges and words by loops over all pairs."""
    found = []
    for path, label in files:
        try:
            tree = ast.parse(Path(path).read_text())
        except SyntaxError:
            continue
        places = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for function in sorted(places, key=lambda node: (node.lineno, node.col_offset)):
            identifiers, calls = set(), set()
            for node in ast.walk(function):
                for field in ("id", "attr", "arg"):
                    if isinstance(node, ast.Name | ast.Attribute | ast.arg) and hasattr(node, field):
                        identifiers.add(getattr(node, field))
                if isinstance(node, ast.Call):
                    calls.add(getattr(node.func, "id", getattr(node.func, "attr", None)))
            words = {
                word.lower()
                for each in identifiers - {name for name in identifiers if name.lower().strip("_") in dropped}
                for word in re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", each)
                if len(word) > 1
            }
            found.append((label, function.name, calls, words))
    sizes = Counter(row[0] for row in found)
    kept = [row for row in found if sizes[row[0]] >= smallest]
    edges = set()
    for i, caller in enumerate(kept):
        for j, called in enumerate(kept):
            same_name = sum(row[1] == called[1] for row in found)
            if i != j and called[1] in caller[2] and same_name <= candidates:
                edges.add((min(i, j), max(i, j)))
    return {"labels": [row[0] for row in kept], "edges": sorted(map(list, edges)), "words": [row[3] for row in kept]}


def as_lists(arrays: dict[str, np.ndarray]) -> dict[str, list]:
    ends, words = arrays["feat_indptr"], arrays["vocab"][arrays["feat_index"]]
    return {
        "labels": arrays["classes"][arrays["y"]].tolist(),
        "edges": arrays["edge"].tolist(),
        "words": [set(words[start:stop].tolist()) for start, stop in pairwise(ends)],
    }


@pytest.mark.parametrize(("smallest", "candidates"), [(1, 3), (1, 4), (2, 3), (1, 1)])
@pytest.mark.parametrize("dropped", [set(), {"alpha", "httpserver"}])
def test_equal_to_the_slow_one(files: list, smallest: int, candidates: int, dropped: set[str]) -> None:
    arrays = build_call_graph(files, dropped=dropped, smallest_class=smallest, candidates=candidates)
    assert as_lists(arrays) == slowly(files, dropped, smallest, candidates)


def test_the_cases_differ(files: list) -> None:
    """Else the parameters above would test nothing."""
    edges = [len(slowly(files, set(), 1, candidates)["edges"]) for candidates in (1, 3, 4)]
    assert edges == sorted(set(edges))
    assert "alpha" in set.union(*slowly(files, set(), 1, 3)["words"])
    assert len(slowly(files, set(), 2, 3)["labels"]) == len(slowly(files, set(), 1, 3)["labels"]) - 1


def test_a_planted_name_of_a_module_is_no_feature(files: list) -> None:
    arrays = build_call_graph(files, dropped={"alpha"}, smallest_class=1)
    assert "alpha" not in arrays["vocab"]
    assert "beta" in arrays["vocab"]


def test_words_are_ranked_by_bodies_and_then_by_letter(files: list) -> None:
    whole = build_call_graph(files, smallest_class=1)
    words = slowly(files, set(), 1, 3)["words"]
    counts = Counter(word for row in words for word in row)
    assert whole["vocab"].tolist() == sorted(counts, key=lambda word: (-counts[word], word))
    short = build_call_graph(files, smallest_class=1, vocabulary=3)
    assert short["vocab"].tolist() == whole["vocab"].tolist()[:3]
    assert as_lists(short)["words"] == [row & set(short["vocab"].tolist()) for row in words]


def test_workers_change_nothing(files: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work and jobs are pickled as for another process; real processes read the library in test_graph_cards."""

    def in_processes(work, jobs, workers):
        work, jobs = pickle.loads(pickle.dumps((work, jobs)))  # our own bytes
        asked.append((len(jobs), workers))
        return pickle.loads(pickle.dumps([work(*job) for job in jobs]))

    asked: list[tuple[int, int]] = []
    monkeypatch.setattr("tokenmix.data.graphs.call_graph.in_processes", in_processes)
    monkeypatch.setattr("tokenmix.data.graphs.call_graph._FILES_A_JOB", 2)
    one, two = (build_call_graph(files, smallest_class=1, workers=workers) for workers in (1, 2))
    for name, value in one.items():
        assert np.array_equal(value, two[name]), name
    assert asked == [(3, 1), (3, 2)]


def test_no_class_is_large_enough(files: list) -> None:
    with pytest.raises(ValueError, match="smallest_class: expected a class of 60 functions, found at most 7"):
        build_call_graph(files)


def test_deep_source_is_read() -> None:
    assert functions_of("def f():\n  return " + "+".join(["a"] * 900))[0][2] == ["a"]


def small_library(monkeypatch: pytest.MonkeyPatch, folder: Path, functions: int = 70) -> None:
    folder.mkdir(exist_ok=True)
    letters = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
    for module in ("one", "two"):
        text = "".join(
            f"def do_{letters[i]}(x): return do_{letters[i + 1]}(x, {module}, self.word)\n" for i in range(functions)
        )
        (folder / f"{module}.py").write_text(text)
    monkeypatch.setattr(call_sources.sysconfig, "get_paths", lambda: {"stdlib": str(folder)})


def test_kept_and_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small_library(monkeypatch, tmp_path / "library")
    cache = tmp_path / "cache"
    first = load_graph("stdlib_calls", cache)
    assert first.classes == ("one", "two")
    (kept,) = cache.iterdir()
    built = []
    build = call_sources.build_call_graph
    monkeypatch.setattr(call_sources, "build_call_graph", lambda *a, **k: built.append(1) or build(*a, **k))
    again = load_graph("stdlib_calls", cache)
    assert not built
    assert torch.equal(first.graph.edges(), again.graph.edges())
    assert torch.equal(first.features.to_dense(), again.features.to_dense())
    kept.write_bytes(kept.read_bytes()[:200])  # damaged: built again
    assert torch.equal(load_graph("stdlib_calls", cache).labels, first.labels)
    assert len(built) == 1
    assert load_graph("stdlib_calls", cache, module_names=True).features.sum() > first.features.sum()
    assert len(built) == 2
    small_library(monkeypatch, tmp_path / "library", 80)  # other files: another graph
    assert load_graph("stdlib_calls", cache).graph.num_nodes == 160
    assert len(built) == 3
    assert not list(cache.glob("*.part"))


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small_library(monkeypatch, tmp_path / "library")
    (tmp_path / "file").write_text("in the way")
    assert load_graph("stdlib_calls", tmp_path / "file" / "cache").graph.num_nodes == 140


def test_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small_library(monkeypatch, tmp_path / "library")
    package = tmp_path / "packages" / "made_up_package"
    for name in ("__init__.py", "inner/deep.py", "tests/test_deep.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("".join(f"def f{i}(word): raise SystemExit\n" for i in range(5)) + "boom\n")
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    data = load_graph("package_calls", tmp_path / "cache", packages=["made_up_package"], smallest_class=5)
    assert data.classes == ("made_up_package.__init__", "made_up_package.inner", "stdlib")
    assert data.labels.bincount().tolist() == [5, 5, 140]
    assert "made_up_package of unknown version" in data.source
    with pytest.raises(FileNotFoundError, match="packages: expected installed packages, found no not_there_at_all"):
        load_graph("package_calls", tmp_path / "cache", packages=["not_there_at_all"])
