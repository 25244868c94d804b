"""Classify the nodes of a graph with LargeGT, beside baselines that were tuned with as many trials.

    python recipes/node_classification/train.py --config recipes/node_classification/configs/smoke.yaml

The graph of the defaults is the call graph of Python's standard library, built on the spot.
Every value of the config can be overridden: `--data.name wordnet --seeds '[0]' --models.full.hidden_size 96`.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import EarlyStoppingCallback, set_seed

from tokenmix.data.node_batches import NodeDataset
from tokenmix.models.large_gt import LargeGTConfig, LargeGTForNodeClassification
from tokenmix.training import RunResult, TrainingConfig, claim_folder, make_console, parse_config, train_or_resume
from tokenmix.training.epoch_sampler import EpochTrainer
from tokenmix.training.graph_baselines import settings_of, tune_kept
from tokenmix.training.graph_data import GraphConfig, PreparedGraph, prepare_graph
from tokenmix.training.graph_report import report_graph
from tokenmix.training.graph_score import accuracy, classify_nodes, over_seeds, trainer_accuracy


@dataclass
class Config:
    """The whole configuration; the YAML tree is this tree."""

    models: dict[str, dict[str, Any]]
    """By name: fields of LargeGTConfig, {full: {}, local: {mode: local}}."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields that all models share."""
    data: GraphConfig = field(default_factory=GraphConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    epochs: float = 8.0
    """Times that training sees each node, in place of `training.steps`."""
    patience: int | None = None
    """Stop after so many epochs without a better validation accuracy; None for never."""
    resample: bool = True
    """Sample neighbourhoods anew in every epoch, or once for all, as published."""
    grid: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    """Changes to try on the first seed, `model.<field>` or `training.<field>`; the best on validation is kept."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Of weights, order and samples."""
    baselines: list[str] = field(default_factory=list)
    """Names of `tokenmix.training.graph_baselines`, each tuned by `trials` settings on validation."""
    trials: int = 3
    """Settings that each baseline tries on the first seed."""
    output: str = "runs/node_classification"


def build_model(config: Config, name: str, graph: PreparedGraph, changes: dict[str, Any]) -> Any:
    """One model, its weights drawn anew."""
    data = graph.data
    nodes, features = data.features.shape
    sizes = {"num_features": features, "num_nodes": nodes, "num_labels": len(data.classes)}
    positions = {"position_size": 0 if graph.positions is None else graph.positions.shape[1]}
    fields = positions | config.model | config.models[name] | changes | sizes
    model = LargeGTForNodeClassification(LargeGTConfig(**fields))
    if graph.features is None:
        model.attach(data.graph, data.features)
    return model


def build_training(config: Config, rows: int, seed: int, changes: dict[str, Any]) -> TrainingConfig:
    """How to train: epochs in updates, and after each epoch the validation that chooses which weights are kept."""
    training = replace(config.training, **changes)
    epoch = max(1, math.ceil(rows / training.batch_size))
    steps = max(1, round(config.epochs * epoch))
    epoch = min(epoch, steps)
    choose = {
        "eval_strategy": "steps",
        "eval_steps": epoch,
        "load_best_model_at_end": True,
        "metric_for_best_model": "accuracy",
        "per_device_eval_batch_size": 2048,
        "remove_unused_columns": False,
    }
    return replace(training, steps=steps, save_steps=epoch, seed=seed, trainer=choose | training.trainer)


def compute_metrics(model: Any, graph: PreparedGraph, seed: int) -> dict[str, float]:
    """Accuracy on validation and test nodes, and sizes."""
    data, found = graph.data, {}
    for split in ("val", "test"):
        nodes = getattr(data, split)
        logits = classify_nodes(model, graph.collator(model.config.sample_size, seed, resample=False), nodes)
        found[split] = accuracy(logits, data.labels[nodes])
    return found | {"parameters": model.num_parameters(only_trainable=True)}


def train_one(config: Config, name: str, graph: PreparedGraph, changes: dict[str, Any], folder: Path, seed: int) -> Any:
    """Train one model with one seed, or go on where it was stopped, or read what it gave."""
    kept = RunResult.read(folder / "metrics.json")
    if kept is not None:
        return kept
    parts = {"model": {}, "training": {}}
    for key, value in changes.items():
        part, _, key_in_part = key.partition(".")
        parts[part][key_in_part] = value
    data = graph.data
    training = build_training(config, len(data.train), seed, parts["training"])
    set_seed(seed)
    model = build_model(config, name, graph, parts["model"])
    collate = graph.collator(model.config.sample_size, seed, resample=config.resample)
    run = train_or_resume(
        model,
        training,
        folder,
        trainer_class=EpochTrainer,
        train_dataset=NodeDataset(data.train, data.labels),
        eval_dataset=NodeDataset(data.val, data.labels),
        data_collator=collate,
        compute_metrics=trainer_accuracy,
        callbacks=[EarlyStoppingCallback(config.patience)] if config.patience else None,
    )
    result = RunResult(name, {"train_seconds": run.seconds, "steps": run.steps}, run.history)
    if PartialState().is_main_process:
        model.save_pretrained(folder / "model")
        result.metrics |= compute_metrics(model, graph, seed)
        result.write(folder / "metrics.json")
    PartialState().wait_for_everyone()
    return RunResult.read(folder / "metrics.json")


def train_model(config: Config, name: str, graph: PreparedGraph) -> RunResult:
    """Choose among the grid by validation on the first seed, then train every seed with what was chosen."""
    folder, first = Path(config.output) / name, config.seeds[0]
    trials = [
        train_one(config, name, graph, changes, folder / f"trial{index}_seed{first}", first)
        for index, changes in enumerate(config.grid)
    ]
    best = max(range(len(trials)), key=lambda index: trials[index].metrics["val"])
    runs = [trials[best]] + [
        train_one(config, name, graph, config.grid[best], folder / f"trial{best}_seed{seed}", seed)
        for seed in config.seeds[1:]
    ]
    metrics = over_seeds([run.metrics for run in runs]) | {"seeds": len(runs), "trials": len(trials)}
    return RunResult(name, metrics, runs[0].history, sample=json.dumps(config.grid[best]))


def check_config(config: Config) -> None:
    """Refuse what would fail later."""
    if not config.models and not config.baselines:
        raise ValueError("models: expected at least one model or baseline, found none")
    if not config.seeds or not config.grid:
        raise ValueError(f"seeds, grid: expected at least one of each, found {config.seeds} and {config.grid}")
    known = {"model": set(LargeGTConfig.__annotations__), "training": set(asdict(TrainingConfig()))}
    for changes in config.grid:
        for key in changes:
            part, _, name = key.partition(".")
            if name not in known.get(part, ()):
                raise ValueError(f"grid: expected model.<field> or training.<field>, found {key!r}")
    for name in config.baselines:
        settings_of(name, config.trials)
    config.training.arguments(config.output)


def main(arguments: list[str] | None = None) -> None:
    """Prepare the graph, train every model, tune every baseline, report."""
    config, resolved = parse_config(Config, arguments, description=__doc__)
    check_config(config)
    hops = config.model.get("hops", LargeGTConfig().hops)
    output = Path(config.output)
    if PartialState().is_main_process:
        claim_folder(output, resolved)
    PartialState().wait_for_everyone()
    graph = prepare_graph(config.data, hops, output)
    for name in config.models:  # a mistake in the last model must not wait until the first is trained
        with torch.device("meta"):
            build_model(config, name, graph._replace(features=torch.empty(0)), {})
    results = [train_model(config, name, graph) for name in config.models]
    if PartialState().is_main_process:
        kept = output / "baselines"
        baselines = [tune_kept(name, graph.data, config.trials, config.seeds, kept) for name in config.baselines]
        report_graph(output, graph.description, results, baselines, make_console())


if __name__ == "__main__":
    main()
