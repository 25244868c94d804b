"""A text decoder of any causal mixers that reads audio through a bridge in every layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from tokenmix.blocks import NORMS
from tokenmix.feed_forward import FEED_FORWARDS
from tokenmix.layout import Layout
from tokenmix.mixer import TokenMixer, build_mixer
from tokenmix.models.cache import MixerCache, advance_stack, mixer_layer
from tokenmix.models.speech.bridges import AttentionBridge, RecurrentBridge
from tokenmix.models.speech.samba_config import SambaASRConfig
from tokenmix.state import MixerState


class DecoderBlock(GradientCheckpointingLayer):
    """x += mixer(norm x); x += bridge(norm x, audio); x += feed_forward(norm x), the last where there is one.

    Args:
        config: widths, norm, feed-forward and the bridge.
        letter: which of `decoder_mixers`.
    """

    def __init__(self, config: SambaASRConfig, letter: str) -> None:
        super().__init__()
        dim = config.hidden_size
        make_norm = NORMS[config.norm]
        self.mixer_norm = make_norm(dim, eps=config.norm_eps)
        self.mixer: TokenMixer = build_mixer(config.decoder_mixers[letter], dim)
        self.bridge_norm = make_norm(dim, eps=config.norm_eps)
        self.bridge: RecurrentBridge | AttentionBridge = (
            RecurrentBridge(dim, config.cross_mixer)
            if config.cross == "mamba"
            else AttentionBridge(dim, config.cross_heads)
        )
        self.feed_forward: nn.Module | None = None
        kind = config.decoder_feed_forward
        if kind is not None:
            self.feed_forward_norm = make_norm(dim, eps=config.norm_eps)
            self.feed_forward = FEED_FORWARDS[kind](dim, config.intermediate_size, bias=config.feed_forward_bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        audio: Tensor,
        lengths: Tensor,
        states: tuple[MixerState, MixerState] | None = None,
    ) -> Tensor:
        """(B, L, dim) text to (B, L, dim); states of mixer and bridge are advanced in place."""
        own, heard = (None, None) if states is None else states
        x = x + self.dropout(self.mixer(self.mixer_norm(x), layout, own))
        x = x + self.dropout(self.bridge(self.bridge_norm(x), layout, audio, lengths, heard))
        if self.feed_forward is not None:
            x = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x


class SpeechDecoder(nn.Module):
    """Embedding, `DecoderBlock`s, and a final norm.

    Args:
        config: sizes, mixers, pattern and bridge.

    Example:
        >>> import torch
        >>> config = SambaASRConfig(hidden_size=16, num_decoder_layers=2)
        >>> decoder = SpeechDecoder(config)
        >>> decoder(torch.tensor([[1, 5, 9]]), torch.randn(1, 7, 16), torch.tensor([7])).shape
        torch.Size([1, 3, 16])
    """

    def __init__(self, config: SambaASRConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderBlock(config, letter) for letter in config.decoder_letters())
        self.norm = NORMS[config.norm](config.hidden_size, eps=config.norm_eps)

    def forward(
        self, tokens: Tensor, audio: Tensor, lengths: Tensor, mask: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """(B, L) tokens to (B, L, hidden_size) features.

        Args:
            tokens: (B, L).
            audio: (B, T, hidden_size) features of the encoder.
            lengths: (B,) tokens of the audio.
            mask: (B, L) bool, True where a token is real.
            cache: of any kind of transformers'; at its first call the audio is read into it.
        """
        x = self.embed_tokens(tokens)
        layout = Layout(mask=mask)
        for index, layer in enumerate(self.layers):
            block: Any = layer
            states = None if cache is None else self._states(cache, index, block, x, audio, lengths)
            x = block(x, layout, audio, lengths, states)
        if cache is not None:
            advance_stack(cache, tokens.shape[1], mask)
        y: Tensor = self.norm(x)
        return y

    def _states(
        self, cache: Cache, index: int, block: DecoderBlock, x: Tensor, audio: Tensor, lengths: Tensor
    ) -> tuple[MixerState, MixerState]:
        """States of a layer's mixer and bridge; made, and the audio read, at the first call."""
        own, heard = mixer_layer(cache, 2 * index), mixer_layer(cache, 2 * index + 1)
        fresh = heard.state is None
        part: Any = block.bridge
        states = own.prepare(block.mixer, x.shape[0], x), heard.prepare(part, x.shape[0], x)
        if fresh:
            part.begin(audio, lengths, states[1])
            if isinstance(cache, MixerCache):
                states[0].reserve(cache.reserve)
        return states
