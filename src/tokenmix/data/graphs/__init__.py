"""Graphs whose nodes are to be classified: sources, splits and checks. Reading them needs torch and numpy alone."""

from tokenmix.data.graphs.call_graph import build_call_graph
from tokenmix.data.graphs.features import bag_of_words, check_features
from tokenmix.data.graphs.node_data import NO_LABEL, NodeData, random_split
from tokenmix.data.graphs.pyg import from_pyg, to_pyg
from tokenmix.data.graphs.sources import SOURCES, load_graph, register_graph

__all__ = [
    "NO_LABEL",
    "SOURCES",
    "NodeData",
    "bag_of_words",
    "build_call_graph",
    "check_features",
    "from_pyg",
    "load_graph",
    "random_split",
    "register_graph",
    "to_pyg",
]
