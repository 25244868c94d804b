"""Any causal mixer, run along the row and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tokenmix.layout import Layout, take_tokens
from tokenmix.mixer import TokenMixer, build_mixer, register_mixer
from tokenmix.state import MixerState


@register_mixer("bidirectional")
class Bidirectional(TokenMixer):
    """The sum of a causal mixer along the row and of another one along the row reversed.

        y = forwards(x) + reverse(backwards(reverse(x)))

    What is reversed is each row's real tokens: padding stays where it is, and documents packed in a row are each
    reversed with their own tokens. (A plain flip would bring the padding to the front, where a recurrence or a
    convolution reads it.) The two mixers have the same options and weights of their own.

    Args:
        dim: width of the features.
        inner: a causal mixer, by its name or description, such as {"mixer": "mamba2", "head_dim": 32}.

    Raises:
        ValueError: an inner mixer that is not causal, or needs edges or a grid, or what the inner mixer refuses.

    Example:
        >>> import torch
        >>> mixer = Bidirectional(32, {"mixer": "mamba", "state_size": 8})
        >>> x = torch.randn(1, 5, 32)
        >>> there, back = mixer.forwards(x), mixer.backwards(x.flip(1)).flip(1)
        >>> torch.allclose(mixer(x), there + back, atol=1e-6)
        True

    Source:
        Zhu et al. 2024 ("Vision Mamba"), arXiv 2401.09417, section 3.3, has two scans in one block. That Samba-ASR's
        encoder (Shakhadri et al. 2025, arXiv 2501.02832) adds two whole Mambas is a reconstruction: there is no code.
    """

    paper = "Zhu et al. 2024, arXiv 2401.09417"
    causal = "never"
    cost = "L"  # of the default; an instance says that of its inner mixer

    def __init__(self, dim: int, inner: str | Mapping[str, Any] = "mamba") -> None:
        super().__init__(dim)
        self.forwards, self.backwards = build_mixer(inner, dim), build_mixer(inner, dim)
        if not self.forwards.is_causal:
            raise ValueError(f"inner: expected a causal mixer, found {inner!r}, which reads both ways already")
        if unfit := sorted({"edges", "grid"} & set(self.forwards.needs)):
            raise ValueError(f"inner: expected a mixer of sequences, found {inner!r}, which needs {', '.join(unfit)}")
        self.needs, self.cost = self.forwards.needs, self.forwards.cost
        self.lora_targets = tuple(
            f"{way}.{name}" for way in ("forwards", "backwards") for name in self.forwards.lora_targets
        )

    def reset_parameters(self) -> None:
        """Both directions anew."""
        self.forwards.reset_parameters()
        self.backwards.reset_parameters()

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        """See `TokenMixer.mix`."""
        backwards, order = layout.reversed(x.shape[0], x.shape[1], x.device)
        back: Tensor = self.backwards(take_tokens(x, order), backwards)
        return self.forwards(x, layout) + take_tokens(back, order)  # the order is its own inverse

    def reach(self, layout: Layout, length: int) -> Tensor | None:
        """See `TokenMixer.reach`: what either direction reads, where tokens before and after count alike."""
        seen = self.forwards.reach(layout, length)
        return None if seen is None else seen | seen.transpose(-1, -2)
