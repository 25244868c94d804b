"""Which settings a baseline tries, and in which order."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from tokenmix.nearest import nearest

Settings = dict[str, Any]

# Large graphs: an input layer, batch norm, residuals. A look at validation every fourth epoch saves a third of time.
_LARGE: Settings = {
    "hidden": 64, "depth": 2, "norm": "batch", "dropout": 0.5, "input_projection": True, "residual": True,
    "linear_head": True, "epochs": 100, "patience": 40, "every": 4,
}  # fmt: skip
_DEEP = _LARGE | {"depth": 4, "dropout": 0.3}
_PLAIN = _LARGE | {"residual": False}
# The published setting for few labels; the decay is AdamW's.
_CITED: Settings = {"hidden": 64, "depth": 2, "dropout": 0.5, "input_dropout": 0.5, "weight_decay": 0.5, "every": 2}
# The best of 13 for GraphSAGE on Debian's packages, and of 7 on WordNet.
_WIDE: Settings = {
    "hidden": 128, "depth": 2, "dropout": 0.5, "input_dropout": 0.0, "norm": "none", "learning_rate": 0.003,
    "weight_decay": 0.0, "residual": False, "input_projection": False, "linear_head": True,
}  # fmt: skip
_MLP: Settings = {"hidden": 128, "depth": 2, "norm": "batch", "dropout": 0.5, "epochs": 60, "patience": 20, "every": 2}

# Tried first, in this order.
FIRST: dict[str, list[Settings]] = {
    "majority": [{}],
    "logistic_regression": [{"l2": l2} for l2 in (1e-5, 1e-4, 3e-6, 1e-3, 1e-2, 1e-6)],
    "label_propagation": [
        {"alpha": 0.9, "steps": 50},
        {"alpha": 0.99, "steps": 50},
        {"alpha": 0.8, "steps": 20, "normalisation": "mean"},
    ],
    "mlp": [
        _MLP | {"dropout": 0.7},
        _CITED | {"weight_decay": 1.0},
        _MLP,
        _MLP | {"hidden": 256, "dropout": 0.8, "learning_rate": 0.003},
    ],
    "gcn": [_LARGE, _CITED, _DEEP, _PLAIN],
    "sage": [_LARGE, _CITED, _DEEP, _WIDE, _PLAIN],
    "gat": [
        _LARGE | {"heads": 4, "epochs": 60},
        _CITED | {"heads": 8, "input_projection": True, "epochs": 100, "patience": 30},
        _LARGE | {"depth": 3, "heads": 4, "epochs": 60, "dropout": 0.3},
        _PLAIN | {"heads": 4, "epochs": 60},
    ],
}
_NETWORK: dict[str, list[Any]] = {
    "hidden": [64, 128, 256],
    "depth": [2, 3],
    "dropout": [0.3, 0.5, 0.7],
    "input_dropout": [0.0, 0.5],
    "norm": ["none", "batch", "layer"],
    "learning_rate": [0.003, 0.01],
    "weight_decay": [0.0, 0.01, 0.5],
}
_GRAPH = _NETWORK | {"residual": [False, True], "input_projection": [False, True], "linear_head": [False, True]}
GRIDS: dict[str, dict[str, list[Any]]] = {
    "majority": {},
    "logistic_regression": {"l2": [1e-7, 3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 1e-2]},
    "label_propagation": {
        "alpha": [0.5, 0.7, 0.8, 0.9, 0.95, 0.99],
        "steps": [5, 20, 50],
        "normalisation": ["symmetric", "mean"],
    },
    "mlp": _NETWORK,
    "gcn": _GRAPH,
    "sage": _GRAPH,
    "gat": _GRAPH | {"heads": [1, 2, 4], "input_projection": [True]},
}


def settings_of(name: str, trials: int, seed: int = 0) -> list[Settings]:
    """The first settings that a baseline tries: a fixed list, then draws from its grid.

    Args:
        name: of the baseline.
        trials: how many; fewer are given where the grid has no more.
        seed: of the draws. More trials go on where fewer ended.

    Raises:
        ValueError: an unknown name, or no trials.

    Example:
        >>> settings_of("label_propagation", 2)
        [{'alpha': 0.9, 'steps': 50}, {'alpha': 0.99, 'steps': 50}]
    """
    if name not in FIRST:
        raise ValueError(f"name: unknown baseline {name!r}; {nearest(name, FIRST)}")
    if trials < 1:
        raise ValueError(f"trials: expected 1 or more, found {trials}")
    found, grid = list(FIRST[name]), GRIDS[name]
    if len(found) < trials and grid:
        drawn = list(itertools.product(*grid.values()))
        for place in np.random.default_rng(seed).permutation(len(drawn)):
            settings = dict(zip(grid, drawn[place], strict=True))
            if len(found) == trials:
                break
            if settings not in found:
                found.append(settings)
    return found[:trials]
