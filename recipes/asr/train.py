"""Train speech recognisers of any mixers on recorded or synthetic speech, and score them on words nobody trained on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.utils.data import DataLoader, Subset
from transformers import set_seed

from tokenmix.data.speech import build_ctc_tokenizer, collate, trivial_baselines
from tokenmix.models.speech import (
    MixerForCTC,
    SambaASRConfig,
    SambaASRForConditionalGeneration,
    SpeechConfig,
    build_processor,
)
from tokenmix.processes import in_processes
from tokenmix.training import RunResult, TrainingConfig, claim_folder, make_console, parse_config, train_or_resume
from tokenmix.training.speech_config import SpeechDataConfig, SpeechTask, read_tasks, refuse_unknown
from tokenmix.training.speech_data import TaskData, build_task_data, load_clips
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
    only: list[str] | None = None
    """Tasks to run; None for all."""
    workers: int = 1
    """Models trained at the same time, each in a process with its share of the cores."""
    output: str = "runs/asr"

    def chosen(self) -> dict[str, SpeechTask]:
        """The tasks to run."""
        tasks = read_tasks(self.tasks, self.data, self.training)
        refuse_unknown("only", dict.fromkeys(self.only or []), tasks)
        return {name: task for name, task in tasks.items() if self.only is None or name in self.only}

    def tasks_of(self, model: str) -> list[SpeechTask]:
        """Those that a model is trained on."""
        own = self.models[model].get("tasks") or list(self.tasks)
        refuse_unknown(f"models.{model}.tasks", dict.fromkeys(own), self.tasks)
        return [task for name, task in self.chosen().items() if name in own]


def build_data(config: Config) -> tuple[dict[str, TaskData], Any]:
    """Data sets by task, and the tokenizer of all their training texts."""
    rate = SpeechConfig(**{key: config.model[key] for key in ("sampling_rate",) if key in config.model}).sampling_rate
    chosen = config.chosen()
    splits = {name: load_clips(task.data, task.training.seed) for name, task in chosen.items()}
    tokenizer = build_ctc_tokenizer([clip.text for clips, _ in splits.values() for clip in clips["train"]])
    found = {}
    for name, (clips, notes) in splits.items():
        data = build_task_data(chosen[name], clips, tokenizer, rate)
        found[name] = data._replace(notes=[*notes, *data.notes])
    return found, tokenizer


def build_model(config: Config, name: str, tokenizer: Any) -> MixerForCTC | SambaASRForConditionalGeneration:
    """One model, its weights drawn anew."""
    entry = config.models[name]
    own = {key: value for key, value in entry.items() if key not in ("decoder", "tasks", "start_from")}
    fields = config.model | own
    letters = {letter: mixer for letter, mixer in config.mixers.items() if letter in fields.get("pattern", "")}
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
    fields = {"mixers": letters or config.mixers, "vocab_size": len(tokenizer), **special, **fields}
    if entry.get("decoder"):
        return SambaASRForConditionalGeneration(SambaASRConfig(**fields))
    return MixerForCTC(SpeechConfig(**fields))


def start_model(config: Config, name: str, task: SpeechTask, data: TaskData, tokenizer: Any) -> Any:
    """A model with the weights that it starts a task from."""
    set_seed(task.training.seed)
    model = build_model(config, name, tokenizer)
    root, other = Path(config.output), config.models[name].get("start_from")
    for folder in (root / name / str(task.start_from), root / str(other) / task.name):
        if (folder / "model").is_dir():
            kind = type(model) if folder.parent.name == name else MixerForCTC
            model.load_state_dict(kind.from_pretrained(folder / "model").state_dict(), strict=kind is type(model))
            return model
    if task.start_from is not None or other is not None:
        raise ValueError(f"only: {task.name} starts from {task.start_from or other}, which {root} has no model of")
    clips = Subset(data.train, range(min(NORMALISER_CLIPS, len(data.train))))
    model.encoder.fit_normaliser(DataLoader(clips, batch_size=16, collate_fn=collate))
    return model


def compute_metrics(model: Any, data: TaskData, tokenizer: Any, batch_size: int) -> tuple[dict[str, float], str]:
    """Scores on every test split, and examples of the first."""
    metrics: dict[str, float] = {"parameters": model.num_parameters()}
    examples = ""
    for split, dataset in data.tests.items():
        began = time.perf_counter()
        scores, pairs = score_clips(model, dataset, tokenizer, batch_size)
        spent = (time.perf_counter() - began) / sum(clip.seconds for clip in dataset.clips)
        metrics |= {f"{split}/{key}": value for key, value in {**scores, "real_time_factor": spent}.items()}
        examples = examples or write_examples(pairs)
    return metrics, examples


def train_model(config: Config, name: str) -> None:
    """Train a model on its tasks, or go on where it was stopped; what it gave is in `metrics.json` of each."""
    data, tokenizer = build_data(config)
    for task in config.tasks_of(name):
        folder = Path(config.output) / name / task.name
        if RunResult.read(folder / "metrics.json") is not None:
            continue
        own = data[task.name]
        model = start_model(config, name, task, own, tokenizer)
        curve = CurveMetrics(tokenizer)
        decoder = bool(config.models[name].get("decoder"))
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
        result = RunResult(name, {"train_seconds": run.seconds}, run.history)
        if PartialState().is_main_process:
            model.save_pretrained(folder / "model")
            build_processor(model.config, tokenizer).save_pretrained(folder / "model")
            metrics, result.sample = compute_metrics(model, own, tokenizer, task.training.batch_size)
            result.metrics |= metrics
            result.write(folder / "metrics.json")
        PartialState().wait_for_everyone()


def main(arguments: list[str] | None = None) -> None:
    """Train every model of the config on its tasks, and report."""
    config, resolved = parse_config(Config, arguments, description=__doc__)
    chosen = config.chosen()
    for task in chosen.values():
        task.training.arguments(config.output)
    data, tokenizer = build_data(config)
    for name in config.models:  # a mistake in the last model must not wait until the first is trained
        refuse_unknown(
            f"models.{name}.start_from",
            dict.fromkeys(filter(None, [config.models[name].get("start_from")])),
            config.models,
        )
        with torch.device("meta"):
            build_model(config, name, tokenizer)
        config.tasks_of(name)
    if PartialState().is_main_process:
        claim_folder(config.output, resolved)
        for name, own in data.items():
            hours = sum(clip.seconds for clip in own.train.clips) / 3600
            make_console().print(f"{name}: {len(own.train):,} clips to train on, {hours:.2f} h", *own.notes, sep="; ")
    later = [name for name in config.models if config.models[name].get("start_from")]
    for names in ([name for name in config.models if name not in later], later):
        in_processes(train_model, [(config, name) for name in names], config.workers)
    if not PartialState().is_main_process:
        return
    kept = {
        task: [RunResult.read(Path(config.output) / name / task / "metrics.json") for name in config.models]
        for task in chosen
    }
    results = {task: [result for result in runs if result is not None] for task, runs in kept.items()}
    splits = {f"{task}/{split}": (data[task], tests) for task in chosen for split, tests in data[task].tests.items()}
    baselines = {
        key: trivial_baselines(own.train_texts, [clip.text for clip in tests.clips])
        for key, (own, tests) in splits.items()
    }
    titles = {
        key: f"{key}: {len(tests):,} clips of {chosen[key.split('/')[0]].data.name}"
        for key, (_, tests) in splits.items()
    }
    report_speech(config.output, results, baselines, titles)


if __name__ == "__main__":
    main()
