"""Plugging mixers into Hugging Face: swapping the attention of pretrained models, and Mamba models on our scans.

Importing this registers swapped models with transformers' Auto classes, so that their checkpoints load.
"""

from tokenmix.hf.adapter import MixerAttention
from tokenmix.hf.classes import register_configs
from tokenmix.hf.mamba import accelerate_mamba, restore_mamba
from tokenmix.hf.swap import carried_weights, lora_targets, swap_mixers, swapped_mixers

register_configs()

__all__ = [
    "MixerAttention",
    "accelerate_mamba",
    "carried_weights",
    "lora_targets",
    "restore_mamba",
    "swap_mixers",
    "swapped_mixers",
]
