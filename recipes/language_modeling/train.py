"""Train language models with any mixers on real text, and compare them with n-gram baselines.

    python recipes/language_modeling/train.py --config recipes/language_modeling/configs/smoke.yaml

Every value of the config can be overridden: `--training.steps 100 --data.files.train my.txt --mixers.a.heads 8`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from transformers import set_seed

from tokenmix.data import TokenBlocks, byte_tokenizer
from tokenmix.models import BlockTransformerConfig, BlockTransformerForCausalLM, MixerConfig, MixerForCausalLM
from tokenmix.training import (
    RunResult,
    TextConfig,
    TextData,
    TrainingConfig,
    claim_folder,
    make_console,
    mixers_of,
    parse_config,
    report_text,
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
    stacks: dict[str, str] = field(default_factory=dict)
    """A pattern of letters for each model to train: {hybrid: mma}."""
    sizes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Values of `model` that some stacks have for themselves: {small: {hidden_size: 64}}."""
    blocks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Fields of a Block Transformer for each one to train: {block: {block_pattern: m, token_pattern: a}}. Besides,
    `start_from` names a stack whose weights it starts from, `paper` a size; `training` replaces values of training."""
    data: TextConfig = field(default_factory=TextConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    prompt: str = "def "
    """What the sample continues."""
    output: str = "runs/language_modeling"


def build_data(config: TextConfig) -> TextData:
    """The corpus, its tokenizer, and the blocks to train on and to score."""
    return config.load()


def build_model(config: Config, name: str, tokenizer: Any) -> MixerForCausalLM | BlockTransformerForCausalLM:
    """The language model of one stack, or one Block Transformer."""
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    own = config.sizes.get(name, {})
    if unknown := sorted(set(own) - set(asdict(config.model))):
        raise ValueError(f"sizes: expected keys of model for {name}, found {unknown}")
    shared = asdict(config.model) | own | special | {"vocab_size": len(tokenizer)}
    if name in config.blocks:
        return build_blocks(config, config.blocks[name], shared, tokenizer)
    pattern = config.stacks[name]
    return MixerForCausalLM(MixerConfig(mixers=mixers_of(config.mixers, pattern), pattern=pattern, **shared))


def build_blocks(
    config: Config, entry: dict[str, Any], shared: dict[str, Any], tokenizer: Any
) -> BlockTransformerForCausalLM:
    """From its entry, and for the rest what all models share; half of their layers are the block decoder's."""
    fields = {name: value for name, value in entry.items() if name not in ("start_from", "paper", "training")}
    if "paper" in entry and "start_from" in entry:
        raise ValueError(f"blocks: expected paper or start_from, found both in {entry}")
    if "paper" in entry:
        special = {key: value for key, value in shared.items() if key == "vocab_size" or key.endswith("_token_id")}
        return BlockTransformerForCausalLM(BlockTransformerConfig.paper(entry["paper"], **special | fields))
    if "start_from" in entry:
        if (stack := entry["start_from"]) not in config.stacks:
            raise ValueError(f"start_from: expected one of stacks {sorted(config.stacks)}, found {stack!r}")
        checking = torch.get_default_device().type == "meta"  # before anything is trained
        folder = Path(config.output) / stack / "model"
        model = build_model(config, stack, tokenizer) if checking else MixerForCausalLM.from_pretrained(folder)
        return BlockTransformerForCausalLM.from_vanilla(model, **fields)
    layers, position = shared.pop("num_hidden_layers"), shared.pop("position")
    if position != "none":
        raise ValueError(f"position: expected 'none' with blocks, found {position!r}")
    fields = {"num_block_layers": layers // 2, "num_token_layers": layers - layers // 2} | fields
    for part in ("block", "token"):
        pattern = fields.setdefault(f"{part}_pattern", next(iter(config.mixers), ""))
        fields[f"{part}_mixers"] = mixers_of(config.mixers, pattern)
    return BlockTransformerForCausalLM(BlockTransformerConfig(**shared | fields))


def compute_metrics(model: Any, test: TokenBlocks, batch_size: int) -> dict[str, float]:
    """Scores on the test text, and sizes."""
    sizes = {"parameters": model.num_parameters(), "state_bytes": model.state_bytes(test.context)}
    return score_text(model, test, batch_size) | sizes


def training_of(config: Config, name: str) -> TrainingConfig:
    """How one model is trained."""
    own = config.blocks.get(name, {}).get("training", {})
    if unknown := sorted(set(own) - set(asdict(config.training))):
        raise ValueError(f"training: expected keys of the training config in blocks.{name}, found {unknown}")
    return replace(config.training, **own)


def train_stack(config: Config, name: str, tokenizer: Any, train: TokenBlocks, test: TokenBlocks) -> RunResult:
    """Train one model, or go on where it was stopped, or read what it gave."""
    folder = Path(config.output) / name
    training = training_of(config, name)
    kept = RunResult.read(folder / "metrics.json")
    if kept is not None:
        return kept
    set_seed(training.seed)
    model = build_model(config, name, tokenizer)
    run = train_or_resume(model, training, folder, train_dataset=train, processing_class=tokenizer)
    result = RunResult(name, {"train_seconds": run.seconds}, run.history)
    result.metrics["tokens_per_second"] = run.steps * training.batch_size * config.data.context / run.seconds
    if PartialState().is_main_process:
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        result.metrics |= compute_metrics(model, test, training.batch_size)
        result.sample = write_sample(model, tokenizer, config.prompt, seed=training.seed)
        result.write(folder / "metrics.json")
    PartialState().wait_for_everyone()
    return result


def main(arguments: list[str] | None = None) -> None:
    """Train every stack of the config and report."""
    config, resolved = parse_config(Config, arguments, description=__doc__)
    names = [*config.stacks, *config.blocks]
    if not names:
        raise ValueError("stacks: expected at least one pattern to train, such as {hybrid: mma}, found none")
    if len(set(names)) < len(names):
        raise ValueError(f"blocks: expected other names than those of stacks, found {sorted(config.blocks)}")
    if strangers := sorted(set(config.sizes) - set(config.stacks)):
        raise ValueError(f"sizes: expected names among stacks {sorted(config.stacks)}, found {strangers}")
    for name in names:  # a mistake in the last model must not wait until the first is trained
        with torch.device("meta"):
            length = getattr(build_model(config, name, byte_tokenizer()).config, "block_length", 0)
        training_of(config, name).arguments(config.output)
        if config.data.overlap < length:  # nothing predicts the first block of a row
            raise ValueError(
                f"data.overlap: expected at least block_length={length} of {name}, found {config.data.overlap}"
            )
    corpus, tokenizer, train, test = build_data(config.data)
    if PartialState().is_main_process:
        claim_folder(config.output, resolved)  # now that nothing in the config is a mistake
    results = []
    for name in names:
        if PartialState().is_main_process:
            make_console().rule(f"{name}: {config.stacks.get(name) or config.blocks[name]}")
        results.append(train_stack(config, name, tokenizer, train, test))
    if PartialState().is_main_process:
        report_text(config.output, results, COLUMNS, corpus, train, test, config.data.baseline_bytes)


if __name__ == "__main__":
    main()
