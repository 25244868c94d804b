"""Plugging mixers into Hugging Face: attention functions, swapped attention, and Mamba models on our scans.

Importing this registers swapped models with transformers' Auto classes, so that their checkpoints load, and
"ls_attention", "sliding_window" and "cells" as attention implementations.
"""

from tokenmix.hf.adapter import MixerAttention
from tokenmix.hf.attention import register_attention
from tokenmix.hf.attention_use import use_attention
from tokenmix.hf.classes import register_configs
from tokenmix.hf.mamba import accelerate_mamba, restore_mamba
from tokenmix.hf.swap import carried_weights, lora_targets, swap_mixers, swapped_mixers

register_configs()
register_attention()

__all__ = [
    "MixerAttention",
    "accelerate_mamba",
    "carried_weights",
    "lora_targets",
    "register_attention",
    "restore_mamba",
    "swap_mixers",
    "swapped_mixers",
    "use_attention",
]
