"""What a model for graphs is to be compared with: simple and classic node classifiers, tuned on validation."""

from tokenmix.training.graph_baselines.run import BASELINES, BaselineResult, run_baseline
from tokenmix.training.graph_baselines.settings import settings_of
from tokenmix.training.graph_baselines.tune import TunedBaseline, tune_baseline, tune_kept

__all__ = [
    "BASELINES",
    "BaselineResult",
    "TunedBaseline",
    "run_baseline",
    "settings_of",
    "tune_baseline",
    "tune_kept",
]
