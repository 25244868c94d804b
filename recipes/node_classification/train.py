"""Classify the nodes of a graph with LargeGT, beside baselines that were tuned with as many trials.

    python recipes/node_classification/train.py --config recipes/node_classification/configs/smoke.yaml

The graph of the defaults is the call graph of Python's standard library, built on the spot.
Every value of the config can be overridden: `--data.name wordnet --seeds '[0]' --models.full.hidden_size 96`.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import EarlyStoppingCallback, set_seed

from tokenmix.data.node_batches import NodeDataset
from tokenmix.models.large_gt import LargeGTConfig, LargeGTForNodeClassification
from tokenmix.training import RunResult, TrainingConfig, make_console, parse_config, train_or_resume
from tokenmix.training.epoch_sampler import EpochTrainer
from tokenmix.training.graph_baselines import tune_kept
from tokenmix.training.graph_data import GraphConfig, PreparedGraph, prepare_graph
from tokenmix.training.graph_plan import check_names, split_changes
from tokenmix.training.graph_report import report_graph
from tokenmix.training.graph_score import accuracy, classify_nodes, over_seeds, peak_memory, trainer_accuracy
from tokenmix.training.resume import check_folder, claim_folder


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
    positions = 0 if graph.positions is None else graph.positions.shape[1]
    sizes = {
        "num_features": features,
        "num_nodes": nodes,
        "id2label": dict(enumerate(data.classes)),
        "position_size": positions,
    }
    fields = config.model | config.models[name] | changes | sizes
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
        "disable_tqdm": not sys.stderr.isatty(),
        "restore_callback_states_from_checkpoint": True,
    }
    return replace(training, steps=steps, save_steps=epoch, seed=seed, trainer=choose | training.trainer)


def compute_metrics(model: Any, graph: PreparedGraph, seed: int) -> dict[str, float]:
    """Accuracy on validation and test nodes, and sizes."""
    data, found = graph.data, {}
    for split in ("val", "test"):
        nodes = getattr(data, split)
        logits = classify_nodes(model, graph.collator(model.config, seed, resample=False), nodes)
        found[split] = accuracy(logits, data.labels[nodes])
    return found | {"parameters": model.num_parameters(), "peak_gb": peak_memory()}


def train_one(config: Config, name: str, graph: PreparedGraph, changes: dict[str, Any], folder: Path, seed: int) -> Any:
    """Train one model with one seed, or go on where it was stopped, or read what it gave."""
    kept = RunResult.read(folder / "metrics.json")
    if kept is not None:
        return kept
    parts, data = split_changes(changes), graph.data
    training = build_training(config, len(data.train), seed, parts["training"])
    if PartialState().is_main_process:
        print(f"training {name}, seed {seed}, into {folder}", flush=True)
    set_seed(seed)
    model = build_model(config, name, graph, parts["model"])
    collate = graph.collator(model.config, seed, resample=config.resample)
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
    speed = run.steps * training.batch_size / run.seconds
    result = RunResult(name, {"train_seconds": run.seconds, "steps": run.steps, "nodes_per_second": speed}, run.history)
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


def check_config(config: Config, graph: PreparedGraph) -> None:
    """Refuse what would fail later: a mistake in the last model must not wait until the first is trained."""
    for part, use in (("train", "which are learned"), ("val", "which choose weights"), ("test", "which are scored")):
        if len(getattr(graph.data, part)) == 0:
            raise ValueError(f"data.{part}: expected nodes, {use}, found none")
    for name in config.models:
        for changes in config.grid:
            parts = split_changes(changes)
            with torch.device("meta"):
                build_model(config, name, graph._replace(features=torch.empty(0)), parts["model"])
            build_training(config, len(graph.data.train), config.seeds[0], parts["training"]).arguments(config.output)


def main(arguments: list[str] | None = None) -> None:
    """Prepare the graph, train every model, tune every baseline, report."""
    config, resolved = parse_config(Config, arguments, description=__doc__)
    check_names(config.models, config.baselines, config.seeds, config.grid, config.trials)
    hops = config.model.get("hops", LargeGTConfig().hops)
    output, console = Path(config.output), make_console(120)
    check_folder(output, resolved)
    if PartialState().is_main_process:
        console.print(f"preparing the graph {config.data.name}")
    graph = prepare_graph(config.data, hops, output)
    check_config(config, graph)
    if PartialState().is_main_process:
        console.print(graph.description, highlight=False)
        claim_folder(output, resolved)
    PartialState().wait_for_everyone()
    results = [train_model(config, name, graph) for name in config.models]
    if PartialState().is_main_process:
        kept = output / "baselines"
        baselines = [tune_kept(name, graph.data, config.trials, config.seeds, kept) for name in config.baselines]
        report_graph(output, graph.description, results, baselines, console)


if __name__ == "__main__":
    main()
