"""The counts in the data cards are those of the data, where it is here."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from graph_cases import SHARED, needs

from tokenmix.data.graphs import SOURCES, NodeData, load_graph

CARDS = Path(__file__).parents[3] / "data_cards"
OF_SOURCE = {
    "stdlib_calls": "call_graphs",
    "package_calls": "call_graphs",
    "debian": "debian_packages",
    "cora": "planetoid",
    "citeseer": "planetoid",
    "pubmed": "planetoid",
    "ogbn-arxiv": "ogbn",
    "ogbn-products": "ogbn",
    "ogbn-papers100M": "ogbn",
    "snap-patents": "snap_patents",
}


def printed(card: str) -> dict[str, list[str]]:
    """Rows of the card's table of counts, by their first cell."""
    lines = (CARDS / f"{card}.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def counted(data: NodeData) -> list[str]:
    edges, degrees = data.graph.edges(), data.graph.degrees()
    same = (data.labels[edges[0]] == data.labels[edges[1]]).double().mean()
    most = (data.labels[data.test] == data.labels[data.train].bincount().argmax()).double().mean()
    return [
        f"{data.graph.num_nodes:,}",
        f"{data.graph.num_edges // 2:,}",
        f"{data.features.shape[1]:,}",
        f"{data.features.values().numel() / data.graph.num_nodes:.1f}",
        f"{len(data.classes)}",
        f"{int(degrees.max()):,}",
        f"{int((degrees == 0).sum()):,}",
        f"{float(same):.3f}",
        f"{float(most):.3f}",
        " / ".join(f"{len(part):,}" for part in (data.train, data.val, data.test)),
    ]


def test_every_source_has_a_card() -> None:
    for name in SOURCES:
        text = (CARDS / f"{OF_SOURCE.get(name, name)}.md").read_text(encoding="utf-8")
        assert f'load_graph("{name}"' in text or f"`{name}`" in text or f"| {name} |" in text, name


@pytest.mark.skipif(platform.python_version() != "3.11.7", reason="the counts of the data card are of Python 3.11.7")
def test_the_card_of_call_graphs(tmp_path: Path) -> None:
    data = load_graph("stdlib_calls", tmp_path)
    assert counted(data) == printed("call_graphs")["stdlib_calls, Python 3.11.7"]
    assert (data.graph.num_nodes, data.graph.num_edges, len(data.classes)) == (13_604, 2 * 20_293, 59)


@pytest.mark.parametrize(("row", "hypernyms"), [("all pointers", True), ("`hypernyms=False`", False)])
def test_the_card_of_wordnet(row: str, hypernyms: bool) -> None:
    assert counted(load_graph("wordnet", hypernyms=hypernyms)) == printed("wordnet")[row]


@needs("debian_deps")
def test_the_card_of_debian() -> None:
    assert counted(load_graph("debian", SHARED / "debian_deps")) == printed("debian_packages")["debian"]


@needs("cora")
def test_the_card_of_planetoid() -> None:
    assert counted(load_graph("cora", SHARED / "cora")) == printed("planetoid")["cora"]


@pytest.mark.slow
def test_two_million_nodes_within_memory(tmp_path: Path) -> None:
    """Built by a process of its own, whose peak is far below the 8 GB that are allowed."""
    code = (
        "import resource, sys; from tokenmix.data.graphs import load_graph; load_graph('power_law', sys.argv[1]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 3_500_000  # kB
    data = load_graph("power_law", tmp_path)
    highest = f"{int(data.graph.degrees().max()):,}"
    sizes = [f"{data.graph.num_nodes:,}", f"{data.graph.num_edges // 2:,}", f"{data.features.shape[1]:,}"]
    splits = " / ".join(f"{len(part):,}" for part in (data.train, data.val, data.test))
    assert [*sizes, f"{len(data.classes)}", highest, splits] == printed("power_law")["defaults"]
    assert bool(torch.isfinite(data.features[::1000]).all())
