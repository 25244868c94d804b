"""tokenmix: mixing tokens, whatever they are."""

from tokenmix import mixers as mixers
from tokenmix.layout import Layout
from tokenmix.mixer import (
    TokenMixer,
    build_mixer,
    get_mixer,
    list_mixers,
    register_mixer,
)
from tokenmix.state import MixerState

__version__ = "0.1.0"

__all__ = [
    "Layout",
    "MixerState",
    "TokenMixer",
    "__version__",
    "build_mixer",
    "get_mixer",
    "list_mixers",
    "register_mixer",
]
