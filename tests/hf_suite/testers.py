"""What transformers' mixins ask of a model: a tiny configuration, and inputs. One tester for each pattern of mixers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, PreTrainedConfig

from tokenmix.models import BlockTransformerConfig, FITConfig, MixerConfig, MixtureOfTransformersConfig

ATTENTION = {"mixer": "attention", "heads": 4, "kv_heads": 2, "rope": True}
MAMBA2 = {"mixer": "mamba2", "state_size": 8, "head_dim": 8, "chunk": 4}
WINDOW = {"mixer": "sliding_window", "heads": 4, "window": 4, "rope": True}
LONG_SHORT = {"mixer": "ls_attention", "heads": 4, "long_heads": 1, "window": 3}
WRITTEN = {"mixer": "gam", "slots": 8, "memory": "written"}

PATTERNS: dict[str, tuple[dict[str, Any], str]] = {
    "attention": ({"a": ATTENTION}, "aa"),
    "recurrent": ({"m": MAMBA2}, "mm"),
    "hybrid": ({"m": MAMBA2, "a": ATTENTION}, "ma"),
    "windows": ({"s": WINDOW, "l": LONG_SHORT}, "sl"),
    "written": ({"g": WRITTEN}, "gg"),
    "both_ways": ({"a": {**ATTENTION, "causal": False}, "l": {**LONG_SHORT, "causal": False}}, "al"),
}


class Tester:
    """Sizes, a configuration of a native model, and a batch with padding, under the names that their mixins read.

    Args:
        parent: the test case.
        pattern: a key of `PATTERNS`.
    """

    batch_size = 3
    seq_length = 7
    num_hidden_layers = 2
    hidden_size = 32
    vocab_size = 61
    num_labels = 3
    is_training = True
    # at the usual 0.02 of tiny models an ignored mask or a missing initialisation changes less than their tolerances
    initializer_range = 0.3

    def __init__(self, parent: Any, pattern: str = "hybrid") -> None:
        self.parent = parent
        self.pattern = pattern

    def get_config(self) -> PreTrainedConfig:
        mixers, pattern = PATTERNS[self.pattern]
        return MixerConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=48,
            mixers=mixers,
            pattern=pattern,
            initializer_range=self.initializer_range,
            num_labels=self.num_labels,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )

    def prepare_config_and_inputs(self) -> tuple[PreTrainedConfig, Tensor, Tensor]:
        tokens = torch.randint(3, self.vocab_size, (self.batch_size, self.seq_length))
        mask = torch.ones_like(tokens)
        mask[1, -2:] = 0  # junk under the padding
        return self.get_config(), tokens, mask

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, Tensor]]:
        config, tokens, mask = self.prepare_config_and_inputs()
        return config, {"input_ids": tokens, "attention_mask": mask}


class SwappedTester(Tester):
    """A Llama whose first layer is a mamba2, as `tokenmix.hf.swap_mixers` leaves it."""

    def get_config(self) -> PreTrainedConfig:
        from tokenmix.hf.classes import swapped_config_class

        return swapped_config_class(LlamaConfig)(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=48,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=self.initializer_range,
            num_labels=self.num_labels,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            tokenmix={"version": 1, "layers": {"0": MAMBA2}},
        )


class BlockTester(Tester):
    """A Block Transformer of one layer a decoder, with blocks of three tokens, so that rows end inside a block."""

    hidden_size = 48
    random_offset = False  # theirs compare two calls in training

    def get_config(self) -> PreTrainedConfig:
        return BlockTransformerConfig(
            vocab_size=self.vocab_size,
            block_length=3,
            hidden_size=self.hidden_size,
            intermediate_size=48,
            token_intermediate_size=48,
            block_mixers={"a": {**ATTENTION, "kv_heads": 4, "rope": False}},
            token_mixers={"m": {**MAMBA2, "head_dim": 12}},
            token_pattern="m",
            initializer_range=self.initializer_range,
            random_offset=self.random_offset,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )


class FITTester(Tester):
    """An autoregressive FIT with groups of three tokens, so that rows end inside a group."""

    def get_config(self) -> PreTrainedConfig:
        return FITConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            latent_size=48,
            group_size=3,
            latents=2,
            max_groups=40,
            layers="(1)1(1)",
            local_mixer={"mixer": "attention", "heads": 4},
            latent_mixer={"mixer": "attention", "heads": 4},
            initializer_range=self.initializer_range,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )


class MixtureTester(Tester):
    """A Mixture-of-Transformers of a mamba2 and attention, whose rows go from text to another modality and back."""

    def get_config(self) -> PreTrainedConfig:
        return MixtureOfTransformersConfig(
            modalities={"text": {"vocab_size": 40}, "image": {"vocab_size": self.vocab_size - 40}},
            hidden_size=self.hidden_size,
            intermediate_size=48,
            mixers={"m": MAMBA2, "a": ATTENTION},
            pattern="ma",
            initializer_range=self.initializer_range,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, Tensor]]:
        """With modalities, which embeddings do not tell."""
        config, inputs = super().prepare_config_and_inputs_for_common()
        return config, inputs | {"modality_ids": config.modality_of(inputs["input_ids"])}
