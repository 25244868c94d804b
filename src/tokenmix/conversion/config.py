"""How to convert a model: what each stage does, and how results are measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tokenmix.training.run import TrainingConfig


@dataclass
class StageConfig(TrainingConfig):
    """One stage of a conversion: `TrainingConfig`, with other defaults, and how much text and of the model it takes."""

    steps: int = 500
    """Updates of the weights; 0 leaves the stage out."""
    batch_size: int = 8
    """Rows an update."""
    learning_rate: float = 1e-3
    """Its peak."""
    weight_decay: float = 0.0
    """On matrices alone."""
    context: int = 256
    """Tokens a row."""
    train: Literal["mixers", "all"] = "mixers"
    """Which weights change: those of the mixers, or all."""


def _finetune() -> StageConfig:
    return StageConfig(learning_rate=1e-4, train="all")


@dataclass
class ConversionConfig:
    """How to convert attention to mixers, and how to measure what came of it."""

    hidden: StageConfig = field(default_factory=StageConfig)
    """Stage 1: each mixer learns what the attention in its place answers to the same input."""
    logits: StageConfig = field(default_factory=StageConfig)
    """Stage 2: the whole model learns the original's distribution of the next token."""
    finetune: StageConfig = field(default_factory=_finetune)
    """Stage 3: cross entropy on the text."""
    temperature: float = 1.0
    """Of both distributions in stage 2."""
    init: Literal["attention", "random"] = "attention"
    """What mixers start from: see `tokenmix.hf.swap_mixers`."""
    seed: int = 0
    """Of the weights that are drawn in the swap; stages have their own."""
    control: bool = False
    """Also train the original as in stage 3, for what that alone gains."""
    eval_context: int = 256
    """Tokens a row of the held-out text."""
    eval_overlap: int = 32
    """Tokens of context that every scored token has at least, beyond the first row."""
    eval_bytes: int | None = None
    """Score only the first bytes of the held-out text; None for all."""
    eval_batch_size: int = 16
    """Rows at a time."""
    state_context: int = 1024
    """Tokens read before memory and decode speed are measured."""
    decode_tokens: int = 32
    """Tokens decoded in a run of the speed."""
    decode_repeats: int = 5
    """Runs of each model, alternating; their median counts."""
    output: str = "runs/conversion"
    """Folder of this conversion alone."""

    @property
    def stages(self) -> dict[str, StageConfig]:
        """The stages that have steps, in order.

        Example:
            >>> list(ConversionConfig(hidden=StageConfig(steps=0)).stages)
            ['logits', 'finetune']
        """
        every = {"hidden": self.hidden, "logits": self.logits, "finetune": self.finetune}
        return {name: stage for name, stage in every.items() if stage.steps}
