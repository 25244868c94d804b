"""The mixers: a named system is a short composition of ops with its paper's defaults."""

from tokenmix.mixers.attention import Attention, LSAttention, SlidingWindow
from tokenmix.mixers.bidirectional import Bidirectional
from tokenmix.mixers.codebook import CodebookAttention, NodeCodes
from tokenmix.mixers.gam import GAM
from tokenmix.mixers.heads import HeadGroup, HeadGroupAttention
from tokenmix.mixers.linear import LinearAttention
from tokenmix.mixers.mamba import Mamba
from tokenmix.mixers.mamba2 import Mamba2
from tokenmix.mixers.mossformer import MossFormer
from tokenmix.mixers.neighbourhood import NeighbourhoodAttention
from tokenmix.mixers.span_attention import SpanAttention
from tokenmix.mixers.vector_quantiser import VectorQuantiser

__all__ = [
    "GAM",
    "Attention",
    "Bidirectional",
    "CodebookAttention",
    "HeadGroup",
    "HeadGroupAttention",
    "LSAttention",
    "LinearAttention",
    "Mamba",
    "Mamba2",
    "MossFormer",
    "NeighbourhoodAttention",
    "NodeCodes",
    "SlidingWindow",
    "SpanAttention",
    "VectorQuantiser",
]
