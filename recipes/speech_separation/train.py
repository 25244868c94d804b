"""Separate two people who speak at once, with any mixers, and compare stacks with each other and with an oracle.

    python recipes/speech_separation/train.py --config recipes/speech_separation/configs/smoke.yaml --data.folder FSDD

FSDD is a folder of the Free Spoken Digit Dataset. Without `--data.folder`, voices of espeak-ng speak.
Every value of the config can be overridden: `--training.steps 100 --mixers.m.group 64`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate import PartialState
from torch.utils.data import DataLoader
from transformers import set_seed

from tokenmix.data.mixtures import Mixtures, collate_mixtures, split_speakers
from tokenmix.data.speech import load_speech
from tokenmix.models.separation import (
    MixerForSpeechSeparation,
    SeparatorConfig,
    plot_separation,
    score_ideal_masks,
    score_separator,
    write_sounds,
)
from tokenmix.training import (
    RunResult,
    TrainingConfig,
    claim_folder,
    make_console,
    mixers_of,
    parse_config,
    print_table,
    train_or_resume,
    write_text,
)

COLUMNS = {
    "si_sdr_improvement": ("SI-SDRi dB", ".2f"),
    "si_sdr": ("SI-SDR dB", ".2f"),
    "worst_tenth": ("worst tenth dB", ".2f"),
    "parameters": ("parameters", ",.0f"),
    "train_seconds": ("train s", ".0f"),
    "times_real_time": ("x real time", ".0f"),
}


@dataclass
class DataConfig:
    """Whose voices, and how they are mixed."""

    name: str | None = None
    """A source of `tokenmix.data.speech.load_speech`; default fsdd with a folder, and espeak without."""
    folder: str | None = None
    """Where the recordings are."""
    options: dict[str, Any] = field(default_factory=dict)
    """More keywords of the source."""
    protocol: Literal["closed", "open"] = "closed"
    """Test the speakers of training with other clips, or speakers that training never hears."""
    unseen: int = 2
    """Speakers of the test, if open."""
    rate: int = 8000
    """Samples a second."""
    seconds: tuple[float, float] = (2.0, 3.0)
    """Shortest and longest row."""
    mode: Literal["min", "max"] = "min"
    """Rows end with the first speaker, or with the last."""
    test_rows: int = 200
    """Mixtures of the test."""


@dataclass
class ModelConfig:
    """What all stacks share."""

    encoder_size: int = 128
    encoder_kernel: int = 32
    hidden_size: int = 64
    num_hidden_layers: int = 4
    feed_forward: Literal["swiglu", "gelu"] | None = None
    intermediate_size: int | None = None
    dropout: float = 0.0


@dataclass
class Config:
    """The whole configuration; the YAML tree is this tree."""

    mixers: dict[str, dict[str, Any]]
    """A description for each letter: {m: {mixer: mossformer}}."""
    stacks: dict[str, str]
    """A pattern of letters for each model to train."""
    sizes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Values of `model` that some stacks have for themselves."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    samples: int = 2
    """Test mixtures that are written as WAV, separated by each stack."""
    output: str = "runs/speech_separation"


class Data(NamedTuple):
    """Mixtures to train on, a new one for every row of every step, and mixtures to test."""

    train: Mixtures
    test: Mixtures
    description: str


def build_data(data: DataConfig, training: TrainingConfig) -> Data:
    """The mixtures of both splits."""
    name = data.name or ("espeak" if data.folder is None else "fsdd")
    splits = split_speakers(load_speech(name, data.folder, **data.options), data.protocol, data.unseen)
    options: dict[str, Any] = {"rate": data.rate, "seconds": data.seconds, "mode": data.mode, "seed": training.seed}
    train = Mixtures(splits["train"], count=training.steps * training.batch_size, split="train", **options)
    test = Mixtures(splits["test"], count=data.test_rows, split="test", **options)
    told = f"{len(train.by_speaker)} speakers in training, {len(test.by_speaker)} in the test ({data.protocol})"
    return Data(train, test, f"{name}: {told}, {data.test_rows} test mixtures of {data.rate / 1000:g} kHz")


def build_model(config: Config, name: str) -> MixerForSpeechSeparation:
    """The separator of one stack."""
    own, pattern = config.sizes.get(name, {}), config.stacks[name]
    if unknown := sorted(set(own) - set(asdict(config.model))):
        raise ValueError(f"sizes: expected keys of model for {name}, found {unknown}")
    sizes = asdict(config.model) | own | {"sampling_rate": config.data.rate}
    return MixerForSpeechSeparation(SeparatorConfig(mixers=mixers_of(config.mixers, pattern), pattern=pattern, **sizes))


def compute_metrics(model: Any, test: Mixtures, batch_size: int) -> tuple[dict[str, float], list[float]]:
    """Scores over the test mixtures and sizes, and the improvement of every speaker of every mixture."""
    scores = score_separator(model, DataLoader(test, batch_size, collate_fn=collate_mixtures))
    speed = scores.samples / test.rate / scores.seconds
    metrics = scores.metrics | {"parameters": model.num_parameters(), "times_real_time": speed}
    return metrics, scores.improvements.flatten().tolist()


def train_stack(config: Config, name: str, data: Data) -> RunResult:
    """Train one stack, or go on where it was stopped, or read what it gave."""
    folder, training = Path(config.output) / name, config.training
    kept = RunResult.read(folder / "metrics.json")
    if kept is not None:
        return kept
    set_seed(training.seed)
    model = build_model(config, name)
    run = train_or_resume(model, training, folder, train_dataset=data.train, data_collator=collate_mixtures)
    result = RunResult(name, {"train_seconds": run.seconds}, run.history)
    if PartialState().is_main_process:
        model.save_pretrained(folder / "model")
        metrics, improvements = compute_metrics(model, data.test, training.batch_size)
        result.metrics |= metrics
        write_text(folder / "improvements.json", json.dumps(improvements))
        rows = {str(index): data.test[index]["input_values"] for index in range(min(config.samples, len(data.test)))}
        write_sounds(folder / "samples", model, rows, data.test.rate)
        result.write(folder / "metrics.json")
    PartialState().wait_for_everyone()
    return result


def main(arguments: list[str] | None = None) -> None:
    """Train every stack of the config and report."""
    config, resolved = parse_config(Config, arguments, description=__doc__)
    if not config.stacks:
        raise ValueError("stacks: expected at least one pattern to train, such as {mossformer: m}, found none")
    if strangers := sorted(set(config.sizes) - set(config.stacks)):
        raise ValueError(f"sizes: expected names among stacks {sorted(config.stacks)}, found {strangers}")
    for name in config.stacks:  # a mistake in the last model must not wait until the first is trained
        with torch.device("meta"):
            build_model(config, name)
    config.training.arguments(config.output)
    data = build_data(config.data, config.training)
    if PartialState().is_main_process:
        claim_folder(config.output, resolved)
    results = [train_stack(config, name, data) for name in config.stacks]
    if PartialState().is_main_process:
        output = Path(config.output)
        batches = DataLoader(data.test, config.training.batch_size, collate_fn=collate_mixtures)
        baselines = {
            "mixture": score_separator(None, batches).metrics,
            "ideal ratio mask": score_ideal_masks(batches).metrics,
        }
        write_text(output / "baselines.json", json.dumps(baselines, indent=2))
        found = {name: json.loads((output / name / "improvements.json").read_text()) for name in config.stacks}
        histories = {result.name: result.history for result in results}
        bound = baselines["ideal ratio mask"]["si_sdr_improvement"]
        plot_separation(output / "separation.png", histories, found, bound)
        print_table(data.description, results, COLUMNS, baselines, make_console())


if __name__ == "__main__":
    main()
