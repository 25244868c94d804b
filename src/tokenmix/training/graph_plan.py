"""What the recipe of node classification may be told to train and to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tokenmix.models.large_gt import LargeGTConfig
from tokenmix.training.graph_baselines import settings_of
from tokenmix.training.run import TrainingConfig

# the other fields are the graph's, or the same for all models, or set by the recipe
TUNABLE = {
    "model": set(LargeGTConfig.__annotations__) - {"model_type", "num_features", "num_nodes", "position_size", "hops"},
    "training": set(asdict(TrainingConfig())) - {"steps", "save_steps", "seed", "trainer"},
}


def split_changes(changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The part of an entry of the grid that is about the model, and that about training.

    Args:
        changes: values by `model.<field>` or `training.<field>`.

    Raises:
        ValueError: another key, or one that the recipe sets itself.

    Example:
        >>> split_changes({"model.dropout": 0.6, "training.weight_decay": 0.1})
        {'model': {'dropout': 0.6}, 'training': {'weight_decay': 0.1}}
    """
    parts: dict[str, dict[str, Any]] = {"model": {}, "training": {}}
    for key, value in changes.items():
        part, _, name = key.partition(".")
        if part not in parts or name not in TUNABLE[part]:
            known = (
                f"model.<field> or training.<field>, of {sorted(TUNABLE['model'])} and {sorted(TUNABLE['training'])}"
            )
            raise ValueError(f"grid: expected {known}, found {key!r}")
        parts[part][name] = value
    return parts


def check_names(
    models: Mapping[str, Mapping[str, Any]],
    baselines: Sequence[str],
    seeds: Sequence[int],
    grid: Sequence[dict[str, Any]],
    trials: int,
) -> None:
    """Refuse what can be seen without the graph: see the fields of the recipe's configuration.

    Raises:
        ValueError: nothing to train, a name that two rows of the table would have, a field that is not a model's own, a
            key of the grid or a baseline that is not known.
    """
    if not models and not baselines:
        raise ValueError("models: expected at least one model or baseline, found none")
    if not seeds or not grid:
        raise ValueError(f"seeds, grid: expected at least one of each, found {list(seeds)} and {list(grid)}")
    if both := set(models) & {*baselines, "baselines"}:
        raise ValueError(f"models: expected names that no baseline has, found {sorted(both)}")
    for name, fields in models.items():
        if fixed := set(fields) - TUNABLE["model"]:
            raise ValueError(f"models: {name} expected fields of {sorted(TUNABLE['model'])}, found {sorted(fixed)}")
    for changes in grid:
        split_changes(changes)
    for name in baselines:
        settings_of(name, trials)
