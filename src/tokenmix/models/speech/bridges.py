"""How a decoder's text reads the audio: through a recurrence over both, or by cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tokenmix.cross_attention import CrossAttention
from tokenmix.layout import Layout
from tokenmix.mixer import build_mixer
from tokenmix.state import MixerState


class RecurrentBridge(nn.Module):
    """A causal mixer over the audio and then the text; what it gives for the text is the text's reading.

        [_ ; y] = mixer([audio ; x])

    With a state the audio is read once (`begin`); a recurrence such as Mamba then holds the whole utterance in a memory
    of constant size, however long audio and text are. What does not fit into it is lost: recall falls with the length
    of the audio.

    Args:
        dim: width of the features.
        mixer: a causal mixer, by its name or description.

    Raises:
        ValueError: a mixer that is not causal.

    Example:
        >>> bridge = RecurrentBridge(16, {"mixer": "mamba", "state_size": 4})
        >>> x, audio, lengths = torch.randn(1, 3, 16), torch.randn(1, 9, 16), torch.tensor([9])
        >>> state = bridge.init_state(1)
        >>> bridge.begin(audio, lengths, state)
        >>> torch.allclose(bridge(x, Layout(), audio, lengths, state), bridge(x, Layout(), audio, lengths), atol=1e-6)
        True

    Source:
        The "Mamba cross-connection" of Samba-ASR (Shakhadri et al. 2025, arXiv 2501.02832): a reconstruction, since the
        paper has neither code nor equations for it.
    """

    def __init__(self, dim: int, mixer: str | Mapping[str, Any]) -> None:
        super().__init__()
        self.mixer = build_mixer(mixer, dim)
        if not self.mixer.is_causal:
            raise ValueError(f"cross_mixer: expected a causal mixer, found {mixer!r}")

    def init_state(self, batch_size: int, **options: Any) -> MixerState:
        """An empty memory."""
        return self.mixer.init_state(batch_size, **options)

    def begin(self, audio: Tensor, lengths: Tensor, state: MixerState) -> None:
        """Read (B, T, dim) audio of (B,) lengths into the state, before the first text."""
        self.mixer(audio, Layout.from_lengths(lengths, audio.shape[1]), state)

    def forward(
        self, x: Tensor, layout: Layout, audio: Tensor, lengths: Tensor, state: MixerState | None = None
    ) -> Tensor:
        """(B, L, dim) text to (B, L, dim); with a state that has begun, the audio is not looked at."""
        if state is not None:
            return self.mixer(x, layout, state)
        text = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if layout.mask is None else layout.mask
        heard = torch.arange(audio.shape[1], device=x.device) < lengths[:, None]
        joined = Layout(mask=torch.cat([heard, text], dim=1))
        y: Tensor = self.mixer(torch.cat([audio, x], dim=1), joined)
        return y[:, audio.shape[1] :]


class AttentionBridge(nn.Module):
    """Ordinary cross-attention: each token of the text reads all tokens of the audio.

    Its state holds the audio's keys and values: it grows with the audio, and not with the text.

    Args:
        dim: width of the features.
        heads: number of heads.

    Raises:
        ValueError: heads that do not divide dim.

    Example:
        >>> bridge = AttentionBridge(16, heads=2)
        >>> x, audio, lengths = torch.randn(1, 3, 16), torch.randn(1, 9, 16), torch.tensor([9])
        >>> bridge(x, Layout(), audio, lengths).shape
        torch.Size([1, 3, 16])

    Source:
        Vaswani et al. 2017, arXiv 1706.03762, section 3.2.3.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = CrossAttention(dim, heads=heads)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> MixerState:
        """An empty memory."""
        weight = self.attention.k_proj.weight
        state = MixerState(batch_size, device=device or weight.device)
        empty = torch.zeros(
            batch_size, self.attention.heads, 0, self.attention.inner_dim // self.attention.heads,
            dtype=dtype or weight.dtype, device=state.seen.device,
        )  # fmt: skip
        state.put("k", empty)
        state.put("v", empty)
        state.put("heard", torch.zeros(batch_size, 0, dtype=torch.bool, device=state.seen.device))
        return state

    def begin(self, audio: Tensor, lengths: Tensor, state: MixerState) -> None:
        """Keep keys and values of (B, T, dim) audio of (B,) lengths."""
        for name, value in zip(("k", "v"), self.attention.project(audio), strict=True):
            state.put(name, value)
        state.put("heard", torch.arange(audio.shape[1], device=audio.device) < lengths[:, None])

    def forward(
        self, x: Tensor, layout: Layout, audio: Tensor, lengths: Tensor, state: MixerState | None = None
    ) -> Tensor:
        """(B, L, dim) text to (B, L, dim); with a state that has begun, the audio is not looked at."""
        if state is not None:
            y = self.attention.read(x, state.get("k"), state.get("v"), state.get("heard"))
            state.advance(x.shape[1], layout)
            return y
        heard = torch.arange(audio.shape[1], device=x.device) < lengths[:, None]
        read: Tensor = self.attention(x, audio, heard)
        return read
