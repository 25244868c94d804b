"""From what the block decoder says of a block to the tokens of the next, each block by itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenmix.blocks import NORMS
from tokenmix.cross_attention import CrossAttention
from tokenmix.layout import Layout
from tokenmix.models.block_transformer.config import BlockTransformerConfig
from tokenmix.models.block_transformer.embedder import Blocks
from tokenmix.stack_state import StackState


class TokenDecoder(nn.Module):
    """The bridge, and a stack over the tokens of each block.

    The bridge expands each of the m embeddings that the block decoder gives for block i to e vectors P_1 ... P_r,
    r = m e, of the width of this decoder. Block i + 1 is then read as a short sequence of its own, and its tokens are
    predicted one by one:

        prefix:           P_1 ... P_r, E[x_1] ... E[x_(L_B - 1)];  the output at P_r predicts x_1
        summation:        P_1 + s, P_2 + E[x_1] ... P_r + E[x_(L_B - 1)];  r = L_B
        cross_attention:  s, E[x_1] ... E[x_(L_B - 1)], each layer reading P_1 ... P_r first

    with a learned start s, where the authors embed their end token. Places count from 0 in every block, in generation
    too: the authors' `generate` gives both prefix vectors place 0, unlike their training.

    Args:
        config: sizes and kind.

    Source:
        Ho et al. 2024, arXiv 2406.02657, section 2.4. The cross-attention is a reconstruction: the authors take a T5,
        which reads between mixer and feed-forward.
    """

    def __init__(self, config: BlockTransformerConfig) -> None:
        super().__init__()
        self.kind, self.vectors, self.block_length = config.token_decoder, config.vectors, config.block_length
        width = self.width = config.token_hidden_size or config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.bridge = nn.Linear(config.hidden_size, self.vectors // config.block_embeddings * width)
        self.stack = config.build_token_stack()
        self.prefix = self.vectors if self.kind == "prefix" else 1  # inputs before the first token
        self.start = None if self.kind == "prefix" else nn.Parameter(torch.zeros(width))
        crossed = range(len(self.stack.layers) if self.kind == "cross_attention" else 0)
        self.norms = nn.ModuleList(NORMS[config.norm](width, eps=config.norm_eps) for _ in crossed)
        self.crosses = nn.ModuleList(CrossAttention(width, heads=config.cross_heads) for _ in crossed)

    def forward(self, blocks: Blocks, slots: Tensor) -> Tensor:
        """Features that predict the token at each place.

        Args:
            blocks: (B, N, L_B) tokens.
            slots: (B, N, m, D) what the block decoder says of the block before each; that of the first is not read.

        Returns:
            (B, N, L_B, width); zero for the first block of a row, before which there is none.
        """
        rows, count, length = blocks.tokens.shape
        if count == 1:
            return slots.new_zeros(rows, 1, length, self.width)
        known = self.expand(slots[:, 1:].flatten(0, 1))  # (M, r, width)
        tokens = self.embed_tokens(blocks.tokens[:, 1:, :-1].flatten(0, 1))  # (M, L_B - 1, width)
        x = self._run(torch.cat([self._first(known), self._join(tokens, known, 0)], dim=1), known, None)
        x = x[:, self.prefix - 1 :].reshape(rows, count - 1, length, self.width)
        return F.pad(x, (0, 0, 0, 0, 1, 0))

    def expand(self, slots: Tensor) -> Tensor:
        """(M, m, D) embeddings of the block decoder to the (M, r, width) vectors that this one reads."""
        y: Tensor = self.bridge(slots)
        return y.reshape(y.shape[0], self.vectors, self.width)

    def begin(self, known: Tensor) -> tuple[Tensor, StackState]:
        """Begin a block: (M, 1, width) features that predict its first token, and the state for `read`."""
        state = self.stack.init_state(known.shape[0], device=known.device, dtype=known.dtype)
        state.reserve(self.prefix + self.block_length - 1)
        return self._run(self._first(known), known, state, last_only=True), state

    def read(self, tokens: Tensor, place: int, known: Tensor, state: StackState) -> Tensor:
        """Go on in a block: (M, k, width) features that predict those after (M, k), the first of them at a place."""
        return self._run(self._join(self.embed_tokens(tokens), known, place), known, state)

    def _first(self, known: Tensor) -> Tensor:
        """What is read before the first token of a block."""
        if self.start is None:
            return known
        start = self.start.expand(known.shape[0], 1, -1)
        return start + known[:, :1] if self.kind == "summation" else start

    def _join(self, tokens: Tensor, known: Tensor, place: int) -> Tensor:
        """Tokens from a place on, with the vectors of the block decoder where they are added."""
        if self.kind != "summation":
            return tokens
        return tokens + known[:, place + 1 : place + 1 + tokens.shape[1]]

    def _run(self, x: Tensor, known: Tensor, state: StackState | None, *, last_only: bool = False) -> Tensor:
        if self.kind != "cross_attention":
            y: Tensor = self.stack(x, None, state, last_only=last_only)
            return y
        states = [None] * len(self.norms) if state is None else state.states
        layout = Layout()
        for block, norm, cross, memory in zip(self.stack.layers, self.norms, self.crosses, states, strict=True):
            x = x + cross(norm(x), known)
            x = self.stack.run_block(block, x, layout, memory)
        y = self.stack.norm(x[:, -1:] if last_only else x)
        return y
