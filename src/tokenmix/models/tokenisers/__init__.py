"""Pictures and speech as discrete tokens, and back."""

from tokenmix.models.tokenisers.base import TokeniserOutput
from tokenmix.models.tokenisers.config import ImageTokeniserConfig, SpeechTokeniserConfig
from tokenmix.models.tokenisers.image import ImageTokeniser
from tokenmix.models.tokenisers.quantise import code_perplexity
from tokenmix.models.tokenisers.speech import SpeechTokeniser

__all__ = [
    "ImageTokeniser",
    "ImageTokeniserConfig",
    "SpeechTokeniser",
    "SpeechTokeniserConfig",
    "TokeniserOutput",
    "code_perplexity",
]
