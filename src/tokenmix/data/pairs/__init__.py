"""Pictures with captions and, where there is any, speech. Importing this imports torch and numpy; the rest is lazy."""

from tokenmix.data.pairs.pair_data import PairData, Samples, Waveforms, matches, pixels
from tokenmix.data.pairs.sources import SOURCES, load_pairs, register_pairs
from tokenmix.data.pairs.spoken import Recordings, SpokenCaptions

__all__ = [
    "SOURCES",
    "PairData",
    "Recordings",
    "Samples",
    "SpokenCaptions",
    "Waveforms",
    "load_pairs",
    "matches",
    "pixels",
    "register_pairs",
]
