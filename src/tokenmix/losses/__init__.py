"""Losses that join what two towers of a model say about the same thing."""

from tokenmix.losses.contrastive import late_interaction
from tokenmix.losses.learned import LateInteraction
from tokenmix.losses.token_scores import late_interaction_scores

__all__ = ["LateInteraction", "late_interaction", "late_interaction_scores"]
