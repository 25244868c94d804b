"""Gated Associative Memory."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenmix.layout import Layout
from tokenmix.mixer import TokenMixer, check_positive, register_mixer, set_parameter
from tokenmix.mixers.reach import interval_reach
from tokenmix.ops.chunked_scan import chunked_scan
from tokenmix.ops.conv import depthwise_conv
from tokenmix.ops.precision import at_least_float32
from tokenmix.routed.base import RoutedModule, per_token
from tokenmix.state import MixerState, document_starts


@register_mixer("gam")
class GAM(TokenMixer):
    """Gated Associative Memory: a short convolution and a lookup in learned slots, gated and added.

        local_t = conv(x)_t,   memory_t = softmax(scale * x_t M^T) M,   M in R^(slots x dim)
        [g, h] = W x_t + b,    y_t = sigmoid(g) * local_t + sigmoid(h) * memory_t

    **What the memory does.** M is a parameter, so the lookup is a function of one token: it gives access to
    slots shared by the whole data set, not to other tokens. All mixing is the convolution: a stack of n
    layers sees 1 + n (kernel - 1) tokens, 13 with the paper's defaults, whatever the length. Tasks that need
    more (induction, recall) it fails by construction.

    `memory="written"` is an option of ours, not the paper's, that makes the slots carry content: each token
    writes a value into the slots it addresses, and reads the average of what was written there before, with
    M as the prior (weight kappa, learned):

        a_t = softmax(scale * x_t M^T),   n_t = n_(t-1) + a_t,   V_t = V_(t-1) + (W_v x_t) a_t^T
        memory_t = sum_s a_t[s] (kappa M_s + V_t[:, s]) / (kappa + n_t[s])

    It costs slots * dim a token and keeps a state of slots * (dim + 1) numbers.

    Args:
        dim: width of the features.
        slots: rows of M.
        kernel: taps of the convolution.
        scale: multiplies the scores; 1 as published (normed inputs have length sqrt(dim), so the softmax
            saturates early; dim ** -0.5 avoids it).
        fusion: "gated" (published) or "sum" (the paper's ablation: local + memory).
        memory: "static" (published), "written" (ours), or "none" (ablation).
        local: keep the convolution; False is the memory-only ablation.
        causal: convolve over the past; False centres the convolution (kernel odd, memory not "written").

    Raises:
        ValueError: sizes below 1, unknown options, or both paths switched off.

    Example:
        >>> sum(p.numel() for p in GAM(512).parameters()) == 512 * 3 + 512 + 512 * 512 + 2 * 512 * 512 + 2 * 512
        True

    Source:
        Acharya 2025, arXiv 2509.00605; the authors' code.
    """

    paper = "Acharya 2025, arXiv 2509.00605"
    causal = "optional"
    cost = "L"
    lora_targets: tuple[str, ...] = ("gate_proj",)

    def __init__(
        self,
        dim: int,
        slots: int = 512,
        *,
        kernel: int = 3,
        scale: float = 1.0,
        fusion: Literal["gated", "sum"] = "gated",
        memory: Literal["static", "written", "none"] = "static",
        local: bool = True,
        causal: bool = True,
    ) -> None:
        super().__init__(dim, is_causal=causal)
        check_positive("slots", slots)
        check_positive("kernel", kernel)
        if fusion not in ("gated", "sum"):
            raise ValueError(f"fusion: expected 'gated' or 'sum', found {fusion!r}")
        if memory not in ("static", "written", "none"):
            raise ValueError(f"memory: expected 'static', 'written' or 'none', found {memory!r}")
        if memory == "none" and not local:
            raise ValueError("local: expected True where memory='none', or nothing is left of the mixer, found False")
        if not causal and (memory == "written" or (local and kernel % 2 == 0)):
            raise ValueError(
                f"causal: False wants an odd kernel and a memory that is not 'written', found {kernel=}, {memory=}"
            )
        self.slots, self.kernel, self.scale, self.fusion = slots, kernel, scale, fusion
        self.memory_kind, self.local = memory, local
        if local:
            self.conv1d = nn.Conv1d(dim, dim, kernel, groups=dim)
        if memory != "none":
            self.memory = nn.Parameter(torch.empty(slots, dim))
        if memory == "written":
            self.value_proj = nn.Linear(dim, dim, bias=False)
            self.log_prior = nn.Parameter(torch.empty(()))
            self.lora_targets = (*self.lora_targets, "value_proj")
        if fusion == "gated":
            self.gate_proj = nn.Linear(dim, 2 * dim)
        if not local and memory != "written":
            self.equivariance = ("permutation",)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Slots Xavier-uniform, the rest as torch draws it; kappa 1."""
        for module in self.children():
            if isinstance(module, (nn.Linear, nn.Conv1d, RoutedModule)):
                module.reset_parameters()
        if self.memory_kind != "none":
            nn.init.xavier_uniform_(self.memory)
        if self.memory_kind == "written":
            set_parameter(self.log_prior, torch.zeros(()))

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        """See `TokenMixer.mix`."""
        starts = document_starts(layout, state)
        parts = []
        if self.local:
            parts.append(self._convolve(x, starts, layout, state))
        if self.memory_kind != "none":
            parts.append(self._look_up(x, starts, layout, state))
        if self.fusion == "gated":
            gates = per_token(self.gate_proj, x, layout).sigmoid().chunk(2, dim=-1)
            gates = gates if len(parts) == 2 else gates[:1] if self.local else gates[1:]
            parts = [gate * part for gate, part in zip(gates, parts, strict=True)]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def fill_state(self, state: MixerState, dtype: torch.dtype) -> None:
        """The last kernel - 1 inputs; with a written memory also V and n."""
        batch, device = state.batch_size, state.seen.device
        if self.local:
            state.put("conv", torch.zeros(batch, self.kernel - 1, self.dim, dtype=dtype, device=device))
        if self.memory_kind == "written":
            wide = torch.promote_types(dtype, torch.float32)
            state.put("written", torch.zeros(batch, 1, self.dim, self.slots, dtype=wide, device=device))
            state.put("evidence", torch.zeros(batch, self.slots, dtype=wide, device=device))

    def reach(self, layout: Layout, length: int) -> Tensor:
        """See `TokenMixer.reach`."""
        taps = self.kernel - 1 if self.local else 0
        if self.memory_kind == "written":
            return interval_reach(layout, length, None, 0)
        return interval_reach(layout, length, taps if self.is_causal else taps // 2, 0 if self.is_causal else taps // 2)

    def _convolve(self, x: Tensor, starts: Tensor | None, layout: Layout, state: MixerState | None) -> Tensor:
        before = None if state is None else state.recent("conv").to(x.dtype)
        y = depthwise_conv(
            x, self.conv1d.weight[:, 0], self.conv1d.bias, starts=starts, state=before, causal=self.is_causal
        )
        if state is not None:
            state.roll("conv", x, layout.counts())
        return y

    def _look_up(self, x: Tensor, starts: Tensor | None, layout: Layout, state: MixerState | None) -> Tensor:
        address = at_least_float32(self.scale * F.linear(x, self.memory)).softmax(-1)  # (B, L, slots)
        if self.memory_kind == "static":
            return address.to(x.dtype) @ self.memory
        prior = at_least_float32(self.log_prior).exp()
        written = address if layout.mask is None else address * layout.mask[..., None]
        count = _running_sum(written, starts, None if state is None else state.get("evidence"))
        weight = address / (prior + count)
        y, last = chunked_scan(
            at_least_float32(per_token(self.value_proj, x, layout))[:, :, None],
            None,
            written[:, :, None],
            weight[:, :, None],
            starts=starts,
            mask=layout.mask,
            state=None if state is None else state.get("written"),
        )
        if state is not None:
            state.put("written", last)
            state.put("evidence", count[:, -1])
        return y[:, :, 0].to(x.dtype) + (prior * weight).to(x.dtype) @ self.memory


def _running_sum(values: Tensor, starts: Tensor | None, before: Tensor | None) -> Tensor:
    """Sum over the document so far, the token included: (B, L, slots)."""
    if starts is None:
        total = values.cumsum(1)
        return total if before is None else total + before[:, None]
    total = values.double().cumsum(1)  # a short document after a long one is a small difference of large sums
    if before is not None:
        total = total + before[:, None]
    index = torch.arange(values.shape[1], device=values.device)
    first = torch.where(starts, index, -1).cummax(dim=1).values  # where the document began; -1: in an earlier chunk
    earlier = (total - values.double()).gather(1, first.clamp(min=0)[..., None].expand_as(total))
    return (total - torch.where(first[..., None] >= 0, earlier, 0.0)).to(values.dtype)
