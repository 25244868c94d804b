"""Small stand-ins for the files of the standard sets, under their real names."""

import gzip
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def needs(folder: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (SHARED / folder).is_dir(), reason=f"no copy of {folder} at ../shared/data")


def write_csv(path: Path, rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(",".join(map(repr, row)) + "\n" for row in np.asarray(rows).tolist())
    path.write_bytes(gzip.compress(text.encode()))


def write_citeseer(folder: Path, known: int = 6) -> dict[str, Any]:
    """Known nodes, then, for six, test nodes 8, 6, 9 in this order: node 7 is in no row of tx. Two train nodes."""
    from scipy.sparse import csr_matrix

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    words, tested = rng.integers(0, 2, (known, 4)), rng.integers(0, 2, (3, 4)) * np.array([[0.5], [0.25], [0.125]])
    hot, hot_tested = np.eye(3)[np.arange(known) % 3], np.eye(3)[[2, 1, 0]]
    six, seven, eight, nine = range(known, known + 4)
    graph = {0: [1, 1, 0], 1: [0], eight: [3], 3: [eight], nine: [six], six: [nine], seven: []}
    parts = {
        "allx": csr_matrix(words),
        "tx": csr_matrix(tested),
        "x": csr_matrix(words[:2]),
        "ally": hot,
        "ty": hot_tested,
        "y": hot[:2],
        "graph": graph,
    }
    for part, value in parts.items():
        (folder / f"ind.citeseer.{part}").write_bytes(pickle.dumps(value, protocol=2))
    (folder / "ind.citeseer.test.index").write_text(f"{eight}\n{six}\n{nine}\n")
    return {"known": words, "tested": tested}


def write_ogb(root: Path, name: str, split: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Twelve nodes; one edge twice, one loop."""
    folder = root / f"ogbn_{name}"
    edges = np.array([[0, 1], [1, 2], [5, 3], [5, 3], [7, 7], [11, 0]])
    features, labels = rng.standard_normal((12, 3)).astype(np.float32), rng.integers(0, 5, (12, 1))
    write_csv(folder / "raw/edge.csv.gz", edges)
    write_csv(folder / "raw/node-feat.csv.gz", features)
    write_csv(folder / "raw/node-label.csv.gz", labels)
    write_csv(folder / "raw/num-node-list.csv.gz", [[12]])
    write_csv(folder / "raw/num-edge-list.csv.gz", [[len(edges)]])
    for part, ids in {"train": [0, 4, 2], "valid": [5], "test": [11, 7]}.items():
        write_csv(folder / f"split/{split}/{part}.csv.gz", [[i] for i in ids])
    return {"edges": edges, "features": features, "labels": labels[:, 0]}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
