"""Train a dense transformer and a Mixture-of-Transformers on text, pictures and speech, with equal FLOPs a token.

    python recipes/multimodal/train.py --config recipes/multimodal/configs/smoke.yaml

The pairs of the defaults are the characters of matplotlib's DejaVu font and their Unicode names, drawn on the spot.
Every value of the config can be overridden: `--data.name qtawesome --training.steps 100 --model.hidden_size 256`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import set_seed

from tokenmix.data.modality_rows import ModalityRows, PairTokens, collate_modalities
from tokenmix.data.pairs import pixels
from tokenmix.models import MixtureOfTransformersConfig, MixtureOfTransformersForCausalLM
from tokenmix.retrieval import recall
from tokenmix.training import RunResult, TrainingConfig, make_console, parse_config, train_or_resume
from tokenmix.training.multimodal_data import PairsConfig, PreparedPairs, prepare_pairs
from tokenmix.training.multimodal_report import plot_pictures, report_multimodal
from tokenmix.training.multimodal_score import (
    ModalityTrainer,
    draw_pictures,
    first_words,
    flops_per_token,
    losses_by_modality,
    nearest_caption,
    unigram_losses,
)
from tokenmix.training.resume import check_folder, claim_folder


@dataclass
class Config:
    """The whole configuration; the YAML tree is this tree."""

    models: dict[str, dict[str, Any]]
    """By name: fields of MixtureOfTransformersConfig, {dense: {untied: false}, mot: {}}."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields that all models share."""
    data: PairsConfig = field(default_factory=PairsConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluations: int = 12
    """Looks at the validation losses over training: the points of the curves."""
    against: str = "dense"
    """The model whose cost and final losses the others are measured by."""
    drawn: int = 64
    """Test pairs for which a picture and a first word are generated."""
    output: str = "runs/multimodal"


def build_model(config: Config, name: str, tokens: PairTokens) -> MixtureOfTransformersForCausalLM:
    """One model, its weights drawn anew."""
    fields = config.model | config.models[name]
    return MixtureOfTransformersForCausalLM(MixtureOfTransformersConfig(modalities=tokens.modalities, **fields))


def build_training(config: Config) -> TrainingConfig:
    """How to train, with validation as often as the curves have points."""
    every = max(1, config.training.steps // config.evaluations)
    choose = {
        "eval_strategy": "steps",
        "eval_steps": every,
        "per_device_eval_batch_size": 64,
        "remove_unused_columns": False,
        "disable_tqdm": not sys.stderr.isatty(),
    }
    return replace(config.training, trainer=choose | config.training.trainer)


def picture_scores(pairs: PreparedPairs, ids: list[int], pictures: Tensor) -> dict[str, float]:
    """Mean squared difference to the true pictures, and how often the true one is the nearest of all that are drawn."""
    true = pixels(pairs.data.images[ids])
    near = -torch.cdist(pictures.flatten(1), true.flatten(1))
    same = pairs.data.image_ids[ids][:, None] == pairs.data.image_ids[ids]  # twins are right
    match = recall(near, (1,), same)["R@1"]
    return {"picture_error": float((pictures - true).square().mean()), "picture_match": match}


def drawn_pairs(count: int, pairs: PreparedPairs) -> list[int]:
    """So many test pairs, evenly spread."""
    return pairs.data.test[:: max(1, len(pairs.data.test) // max(1, count))][:count].tolist()


def compute_metrics(config: Config, model: Any, pairs: PreparedPairs) -> dict[str, float]:
    """Test losses of each modality, and what is generated for test pairs."""
    test = ModalityRows(pairs.tokens, pairs.data.test, config.training.seed)
    found = {f"{name}_loss": loss for name, loss in losses_by_modality(model, test).items()}
    ids = drawn_pairs(config.drawn, pairs)
    if ids:
        found |= picture_scores(pairs, ids, pairs.pictures(draw_pictures(model, pairs.tokens, ids)))
        words = zip(first_words(model, pairs.tokens, ids), ids, strict=True)
        found["first_word"] = sum(word == pairs.data.captions[i].split(" ")[0] for word, i in words) / len(ids)
    return found | {"parameters": model.num_parameters()}


def compute_baselines(config: Config, pairs: PreparedPairs) -> dict[str, Mapping[str, float]]:
    """Trivial models, and the picture of the nearest caption."""
    data, ids = pairs.data, drawn_pairs(config.drawn, pairs)
    unigram = {f"{k}_loss": v for k, v in unigram_losses(pairs.tokens, pairs.train, data.test).items()}
    if not ids:
        return {"frequencies": unigram}
    words = Counter(sorted(data.captions[i].split(" ")[0] for i in pairs.train.tolist()))
    common, near = words.most_common(1)[0][0], [nearest_caption(data.captions, pairs.train, i) for i in ids]
    mean = pixels(data.images[pairs.train]).mean(0).expand(len(ids), -1, -1, -1)
    unigram["first_word"] = sum(data.captions[i].split(" ")[0] == common for i in ids) / len(ids)
    return {
        "frequencies, mean picture": unigram | picture_scores(pairs, ids, mean),
        "picture of nearest caption": picture_scores(pairs, ids, pixels(data.images[near])),
        "true picture, en- and decoded": picture_scores(pairs, ids, pairs.pictures(pairs.tokens.images[ids])),
    }


def train_model(config: Config, name: str, pairs: PreparedPairs) -> RunResult:
    """Train one model, or go on where it was stopped, or read what it gave."""
    folder = Path(config.output) / name
    kept = RunResult.read(folder / "metrics.json")
    if kept is not None:
        return kept
    training = build_training(config)
    set_seed(training.seed)
    model = build_model(config, name, pairs.tokens)
    train, val = (ModalityRows(pairs.tokens, ids, training.seed) for ids in (pairs.train, pairs.data.val))
    batch = collate_modalities([train[i % len(train)] for i in range(2)])  # what a token costs
    print(f"training {name} into {folder}", flush=True)
    flops = flops_per_token(model, batch)
    run = train_or_resume(
        model,
        training,
        folder,
        trainer_class=ModalityTrainer,
        train_dataset=train,
        eval_dataset=val,
        data_collator=collate_modalities,
    )
    tokens = sum(len(train.tokens.row(int(i), train.names)) for i in train.ids) / len(train) * training.batch_size
    costs = {"flops_per_token": flops, "tokens_per_step": tokens, "train_seconds": run.seconds, "steps": run.steps}
    result = RunResult(name, costs, run.history)
    if PartialState().is_main_process:
        model.save_pretrained(folder / "model")
        result.metrics |= compute_metrics(config, model, pairs)
        result.write(folder / "metrics.json")
    PartialState().wait_for_everyone()
    return RunResult.read(folder / "metrics.json") or result


def draw(config: Config, pairs: PreparedPairs, columns: int = 12) -> None:
    """Generated pictures beside true ones, for the same captions."""
    ids = drawn_pairs(columns, pairs)
    rows = {"true": pixels(pairs.data.images[ids]), "encoded": pairs.pictures(pairs.tokens.images[ids])}
    for name in config.models:
        model = MixtureOfTransformersForCausalLM.from_pretrained(Path(config.output) / name / "model")
        rows[name] = pairs.pictures(draw_pictures(model, pairs.tokens, ids))
    plot_pictures(Path(config.output) / "pictures.png", [pairs.data.captions[i] for i in ids], rows)


def check_config(config: Config) -> None:
    """Refuse what would fail later: a mistake must not wait until tokenisers and other models are trained."""
    if config.against not in config.models:
        raise ValueError(f"against: expected one of models {list(config.models)}, found {config.against!r}")
    size, patch = config.data.size, config.data.patch_size
    if size % patch:
        raise ValueError(f"patch_size: expected a divisor of size={size}, found {patch}")
    count = (size // patch) ** 2
    images = torch.zeros(1, count, patch**2) if config.data.pictures == "patches" else torch.zeros(1, count).long()
    for name in config.models:
        with torch.device("meta"):
            build_model(config, name, PairTokens([""], images, config.data.codes))
    if build_training(config).arguments(config.output).eval_strategy != "steps":
        raise ValueError("trainer.eval_strategy: expected it left out, since curves are made of evaluations")


def main(arguments: list[str] | None = None) -> None:
    """Prepare the pairs, train every model, report."""
    config, resolved = parse_config(Config, arguments, description=__doc__)
    output, console = Path(config.output), make_console(120)
    check_config(config)
    check_folder(output, resolved)
    pairs = prepare_pairs(config.data, output, begin=lambda: claim_folder(output, resolved))
    if PartialState().is_main_process:
        console.print(pairs.description, highlight=False)
    results = [train_model(config, name, pairs) for name in config.models]
    if PartialState().is_main_process:
        draw(config, pairs)
        names, baselines = list(pairs.tokens.modalities), compute_baselines(config, pairs)
        report_multimodal(output, pairs.description, results, names, baselines, config.against, console)


if __name__ == "__main__":
    main()
