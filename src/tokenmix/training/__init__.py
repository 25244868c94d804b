"""What recipes share: a thin Trainer, exact resume, and reports. Needs the extra `recipes`."""

from tokenmix.training.report import RunResult, plot_losses, plot_max_logits, print_table
from tokenmix.training.resume import claim_folder, last_complete_checkpoint
from tokenmix.training.trainer import MixerTrainer

__all__ = [
    "MixerTrainer",
    "RunResult",
    "claim_folder",
    "last_complete_checkpoint",
    "plot_losses",
    "plot_max_logits",
    "print_table",
]
