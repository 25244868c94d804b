"""Converting the attention of pretrained language models to linear mixers or hybrids. Needs the extra `recipes`."""

from tokenmix.conversion.config import ConversionConfig, StageConfig
from tokenmix.conversion.objectives import match_hidden, match_logits
from tokenmix.conversion.report import Point, Report, gap_table, plot_reports, print_report
from tokenmix.conversion.run import convert, fine_tune_original, prepare

__all__ = [
    "ConversionConfig",
    "Point",
    "Report",
    "StageConfig",
    "convert",
    "fine_tune_original",
    "gap_table",
    "match_hidden",
    "match_logits",
    "plot_reports",
    "prepare",
    "print_report",
]
