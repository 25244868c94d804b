"""Train a small Llama on real text, then convert its attention to other mixers and report what that costs.

    python recipes/conversion/convert.py --config recipes/conversion/configs/smoke.yaml

Every value of the config can be overridden: `--teacher.steps 100 --conversion.hidden.learning_rate 2e-3`. A model that
you have already is converted by the command `tokenmix convert`.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, set_seed

from tokenmix.conversion import (
    ConversionConfig,
    Report,
    convert,
    fine_tune_original,
    gap_table,
    plot_reports,
    prepare,
    print_report,
)
from tokenmix.data import Corpus, TokenBlocks, byte_tokenizer, load_corpus
from tokenmix.training import (
    TrainingConfig,
    claim_folder,
    make_console,
    parse_config,
    score_baselines,
    train_or_resume,
    write_text,
)


@dataclass
class DataConfig:
    """Which text."""

    name: Literal["python_stdlib", "world_english_bible"] = "python_stdlib"
    """Embedded text."""
    files: dict[str, str | list[str]] | str | list[str] | None = None
    """Text files, globs or a folder to train on, or these by split (train, valid, test); instead of `name`."""
    context: int = 256
    """Tokens a row when the original is trained."""
    test_bytes: int | None = None
    """Score only the first bytes of the test split; None for all."""
    baseline_bytes: int | None = None
    """Count n-grams in the first bytes of the training split only; None for all."""


@dataclass
class ModelConfig:
    """The original: a LlamaForCausalLM of transformers."""

    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    intermediate_size: int = 344
    max_position_embeddings: int = 2048


@dataclass
class Config:
    """The whole configuration; the YAML tree is this tree."""

    conversions: dict[str, dict[str, dict[str, Any]]]
    """Layers to swap, for each conversion: {hybrid: {"0-2": {mixer: mamba2}}}."""
    from_random: list[str] = field(default_factory=list)
    """Conversions to make a second time from mixers that carried nothing over."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    teacher: TrainingConfig = field(default_factory=TrainingConfig)
    """How the original is trained."""
    conversion: ConversionConfig = field(default_factory=ConversionConfig)
    """How it is converted; its `output` is set by this recipe."""
    output: str = "runs/conversion"


def build_data(config: Config) -> tuple[Corpus, Any]:
    """The corpus and its tokenizer, which is bytes."""
    corpus = load_corpus(config.data.name, files=config.data.files)
    return replace(corpus, test=corpus.test[: config.data.test_bytes]), byte_tokenizer()


def build_model(config: Config, tokenizer: Any) -> LlamaForCausalLM:
    """The original, untrained."""
    sizes = asdict(config.model)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    std = config.model.hidden_size**-0.5
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=std, **sizes, **ids))


def train_original(config: Config, corpus: Corpus, tokenizer: Any) -> PreTrainedModel:
    """The original: trained, or trained on, or read."""
    folder = Path(config.output) / "original"
    if (folder / "done.json").is_file():
        return LlamaForCausalLM.from_pretrained(folder / "model")
    set_seed(config.teacher.seed)
    model = build_model(config, tokenizer)
    blocks = TokenBlocks.from_corpus(corpus, "train", context=config.data.context, tokenizer=tokenizer)
    run = train_or_resume(model, config.teacher, folder, train_dataset=blocks, processing_class=tokenizer)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_text(folder / "done.json", json.dumps(asdict(run), indent=2))
    return LlamaForCausalLM.from_pretrained(folder / "model")


def plan(config: Config) -> dict[str, tuple[dict[str, dict[str, Any]], ConversionConfig]]:
    """Layers and settings of every conversion, by name.

    Raises:
        ValueError: no conversions, or a control of one that is not there.
    """
    if not config.conversions:
        raise ValueError('conversions: expected at least one, such as {hybrid: {"0-2": {mixer: mamba2}}}, found none')
    unknown = sorted(set(config.from_random) - set(config.conversions))
    if unknown:
        raise ValueError(f"from_random: expected names among {sorted(config.conversions)}, found {unknown}")
    output = Path(config.output)
    plans = {
        name: (layers, replace(config.conversion, output=str(output / name)))
        for name, layers in config.conversions.items()
    }
    for name in config.from_random:
        layers, settings = plans[name]
        random = f"{name}, random start"
        plans[random] = (layers, replace(settings, init="random", output=str(output / f"{name}_random")))
    return plans


def main(arguments: list[str] | None = None) -> None:
    """Train the original, convert it in every way of the config, and report."""
    config, resolved = parse_config(Config, arguments, description=__doc__)
    plans, console, output = plan(config), make_console(), Path(config.output)
    corpus, tokenizer = build_data(config)
    untrained = build_model(config, tokenizer)
    config.teacher.arguments(output)
    for layers, settings in plans.values():  # a mistake in the last one must not wait until the first is done
        prepare(untrained, tokenizer, corpus, layers, settings)
    claim_folder(output, resolved)  # now that nothing in the config is a mistake
    console.rule("original")
    original = train_original(config, corpus, tokenizer)
    reports: dict[str, Report] = {}
    for name, (layers, settings) in plans.items():
        console.rule(name)
        reports[name] = convert(original, tokenizer, corpus, layers, settings)
        print_report(reports[name], console)
    first = next(iter(reports.values()))
    if config.conversion.finetune.steps:
        console.rule("control: the original, fine-tuned alike")
        settings = replace(config.conversion, output=str(output / "control"))
        first.points.append(fine_tune_original(original, tokenizer, corpus, settings))
    train = TokenBlocks.from_corpus(corpus, "train", context=config.data.context, tokenizer=tokenizer)
    test = TokenBlocks.from_corpus(corpus, "test", context=config.data.context, tokenizer=tokenizer)
    ngrams = score_baselines(corpus, train, test, train_bytes=config.data.baseline_bytes, folder=output)
    plot_reports(output / "conversion.png", reports)
    write_text(output / "metrics.json", json.dumps({name: asdict(r) for name, r in reports.items()}, indent=2))
    console.print(gap_table(f"{corpus.name}, {test.scored_bytes:,} test bytes", reports, ngrams))
    console.print(f"Python {platform.python_version()}; {corpus.description}")
    console.print(f"Written to {output}: config.yaml, conversion.png, metrics.json, original/, and one folder for each")


if __name__ == "__main__":
    main()
