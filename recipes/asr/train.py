"""Train speech recognisers of any mixers on recorded or synthetic speech, and score them on words nobody trained on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.utils.data import DataLoader, Subset
from transformers import set_seed

from tokenmix.data.speech import collate, trivial_baselines
from tokenmix.models.speech import (
    MixerForCTC,
    SambaASRConfig,
    SambaASRForConditionalGeneration,
    SpeechConfig,
    build_processor,
)
from tokenmix.processes import in_processes
from tokenmix.training import (
    RunResult,
    TrainingConfig,
    claim_folder,
    make_console,
    mixers_of,
    parse_config,
    train_or_resume,
)
from tokenmix.training.speech_config import SpeechDataConfig, SpeechTask, read_tasks
from tokenmix.training.speech_data import TaskData, build_task_data, load_clips, task_tokenizer
from tokenmix.training.speech_plan import OWN_KEYS, SpeechPlan, claimed_settings
from tokenmix.training.speech_report import report_speech, write_examples
from tokenmix.training.speech_score import CurveMetrics, score_clips
from tokenmix.training.speech_trainer import SpeechTrainer

NORMALISER_CLIPS = 400  # enough for the mean of a mel band


@dataclass
class Config:
    """Models, and the tasks that each of them is trained on, one after the other."""

    mixers: dict[str, dict[str, Any]]
    """Descriptions by letter."""
    models: dict[str, dict[str, Any]]
    """By name: fields of the model's configuration, and `decoder: true` for one that writes text token by token,
    `tasks` (default all) and `start_from` (a CTC model whose encoder it starts from in each task)."""
    tasks: dict[str, dict[str, Any]]
    """By name: changes in `data` and `training`, and `start_from`, an earlier task."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of the configuration that all models share."""
    data: SpeechDataConfig = field(default_factory=SpeechDataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    alphabet: str | None = "'abcdefghijklmnopqrstuvwxyz"
    """Letters of all texts; None for those of the training texts."""
    only: list[str] | None = None
    """Tasks to run, now; None for all."""
    workers: int = 1
    """Models trained at the same time, each in a process with its share of the cores."""
    output: str = "runs/asr"

    def plan(self) -> SpeechPlan:
        """What is trained on what."""
        return SpeechPlan(self.models, read_tasks(self.tasks, self.data, self.training), self.only)


Built = tuple[dict[str, TaskData], Any]


def build_data(config: Config) -> Built:
    """Data sets by task, and the tokenizer of all."""
    plan, rate = config.plan(), config.model.get("sampling_rate", SpeechConfig().sampling_rate)
    clips = {name: load_clips(plan.tasks[name].data, plan.tasks[name].training.seed) for name in plan.chosen}
    tokenizer = task_tokenizer(config.alphabet, [clip.text for splits, _ in clips.values() for clip in splits["train"]])
    found = {}
    for name, (splits, notes) in clips.items():
        data = build_task_data(plan.tasks[name], splits, tokenizer, rate, Path(config.output))
        found[name] = data._replace(notes=[*notes, *data.notes])
    return found, tokenizer


def build_model(config: Config, name: str, tokenizer: Any) -> MixerForCTC | SambaASRForConditionalGeneration:
    """One model, its weights drawn anew."""
    fields = config.model | {key: value for key, value in config.models[name].items() if key not in OWN_KEYS}
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
    mixers = mixers_of(config.mixers, fields["pattern"]) if "pattern" in fields else config.mixers
    fields = {"mixers": mixers, "vocab_size": len(tokenizer), **special, **fields}
    if config.models[name].get("decoder"):
        return SambaASRForConditionalGeneration(SambaASRConfig(**fields))
    return MixerForCTC(SpeechConfig(**fields))


def start_model(config: Config, name: str, task: SpeechTask, data: TaskData, tokenizer: Any) -> Any:
    """A model with the weights that it starts a task from."""
    set_seed(task.training.seed)
    model = build_model(config, name, tokenizer)
    place = config.plan().start(name, task.name)
    if place is None:
        clips = Subset(data.train, range(min(NORMALISER_CLIPS, len(data.train))))
        model.encoder.fit_normaliser(DataLoader(clips, batch_size=16, collate_fn=collate))
        return model
    kind = type(model) if place.parts[0] == name else MixerForCTC
    weights = kind.from_pretrained(Path(config.output) / place / "model").state_dict()
    model.load_state_dict(weights, strict=kind is type(model))
    return model


def compute_metrics(model: Any, data: TaskData, tokenizer: Any, batch_size: int) -> tuple[dict[str, float], str]:
    """Scores on every test split, and examples of the first."""
    metrics: dict[str, float] = {"parameters": model.num_parameters(), "bad_files": len(data.train.skipped)}
    examples = ""
    for split, dataset in data.tests.items():
        scores, pairs = score_clips(model, dataset, tokenizer, batch_size)
        metrics |= {f"{split}/{key}": value for key, value in scores.items()}
        examples = examples or write_examples(pairs)
    return metrics, examples


def train_model(config: Config, name: str, built: Built | None = None) -> None:
    """Train a model on its tasks, or go on where it was stopped; what it gave is in `metrics.json` of each."""
    data, tokenizer = built or build_data(config)
    for task in config.plan().tasks_of(name):
        folder = Path(config.output) / name / task.name
        if RunResult.read(folder / "metrics.json") is not None:
            continue
        own = data[task.name]
        own.train.set_epoch(0)  # where another model was trained on it before
        model = start_model(config, name, task, own, tokenizer)
        decoder, curve = bool(config.models[name].get("decoder")), CurveMetrics(tokenizer)
        quiet = {"disable_tqdm": True} if config.workers > 1 else {}
        trainer = {"remove_unused_columns": False, "prediction_loss_only": decoder, **quiet, **task.training.trainer}
        run = train_or_resume(
            model,
            replace(task.training, trainer=trainer),
            folder,
            trainer_class=SpeechTrainer,
            train_dataset=own.train,
            eval_dataset=own.valid,
            data_collator=collate,
            compute_metrics=None if decoder else curve,
            preprocess_logits_for_metrics=None if decoder else curve.best,
        )
        if PartialState().is_main_process:
            model.save_pretrained(folder / "model")
            build_processor(model.config, tokenizer).save_pretrained(folder / "model")
            metrics, sample = compute_metrics(model, own, tokenizer, task.training.batch_size)
            RunResult(name, {"train_seconds": run.seconds} | metrics, run.history, sample).write(
                folder / "metrics.json"
            )
        PartialState().wait_for_everyone()


def main(arguments: list[str] | None = None) -> None:
    """Train every model of the config on its tasks, and report."""
    config, resolved = parse_config(Config, arguments, description=__doc__)
    plan = config.plan()
    for name in plan.chosen:
        plan.tasks[name].training.arguments(config.output)
    data, tokenizer = built = build_data(config)
    for name in config.models:  # a mistake in the last model must not wait until the first is trained
        with torch.device("meta"):
            build_model(config, name, tokenizer)
    plan.require_starts(config.output)
    if PartialState().is_main_process:
        claim_folder(config.output, claimed_settings(resolved))
        for name, own in data.items():
            hours = sum(clip.seconds for clip in own.train.clips) / 3600
            make_console().print(f"{name}: {len(own.train):,} clips to train on, {hours:.2f} h", *own.notes, sep="; ")
    for names in plan.waves():
        here = config.workers == 1 or len(names) == 1  # a process of its own reads the data anew
        in_processes(train_model, [(config, name, built if here else None) for name in names], config.workers)
    if PartialState().is_main_process:
        results: dict[str, list[RunResult]] = {task: [] for task in plan.chosen}
        for task, found in results.items():
            kept = (RunResult.read(Path(config.output) / name / task / "metrics.json") for name in config.models)
            found += [result for result in kept if result is not None]
        report_speech(config.output, results, data, trivial_baselines)


if __name__ == "__main__":
    main()
