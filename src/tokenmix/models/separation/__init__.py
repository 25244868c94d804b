"""Speech separation: one mixture in, one waveform a speaker out, with any mixers between."""

from tokenmix.models.separation.config import SeparatorConfig
from tokenmix.models.separation.loss import best_order, si_sdr
from tokenmix.models.separation.model import MixerForSpeechSeparation, SeparatorOutput
from tokenmix.models.separation.oracle import ideal_ratio_mask
from tokenmix.models.separation.report import plot_separation, write_sounds
from tokenmix.models.separation.score import SeparationScores, score_ideal_masks, score_separator

__all__ = [
    "MixerForSpeechSeparation",
    "SeparationScores",
    "SeparatorConfig",
    "SeparatorOutput",
    "best_order",
    "ideal_ratio_mask",
    "plot_separation",
    "score_ideal_masks",
    "score_separator",
    "si_sdr",
    "write_sounds",
]
