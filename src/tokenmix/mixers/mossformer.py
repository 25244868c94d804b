"""MossFormer: a gated single-head layer of joint local and global attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenmix.attention_weights import AttentionShape
from tokenmix.layout import Layout
from tokenmix.mixer import TokenMixer, check_positive, register_mixer
from tokenmix.mixers.mossformer_far import read_document, read_earlier_groups
from tokenmix.mixers.mossformer_near import read_near
from tokenmix.mixers.mossformer_parts import FFConvM, OffsetScale, token_shift
from tokenmix.mixers.reach import interval_reach
from tokenmix.mixers.rotary import RotaryTable, rotary_table, turn
from tokenmix.state import MixerState, chunk_places, document_starts

ROTATED = 32  # features of queries and keys that turn, at most


@register_mixer("mossformer")
class MossFormer(TokenMixer):
    """Two gated value streams that one head reads twice: closely inside groups, and linearly over everything.

        s = shift(x),   [v, u] = FFConvM(s),   z = FFConvM(s),   q_near, q_far, k_near, k_far = rotary(z * gamma + beta)
        W_ij = relu(q_near_i . k_near_j / g)^2 inside a group, plus q_far_i . k_far_j / T over all of the T tokens
        out = (W u * v) * sigmoid(W v * u),   y = FFConvM(out)

    FFConvM is ScaleNorm, a projection, SiLU and a convolution that is added; shift delays half of the channels by one
    token. The layer norms its own input, so in a residual block it needs no norm before it.

    **Causal.** W is lower triangular inside a group, and the far part reads the earlier groups alone, divided by g (so
    it grows along the sequence, as published). The convolutions look back only. A state keeps the sum over earlier
    groups and the last one: its size does not grow. `causal_conv=False` is what the authors' code calls causal: its
    convolutions are centred, so an output reads kernel - 1 tokens ahead, and `is_causal` is False.

    **Where the authors' code is mended.** Padding is kept out of the convolutions and of T, and documents packed in a
    row out of each other. Dropout falls on the projections; that on the entries of W is left out.

    Args:
        dim: width d of the features.
        group: tokens g of a group, counted from the start of each document.
        key_size: width of queries and keys, even.
        expansion: v and u together are expansion * d wide; expansion * d is even.
        kernel: taps of the convolutions; odd unless they are causal.
        causal: read only the past.
        causal_conv: with causal=True, whether the convolutions are causal too.
        dropout: share of features dropped in training, behind each FFConvM.
        rope_base: base of the frequencies of the rotary positions, which turn the first min(32, key_size) features.

    Raises:
        ValueError: sizes below 1, an odd key_size or width of v and u, an even kernel of centred convolutions, or a
            dropout outside [0, 1).

    Example:
        >>> MossFormer(64, group=16, key_size=32)(torch.randn(2, 50, 64)).shape
        torch.Size([2, 50, 64])
        >>> causal = MossFormer(64, group=16, key_size=32, causal=True)
        >>> causal.state_numel(10) == causal.state_numel(10_000)
        True

    Source:
        Zhao and Ma 2023, arXiv 2302.11824; details as in the authors' code in ModelScope. The attention is that of
        FLASH: Hua et al. 2022, arXiv 2202.10447.
    """

    paper = "Zhao and Ma 2023, arXiv 2302.11824"
    causal = "optional"
    cost = "L*g"
    lora_targets = ("hidden.proj", "keys.proj", "out.proj")
    residual_projection = "out.proj"
    norms_its_input = True

    def __init__(
        self,
        dim: int,
        group: int = 256,
        *,
        key_size: int = 128,
        expansion: int = 4,
        kernel: int = 17,
        causal: bool = False,
        causal_conv: bool = True,
        dropout: float = 0.1,
        rope_base: float = 10000.0,
    ) -> None:
        for name, choice in (("causal", causal), ("causal_conv", causal_conv)):
            if not isinstance(choice, bool):
                raise TypeError(f"{name}: expected True or False, found {choice!r}")
        super().__init__(dim, is_causal=causal and causal_conv)
        sizes = {"group": group, "key_size": key_size, "expansion": expansion, "kernel": kernel}
        for name, value in sizes.items():
            check_positive(name, value)
        if key_size % 2:
            raise ValueError(f"key_size: expected an even number, since pairs of features turn, found {key_size}")
        if expansion * dim % 2:
            raise ValueError(f"expansion: expected expansion * dim to be even, found {expansion} * {dim}")
        if not self.is_causal and kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd number for centred convolutions, found {kernel}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected at least 0 and below 1, found {dropout}")
        if rope_base <= 0:
            raise ValueError(f"rope_base: expected a positive number, found {rope_base}")
        self.group, self.key_size, self.kernel = group, key_size, kernel
        self.reads_back, self.rope_base = causal, rope_base
        width, options = expansion * dim, {"kernel": kernel, "causal": self.is_causal, "dropout": dropout}
        self.width = width
        self.hidden = FFConvM(dim, width, **options)  # type: ignore[arg-type]  # one dict of several types
        self.keys = FFConvM(dim, key_size, **options)  # type: ignore[arg-type]  # see above
        self.copies = OffsetScale(key_size)
        self.out = FFConvM(width // 2, dim, **options)  # type: ignore[arg-type]  # see above

    def reset_parameters(self) -> None:
        """Projections and filters as torch draws them, norms 1, gamma N(0, 0.02^2), beta 0."""
        for part in (self.hidden, self.keys, self.copies, self.out):
            part.reset_parameters()

    @classmethod
    def options_like(cls, attention: AttentionShape) -> dict[str, Any]:
        """Its direction, and queries and keys as wide as a head's."""
        return {"causal": attention.causal, "key_size": attention.head_dim + attention.head_dim % 2}

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        """See `TokenMixer.mix`."""
        starts = document_starts(layout, state)
        shifted = token_shift(x, starts, None if state is None else state.recent("shift").to(x.dtype))
        if state is not None:
            state.roll("shift", x[..., : self.dim - self.dim // 2], layout.counts())
        hidden = self._project("hidden", shifted, starts, layout, state)
        copies = self.copies(self._project("keys", shifted, starts, layout, state))
        table = self._table(x, layout, state)
        near_q, far_q, near_k, far_k = (turn(copy[:, None], table)[:, 0] for copy in copies)
        read = read_near(near_q, near_k, hidden, layout, self.group, self.reads_back, state)
        if self.reads_back:
            read = read + read_earlier_groups(far_q, far_k, hidden, layout, self.group, state)
        else:
            read = read + read_document(far_q, far_k, hidden, layout)
        read = read.to(x.dtype)
        (v, u), (read_v, read_u) = hidden.chunk(2, dim=-1), read.chunk(2, dim=-1)
        return self._project("out", (read_u * v) * (read_v * u).sigmoid(), starts, layout, state)

    def fill_state(self, state: MixerState, dtype: torch.dtype) -> None:
        """The last token's half, the last inputs of each convolution, the last group, and the sums over groups."""
        batch, device = state.batch_size, state.seen.device
        state.put("shift", torch.zeros(batch, 1, self.dim - self.dim // 2, dtype=dtype, device=device))
        for name, width in (("hidden", self.width), ("keys", self.key_size), ("out", self.dim)):
            state.put(name, torch.zeros(batch, self.kernel - 1, width, dtype=dtype, device=device))
        state.ring("near_k", 1, self.group, self.key_size, dtype)
        state.ring("near_v", 1, self.group, self.width, dtype)
        wide = torch.promote_types(dtype, torch.float32)
        for name in ("groups", "open"):
            state.put(name, torch.zeros(batch, 1, self.width, self.key_size, dtype=wide, device=device))

    def reach(self, layout: Layout, length: int) -> Tensor | None:
        """The document; None with causal=True, where the numbers decide: the ReLU closes pairs inside a group."""
        return None if self.reads_back else interval_reach(layout, length, None, None)

    def _project(self, name: str, x: Tensor, starts: Tensor | None, layout: Layout, state: MixerState | None) -> Tensor:
        part: FFConvM = getattr(self, name)
        before = None if state is None else state.recent(name).to(x.dtype)
        y, inputs = part(x, layout.mask, starts, before, layout)
        if state is not None:
            state.roll(name, inputs, layout.counts())
        return y

    def _table(self, x: Tensor, layout: Layout, state: MixerState | None) -> RotaryTable:
        positions = layout.positions
        if positions is None:
            positions = chunk_places(x.shape[1], layout, state, x.device)
        pairs = min(ROTATED, self.key_size) // 2
        frequencies = tuple(self.rope_base ** (-i / pairs) for i in range(pairs))
        key = ("rotary", frequencies, x.dtype, x.device)
        return layout.remember(key, positions, lambda: rotary_table(positions, x, 0, frequencies, 1.0))
