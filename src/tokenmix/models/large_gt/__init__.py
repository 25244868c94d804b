"""LargeGT: transformers for graphs of millions of nodes."""

from tokenmix.models.large_gt.classification import LargeGTForNodeClassification
from tokenmix.models.large_gt.config import LargeGTConfig
from tokenmix.models.large_gt.model import LargeGTModel, LargeGTOutput

__all__ = ["LargeGTConfig", "LargeGTForNodeClassification", "LargeGTModel", "LargeGTOutput"]
