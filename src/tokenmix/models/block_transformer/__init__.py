"""Block Transformer: a stack of mixers over blocks of tokens, and one over the tokens of each block."""

from tokenmix.models.block_transformer.causal_lm import BlockTransformerForCausalLM
from tokenmix.models.block_transformer.config import BlockTransformerConfig
from tokenmix.models.block_transformer.model import BlockTransformerModel
from tokenmix.models.block_transformer.state import BlockTransformerState

__all__ = [
    "BlockTransformerConfig",
    "BlockTransformerForCausalLM",
    "BlockTransformerModel",
    "BlockTransformerState",
]
