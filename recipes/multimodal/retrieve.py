"""Find pictures by caption and captions by picture: late interaction (FILIP), pooled towers (CLIP), a baseline.

    python recipes/multimodal/retrieve.py --config recipes/multimodal/configs/retrieval.yaml

Every value of the config can be overridden: `--data.name qtawesome --training.steps 300`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from transformers import set_seed

from tokenmix.data.pairs import PairData, matches
from tokenmix.training import (
    RunResult,
    TrainingConfig,
    check_folder,
    claim_folder,
    make_console,
    parse_config,
    print_table,
    train_or_resume,
    write_text,
)
from tokenmix.training.multimodal_data import PairsConfig, load
from tokenmix.training.pair_baselines import retrieve_by_pixels
from tokenmix.training.retrieval_model import PairCollator, RetrievalTowers, RetrievalTowersConfig, score_retrieval

COLUMNS = {
    f"{way}_R@{k}": (f"{name} R@{k}", ".3f")
    for way, name in (("i2t", "caption"), ("t2i", "picture"))
    for k in (1, 5, 10)
} | {"train_seconds": ("train s", ".0f"), "parameters": ("parameters", ",.0f")}


@dataclass
class Config:
    """The whole configuration; the YAML tree is this tree."""

    interactions: list[Literal["token", "pooled"]] = field(default_factory=lambda: ["token", "pooled"])
    """Towers to train: compared token by token, or by their means."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of MixerConfig, for both towers; mixers that read both ways."""
    patch_size: int = 8
    """Side of the patches of a picture that are tokens."""
    data: PairsConfig = field(default_factory=PairsConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seeds: list[int] = field(default_factory=lambda: [0])
    """Of weights and order."""
    output: str = "runs/multimodal/retrieval"


def build_model(config: Config, data: PairData, interaction: Literal["token", "pooled"]) -> RetrievalTowers:
    """One pair of towers, weights drawn anew."""
    patch = data.images.shape[1] * config.patch_size**2
    count = (data.images.shape[2] // config.patch_size) ** 2
    return RetrievalTowers(RetrievalTowersConfig(**config.model, patch=patch, patches=count, interaction=interaction))


def train_towers(config: Config, data: PairData, interaction: Literal["token", "pooled"], seed: int) -> RunResult:
    """Train, or go on where it was stopped, or read what it gave."""
    folder = Path(config.output) / f"{interaction}_seed{seed}"
    kept = RunResult.read(folder / "metrics.json")
    if kept is not None:
        return kept
    quiet = {"remove_unused_columns": False, "disable_tqdm": not sys.stderr.isatty()}
    training = replace(config.training, seed=seed, trainer=quiet | config.training.trainer)
    set_seed(seed)
    model, collate = build_model(config, data, interaction), PairCollator(data, config.patch_size)
    run = train_or_resume(model, training, folder, train_dataset=data.train, data_collator=collate)
    scores = score_retrieval(model, data, data.test, collate)
    costs = {"train_seconds": run.seconds, "parameters": model.num_parameters()}
    result = RunResult(interaction, scores | costs, run.history)
    if PartialState().is_main_process:
        model.save_pretrained(folder / "model")
        result.write(folder / "metrics.json")
    return result


def compute_baselines(data: PairData) -> dict[str, dict[str, float]]:
    """Guessing, and principal components of pixels with ridge regression to words."""
    captions = [[data.captions[i] for i in ids.tolist()] for ids in (data.train, data.test)]
    images = [data.images[ids] for ids in (data.train, data.test)]
    right = matches(data, data.test).T
    found = retrieve_by_pixels(images[0], captions[0], images[1], captions[1], relevant=right)
    return {"chance": found.chance, "pixels, ridge to words": found.scores}


def check_config(config: Config) -> None:
    """Refuse what is not read here, before anything is loaded."""
    unread = PairsConfig()
    for name in ("pictures", "patch_size", "codes", "tokeniser_steps"):
        if getattr(config.data, name) != getattr(unread, name):
            raise ValueError(f"data.{name}: expected it left out, since retrieval reads patches of patch_size pixels")
    if config.data.size % config.patch_size:
        raise ValueError(f"patch_size: expected a divisor of size={config.data.size}, found {config.patch_size}")


def main(arguments: list[str] | None = None) -> None:
    """Train every pair of towers, report."""
    config, resolved = parse_config(Config, arguments, description=__doc__)
    output, console = Path(config.output), make_console(120)
    check_config(config)
    check_folder(output, resolved)
    data = load(config.data)
    claim_folder(output, resolved)
    if config.data.limit is not None:
        data = replace(data, train=data.train[: config.data.limit])
    for interaction in config.interactions:
        with torch.device("meta"):
            build_model(config, data, interaction)
    console.print(f"{data.name}: {len(data.train):,} pairs to train on, {len(data.test):,} to search", highlight=False)
    results = []
    for interaction in config.interactions:
        runs = [train_towers(config, data, interaction, seed) for seed in config.seeds]
        means = {key: sum(run.metrics[key] for run in runs) / len(runs) for key in runs[0].metrics}
        results.append(RunResult({"token": "late interaction", "pooled": "pooled"}[interaction], means))
    if PartialState().is_main_process:
        baselines = compute_baselines(data)
        print_table(f"{data.name}, {len(data.test)} test pairs", results, COLUMNS, baselines, console)
        rows = [{"name": name, **scores} for name, scores in baselines.items()]
        rows += [{"name": result.name, **result.metrics} for result in results]
        write_text(output / "results.json", json.dumps({"data": data.source, "rows": rows}, indent=2))
        console.print(f"Written to {output}: config.yaml, results.json, and each run's folder")


if __name__ == "__main__":
    main()
