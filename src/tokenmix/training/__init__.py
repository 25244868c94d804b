"""What recipes share: configs, a thin Trainer, exact resume, scores and reports. Needs the extra `recipes`."""

from tokenmix.training.config import mixers_of, parse_config
from tokenmix.training.report import RunResult, make_console, plot_losses, plot_max_logits, print_table
from tokenmix.training.resume import check_folder, claim_folder, last_complete_checkpoint, write_text
from tokenmix.training.run import Trained, TrainingConfig, rows_per_device, train_or_resume
from tokenmix.training.sample import write_sample
from tokenmix.training.score import score_baselines, score_text
from tokenmix.training.text_config import TextConfig, TextData
from tokenmix.training.text_report import report_text
from tokenmix.training.trainer import MixerTrainer

__all__ = [
    "MixerTrainer",
    "RunResult",
    "TextConfig",
    "TextData",
    "Trained",
    "TrainingConfig",
    "check_folder",
    "claim_folder",
    "last_complete_checkpoint",
    "make_console",
    "mixers_of",
    "parse_config",
    "plot_losses",
    "plot_max_logits",
    "print_table",
    "report_text",
    "rows_per_device",
    "score_baselines",
    "score_text",
    "train_or_resume",
    "write_sample",
    "write_text",
]
