"""Train language models with any mixers on real text, and compare them with n-gram baselines.

    python recipes/language_modeling/train.py --config recipes/language_modeling/configs/smoke.yaml

Every value of the config can be overridden: `--training.steps 100 --data.files.train my.txt --mixers.a.heads 8`.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from transformers import set_seed

from tokenmix.data import Corpus, TokenBlocks, byte_tokenizer, load_corpus, train_bpe
from tokenmix.models import MixerConfig, MixerForCausalLM
from tokenmix.training import (
    RunResult,
    TrainingConfig,
    claim_folder,
    make_console,
    parse_config,
    plot_losses,
    plot_max_logits,
    print_table,
    score_baselines,
    score_text,
    train_or_resume,
    write_sample,
)

COLUMNS = {
    "bits_per_byte": ("bits/byte", ".3f"),
    "perplexity": ("perplexity", ".2f"),
    "parameters": ("parameters", ",.0f"),
    "tokens_per_second": ("tokens/s", ",.0f"),
    "train_seconds": ("train s", ".0f"),
    "state_bytes": ("state bytes", ",.0f"),
}


@dataclass
class DataConfig:
    """Which text, and how it is cut."""

    name: Literal["python_stdlib", "world_english_bible"] = "python_stdlib"
    """Embedded text."""
    files: dict[str, str | list[str]] | str | list[str] | None = None
    """Text files, globs or a folder to train on, or these by split (train, valid, test); instead of `name`."""
    hub: Literal["wikitext-2", "wikitext-103", "tinystories"] | None = None
    """Data set of the Hugging Face hub, instead of `name`; needs a network."""
    tokenizer: Literal["bytes", "bpe"] = "bytes"
    """Bytes, or byte-pair encoding trained on the training split."""
    vocab_size: int = 10_000
    """Entries of the byte-pair encoding."""
    context: int = 256
    """Tokens a training row."""
    overlap: int = 1
    """Tokens of context that every scored token has at least, beyond the first row of the test text."""
    packed: bool = False
    """Keep documents in a row apart."""
    test_bytes: int | None = None
    """Score only the first bytes of the test split; None for all."""
    baseline_bytes: int | None = None
    """Count n-grams in the first bytes of the training split only; None for all."""


@dataclass
class ModelConfig:
    """What all stacks share."""

    hidden_size: int = 128
    num_hidden_layers: int = 4
    feed_forward: Literal["swiglu", "gelu"] | None = "swiglu"
    intermediate_size: int | None = None
    feed_forward_bias: bool = False
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    position: Literal["none", "learned"] = "none"
    max_position_embeddings: int | None = None
    dropout: float = 0.0
    mixer_dropout: float | None = None
    tie_word_embeddings: bool = True


@dataclass
class Config:
    """The whole configuration; the YAML tree is this tree."""

    mixers: dict[str, dict[str, Any]]
    """A description for each letter: {a: {mixer: attention, heads: 4}}."""
    stacks: dict[str, str]
    """A pattern of letters for each model to train: {hybrid: mma}."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    prompt: str = "def "
    """What the sample continues."""
    output: str = "runs/language_modeling"


def build_data(config: DataConfig) -> tuple[Corpus, Any, TokenBlocks, TokenBlocks]:
    """The corpus, its tokenizer, and the blocks to train on and to score."""
    corpus = load_corpus(config.name, files=config.files, hub=config.hub)
    corpus = replace(corpus, test=corpus.test[: config.test_bytes])
    tokenizer = byte_tokenizer() if config.tokenizer == "bytes" else train_bpe(corpus.train, config.vocab_size)
    cut = partial(TokenBlocks.from_corpus, corpus, context=config.context, tokenizer=tokenizer, packed=config.packed)
    return corpus, tokenizer, cut("train"), cut("test", overlap=config.overlap)


def build_model(config: Config, stack: str, tokenizer: Any) -> MixerForCausalLM:
    """The language model of one stack."""
    pattern = config.stacks[stack]
    unknown = set(pattern) - set(config.mixers)
    return MixerForCausalLM(
        MixerConfig(
            vocab_size=len(tokenizer),
            mixers={letter: config.mixers[letter] for letter in config.mixers if unknown or letter in pattern},
            pattern=pattern,
            **asdict(config.model),
            **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")},
        )
    )


def compute_metrics(model: MixerForCausalLM, test: TokenBlocks, batch_size: int) -> dict[str, float]:
    """Scores on the test text, and sizes."""
    return {
        **score_text(model, test, batch_size),
        "parameters": model.num_parameters(),
        "state_bytes": sum(mixer.state_numel(test.context) for mixer in model.stack.mixers) * model.dtype.itemsize,
    }


def train_stack(config: Config, stack: str, tokenizer: Any, train: TokenBlocks, test: TokenBlocks) -> RunResult:
    """Train one stack, or go on where it was stopped, or read what it gave."""
    folder, training = Path(config.output) / stack, config.training
    kept = RunResult.read(folder / "metrics.json")
    if kept is not None:
        return kept
    set_seed(training.seed)
    model = build_model(config, stack, tokenizer)
    run = train_or_resume(model, training, folder, train_dataset=train, processing_class=tokenizer)
    result = RunResult(stack, {"train_seconds": run.seconds}, run.history)
    result.metrics["tokens_per_second"] = run.steps * training.batch_size * config.data.context / run.seconds
    if PartialState().is_main_process:
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        result.metrics |= compute_metrics(model, test, training.batch_size)
        result.sample = write_sample(model, tokenizer, config.prompt, seed=training.seed)
        result.write(folder / "metrics.json")
    PartialState().wait_for_everyone()
    return result


def report(config: Config, corpus: Corpus, train: TokenBlocks, test: TokenBlocks, results: list[RunResult]) -> None:
    """Plots, samples and the table."""
    console, output = make_console(), Path(config.output)
    ngrams = score_baselines(corpus, train, test, train_bytes=config.data.baseline_bytes, folder=output)
    lines = {name: scores["bits_per_byte"] for name, scores in ngrams.items()}
    plot_losses(output / "loss.png", results, lines, train.scored_bytes / train.scored_tokens)
    plot_max_logits(output / "max_logits.png", results)
    for result in results:
        console.rule(f"sample of {result.name}")
        console.print(result.sample, markup=False, highlight=False)
    print_table(f"{corpus.name}, {test.scored_bytes:,} test bytes", results, COLUMNS, ngrams, console)
    console.print(f"Python {platform.python_version()}; {corpus.description}")
    console.print(f"Written to {output}: config.yaml, loss.png, and for each stack metrics.json and model/")


def main(arguments: list[str] | None = None) -> None:
    """Train every stack of the config and report."""
    config, resolved = parse_config(Config, arguments, description=__doc__)
    if not config.stacks:
        raise ValueError("stacks: expected at least one pattern to train, such as {hybrid: mma}, found none")
    for stack in config.stacks:  # a mistake in the last stack must not wait until the first is trained
        with torch.device("meta"):
            build_model(config, stack, byte_tokenizer())
    config.training.arguments(config.output)
    corpus, tokenizer, train, test = build_data(config.data)
    if PartialState().is_main_process:
        claim_folder(config.output, resolved)  # now that nothing in the config is a mistake
    results = []
    for stack, pattern in config.stacks.items():
        if PartialState().is_main_process:
            make_console().rule(f"{stack}: {pattern}")
        results.append(train_stack(config, stack, tokenizer, train, test))
    if PartialState().is_main_process:
        report(config, corpus, train, test, results)


if __name__ == "__main__":
    main()
