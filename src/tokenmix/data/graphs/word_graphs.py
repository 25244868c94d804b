"""Graphs in one .npz file: an edge list, classes and bags of words. WordNet (shipped) and Debian's packages."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from tokenmix.data.graphs.features import bag_of_words
from tokenmix.data.graphs.missing import find_folder
from tokenmix.data.graphs.node_data import NodeData, random_split
from tokenmix.ops.graph import Graph

_WORDNET = Path(__file__).parent / "files" / "wordnet30.npz"
_DEBIAN = "bookworm_main_amd64.npz"
_HYPERNYMS = ("@", "~", "@i", "~i")
# Lexicographer files of WordNet 3.0 by their number: lexnames(5WN).
_LEXICOGRAPHER_FILES = (
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition "
    "noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person "
    "noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape noun.state "
    "noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition "
    "verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession verb.social "
    "verb.stative verb.weather adj.ppl"
)


def wordnet(root: Path | None = None, *, split_seed: int = 0, hypernyms: bool = True) -> NodeData:
    """WordNet 3.0: a node is a synset, an edge a pointer, features the words of the gloss, the class its file of 45.

    Args:
        root: another folder with `wordnet30.npz`; by default the one that comes with tokenmix.
        split_seed: of the random split.
        hypernyms: with pointers to more general and more special synsets, of which 95 % stay in the class. Without, the
            graph is harder.

    Returns:
        117,659 nodes, undirected.

    Raises:
        FileNotFoundError, ValueError: no file, or a damaged one.

    Source: Fellbaum 1998, "WordNet: An Electronic Lexical Database". See data_cards/wordnet.md.

    Example:
        >>> wordnet(hypernyms=False).graph.num_edges < wordnet().graph.num_edges
        True
    """
    folder = _WORDNET.parent if root is None else find_folder("wordnet", root, [], [_WORDNET.name], "leave root out")
    arrays = read_arrays(
        folder / _WORDNET.name, ("y", "edge", "feat_indptr", "feat_index", "vocab", "ptr", "ptr_names")
    )
    if not hypernyms:
        # ptr: (3, n) synset, synset, kind. A pair stays if any pointer of another kind joins it.
        kept = ~np.isin(arrays["ptr"][2], np.flatnonzero(np.isin(arrays["ptr_names"], _HYPERNYMS)))
        ends = np.sort(arrays["ptr"][:2, kept], axis=0)
        arrays["edge"] = ends[:, ends[0] != ends[1]].T
    kind = "" if hypernyms else ", hypernyms left out"
    arrays["classes"] = np.array(_LEXICOGRAPHER_FILES.split())
    return data_of_arrays("wordnet", arrays, split_seed, f"WordNet 3.0 (Debian wordnet-base 1:3.0-37){kind}")


def debian(root: Path | None = None, *, split_seed: int = 0) -> NodeData:
    """Debian bookworm's packages: an edge is a dependency, features the words of the one-line description.

    The names of packages are in the file and are no features: `lib…-dev` gives the section away.

    Args:
        root: the folder with `bookworm_main_amd64.npz`, or one with `debian_deps` in it.
        split_seed: of the random split.

    Returns:
        63,436 nodes in 58 sections, undirected; one node (libc6) has 21,814 neighbours.

    Raises:
        FileNotFoundError, ValueError: no file, or a damaged one.

    Source: package index of Debian bookworm main amd64, 2026-11-22. See data_cards/debian_packages.md.
    """
    remedy = "it is not shipped; data_cards/debian_packages.md says how to make one from `apt-cache dumpavail`"
    folder = find_folder("debian", root, ["debian_deps"], [_DEBIAN], remedy)
    arrays = read_arrays(folder / _DEBIAN, ("y", "edge", "feat_indptr", "feat_index", "classes", "vocab"))
    return data_of_arrays("debian", arrays, split_seed, "Debian bookworm main amd64, package index of 2026-11-22")


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of a .npz file; nothing in it can run.

    Raises:
        ValueError: it is damaged or an array is missing.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"root: expected arrays {', '.join(names)} in {path}, found {error!r}") from error


def data_of_arrays(name: str, arrays: dict[str, np.ndarray], split_seed: int, source: str) -> NodeData:
    """An undirected graph of words from its arrays, with a random split.

    Args:
        name: of the data set.
        arrays: y (N,), edge (E, 2), feat_indptr (N + 1,), feat_index (n,), classes (C,), vocab (F,).
        split_seed: of the split.
        source: where the arrays are from.

    Raises:
        ValueError: arrays that do not fit.
    """
    if arrays["edge"].ndim != 2 or arrays["edge"].shape[1] != 2:
        raise ValueError(f"edge: expected shape (E, 2) in the file of {name}, found {arrays['edge'].shape}")
    labels = torch.from_numpy(arrays["y"].astype(np.int64))
    edges = torch.from_numpy(np.ascontiguousarray(arrays["edge"].astype(np.int64).T))
    graph = Graph.from_edges(edges, len(labels), undirected=True, self_loops="drop")
    features = bag_of_words(arrays["feat_indptr"], arrays["feat_index"], len(arrays["vocab"]))
    train, val, test = random_split(torch.arange(len(labels)), split_seed)
    where = f"{source}; split 50/25/25 by seed {split_seed}"
    return NodeData(name, graph, features, labels, tuple(map(str, arrays["classes"])), train, val, test, where)
