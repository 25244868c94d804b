"""The stages of a conversion, each a run of Hugging Face's Trainer that can be stopped at any time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenmix.conversion.config import StageConfig
from tokenmix.conversion.objectives import match_hidden, match_logits
from tokenmix.data import TokenBlocks, collate
from tokenmix.hf import swapped_mixers
from tokenmix.training import MixerTrainer, Trained, train_or_resume


class DistillationTrainer(MixerTrainer):
    """A Trainer whose loss is the distance to a teacher, in hidden states or in logits.

    Args:
        teacher: the original model; it is not trained.
        match: "hidden" or "logits".
        temperature: of the logits.
        options: of `MixerTrainer`.
    """

    def __init__(
        self,
        *args: Any,
        teacher: PreTrainedModel,
        match: Literal["hidden", "logits"],
        temperature: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.teacher, self.match, self.temperature = teacher, match, temperature
        self.model_accepts_loss_kwargs = False  # the loss is a mean, to be divided by the number of accumulated batches
        self._errors: dict[str, Tensor] = {}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The distance on a batch; its labels are not read."""
        input_ids = inputs["input_ids"]
        if self.match == "hidden":
            with self.accelerator.autocast():  # the mixers are called without the model around them
                loss, self._errors = match_hidden(self.teacher, self.accelerator.unwrap_model(model), input_ids)
            return (loss, None) if return_outputs else loss
        with torch.no_grad(), self.accelerator.autocast():
            wanted = self.teacher(input_ids=input_ids, use_cache=False).logits
        outputs = model(input_ids=input_ids, use_cache=False)
        loss = match_logits(wanted, outputs.logits, self.temperature)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the error of each layer on the last batch as `error/<layer>`."""
        more = {f"error/{layer}": error.item() for layer, error in self._errors.items()} if "loss" in logs else {}
        super().log({**logs, **more}, *args, **kwargs)


def run_stage(
    name: str,
    config: StageConfig,
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tensor,
    folder: str | os.PathLike[str],
    temperature: float = 1.0,
) -> Trained:
    """Run one stage, or go on with it, or load what it ended with.

    Args:
        name: "hidden", "logits" or "finetune".
        config: of the stage.
        model: to be trained, in place.
        teacher: the original.
        tokenizer: kept with the checkpoints.
        tokens: (N,) the training text.
        folder: for checkpoints.
        temperature: of stage 2.

    Returns:
        The log, steps and seconds.
    """
    choose_weights(model, config.train)
    options: dict[str, Any] = {}
    if name != "finetune":
        options = {"trainer_class": DistillationTrainer, "teacher": teacher, "match": name, "temperature": temperature}
    blocks = TokenBlocks(tokens, config.context)
    run = train_or_resume(
        model, config, Path(folder), train_dataset=blocks, data_collator=collate, processing_class=tokenizer, **options
    )
    model.requires_grad_(True)
    return run


def choose_weights(model: PreTrainedModel, train: Literal["mixers", "all"]) -> None:
    """Let only the mixers' weights be trained, or all.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from tokenmix.hf import swap_mixers
        >>> sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
        >>> model = swap_mixers(LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)), {"1": "gam"})
        >>> choose_weights(model, "mixers")
        >>> {name.split(".")[2] for name, weight in model.named_parameters() if weight.requires_grad}
        {'1'}
    """
    model.requires_grad_(train == "all")
    for mixer in swapped_mixers(model).values():
        mixer.requires_grad_(True)
