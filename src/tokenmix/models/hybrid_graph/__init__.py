"""HybridGraph: graph convolutions of three kinds over a similarity graph, with two heads."""

from tokenmix.models.hybrid_graph.config import HybridGraphConfig
from tokenmix.models.hybrid_graph.model import HybridGraphModel, HybridGraphOutput

__all__ = ["HybridGraphConfig", "HybridGraphModel", "HybridGraphOutput"]
