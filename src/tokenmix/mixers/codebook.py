"""Codebook attention: every token reads the codes of a vector quantiser, each weighing as much as it stands for."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tokenmix.attention_weights import AttentionShape, AttentionWeights
from tokenmix.layout import Layout
from tokenmix.mixer import TokenMixer, check_positive, register_mixer
from tokenmix.mixers.projections import take_heads, width_of_heads
from tokenmix.mixers.reach import interval_reach
from tokenmix.mixers.vector_quantiser import VectorQuantiser, of_all_processes, set_buffer
from tokenmix.ops.attend import attend
from tokenmix.ops.sources import Slots
from tokenmix.routed.base import RoutedModule, per_token
from tokenmix.state import MixerState


@register_mixer("codebook_attention")
class CodebookAttention(TokenMixer):
    """Attention over M codes that stand for all tokens seen in training.

        z_i = W_c x_i (or x_i itself)
        y_i = [sum over m of softmax_m(q_hi . k_hm / sqrt(e) + log n_m) v_hm]_h W_o
        q_hi = W_qh z_i,   k_hm = W_kh code_m,   v_hm = W_vh code_m

    n_m is the moving average of how many tokens a batch has at code m. So this is attention over all tokens, each
    replaced by its code, at the cost of M keys; a code that stands for nothing (n_m = 0) weighs exactly 0. Codes follow
    z by moving averages in training, after they were read, without gradients.

    **What a token reads.** Codes, and no token: in one call, output i is a function of token i alone. Other tokens act
    through the codes, and only those of earlier training batches. It is a mixer for a stack that has another, and
    it is not called causal because the codes hold whole documents, ends included.

    Args:
        dim: width of the features.
        heads: H, number of heads.
        codes: M. LargeGT has 4096.
        code_dim: width of z; default: z is x, and there is no W_c.
        head_dim: e, width of a head; default dim / heads.
        bias: biases on the projections.
        decay, init, restart: of the quantiser, see `VectorQuantiser`. As published: init="normal", restart=None; then
            all counts begin at 0, and before its first batch the mixer gives 0 (with o_proj's bias).

    Raises:
        ValueError, TypeError: sizes below 1 or that do not divide, or what the quantiser refuses.

    Example:
        >>> mixer = CodebookAttention(8, heads=2, codes=4)
        >>> mixer(torch.randn(2, 5, 8)).shape, bool(mixer.quantiser.initialised)
        (torch.Size([2, 5, 8]), True)

    Source:
        Dwivedi et al. 2023 (LargeGT), arXiv 2312.11109; after Kong et al. 2023 (GOAT), ICML.
    """

    paper = "Dwivedi et al. 2023, arXiv 2312.11109"
    causal = "never"
    shared_modules = ("k_proj", "v_proj")  # of codes, which have no modality
    cost = "L"
    equivariance = ("permutation",)
    ordered = False
    residual_projection = "o_proj"

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        codes: int = 512,
        code_dim: int | None = None,
        head_dim: int | None = None,
        bias: bool = False,
        decay: float = 0.99,
        init: str = "first_batch",
        restart: float | None = 0.01,
    ) -> None:
        super().__init__(dim)
        head_dim = width_of_heads(dim, heads, head_dim)
        self.heads, self.head_dim, self.codes = heads, head_dim, codes
        self.code_proj = None
        if code_dim is not None:
            check_positive("code_dim", code_dim)
            self.code_proj = nn.Linear(dim, code_dim, bias=bias)
        width = code_dim or dim
        self.quantiser = VectorQuantiser(codes, width, decay=decay, init=init, restart=restart)
        self.q_proj = nn.Linear(width, heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(width, heads * head_dim, bias=bias)
        self.v_proj = nn.Linear(width, heads * head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * head_dim, dim, bias=bias)
        self.lora_targets = ("q_proj", "k_proj", "v_proj", "o_proj")
        if self.code_proj is not None:
            self.lora_targets = ("code_proj", *self.lora_targets)

    def reset_parameters(self) -> None:
        """Draw the projections as `torch.nn.Linear` does, and forget the codes."""
        for module in self.children():
            if isinstance(module, (nn.Linear, VectorQuantiser, RoutedModule)):
                module.reset_parameters()

    @classmethod
    def options_like(cls, attention: AttentionShape) -> dict[str, Any]:
        """Its heads."""
        return {"heads": attention.heads, "head_dim": attention.head_dim, "bias": attention.bias}

    def take_attention(self, weights: AttentionWeights) -> tuple[str, ...]:
        """All of it, for as many heads of the same width, where codes have the width of the features."""
        return take_heads(self, weights) if self.code_proj is None else ()

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        """See `TokenMixer.mix`."""
        z = x if self.code_proj is None else per_token(self.code_proj, x, layout)
        book = self.quantiser.codebook().to(z.dtype)
        q = per_token(self.q_proj, z, layout).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, L, e)
        k, v = (project(book).unflatten(-1, (self.heads, -1)).transpose(0, 1) for project in (self.k_proj, self.v_proj))
        y = attend(q, None, None, Slots(k, v, self.quantiser.counts.log()))  # keys (H, M, e)
        if self.training:
            self.quantiser.update(z, layout.mask)
        return per_token(self.o_proj, y.transpose(1, 2).flatten(2), layout)

    def reach(self, layout: Layout, length: int) -> Tensor:
        """See `TokenMixer.reach`: the token itself."""
        return interval_reach(layout, length, 0, 0)

    def extra_repr(self) -> str:
        """Heads and codes."""
        return f"heads={self.heads}, codes={self.codes}"


class NodeCodes(nn.Module):
    """Which code each node of a graph has, and how many nodes each code has.

    Counts are kept up to date with what changes, so that a training step does not look at all nodes. The codes are
    int32: NCCL, which copies buffers between processes, knows no int16.

    With torch.distributed, `set` takes the nodes of all processes, in the order of their ranks, so every process holds
    the same; all must call it equally often.

    Args:
        num_nodes: N.
        codes: M.
        random_start: every node begins with a random code, as published; default: with none.

    Raises:
        ValueError, TypeError: sizes below 1.

    Example:
        >>> nodes = NodeCodes(num_nodes=4, codes=3)
        >>> nodes.set(torch.tensor([0, 2, 0]), torch.tensor([1, 1, 2]))
        >>> nodes.codes.tolist(), nodes.counts().tolist()
        ([2, -1, 1, -1], [0, 1, 1])

    Source:
        Dwivedi et al. 2023 (LargeGT), arXiv 2312.11109.
    """

    codes: Tensor
    nodes_per_code: Tensor

    def __init__(self, num_nodes: int, codes: int, *, random_start: bool = False) -> None:
        super().__init__()
        check_positive("num_nodes", num_nodes)
        check_positive("codes", codes)
        self.num_nodes, self.num_codes, self.random_start = num_nodes, codes, random_start
        self.register_buffer("codes", torch.empty(num_nodes, dtype=torch.int32))
        self.register_buffer("nodes_per_code", torch.empty(codes, dtype=torch.int64))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Forget all codes, or draw them anew."""
        if self.codes.is_meta:
            return
        start = torch.randint_like(self.codes, self.num_codes) if self.random_start else torch.full_like(self.codes, -1)
        set_buffer(self.codes, start)
        known = self.codes[self.codes >= 0]  # of a checkpoint, perhaps
        self.nodes_per_code.copy_(torch.bincount(known, minlength=self.num_codes))  # whatever a checkpoint counted

    def counts(self) -> Tensor:
        """(M,) int64: nodes of each code; together the nodes that have one."""
        return self.nodes_per_code.clone()

    @torch.compiler.disable
    @torch.no_grad()
    def set(self, ids: Tensor, codes: Tensor) -> None:
        """Give nodes their codes; of a node that is listed twice, the last counts.

        Args:
            ids: (n,) integers, nodes from 0 to N - 1.
            codes: (n,) integers from 0 to M - 1, or -1 for none.

        Raises:
            ValueError, TypeError: input of another shape, type or range.
        """
        for name, value, low, high in (("ids", ids, 0, self.num_nodes - 1), ("codes", codes, -1, self.num_codes - 1)):
            _check_integers(name, value, low, high)
        if ids.shape != codes.shape:
            raise ValueError(f"codes: expected as many as ids, found {tuple(codes.shape)} and {tuple(ids.shape)}")
        ids, codes = _gathered(ids.long(), codes.long())
        ids, order = ids.sort(stable=True)
        last = torch.ones_like(ids, dtype=torch.bool)
        last[:-1] = ids[1:] != ids[:-1]
        ids, codes = ids[last], codes[order][last]
        before = self.codes[ids].long()
        self.nodes_per_code -= torch.bincount(before[before >= 0], minlength=self.num_codes)
        self.nodes_per_code += torch.bincount(codes[codes >= 0], minlength=self.num_codes)
        self.codes[ids] = codes.to(torch.int32)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"num_nodes={self.num_nodes}, codes={self.num_codes}"


def _check_integers(name: str, value: Tensor, low: int, high: int) -> None:
    if not isinstance(value, Tensor) or value.is_floating_point() or value.dtype == torch.bool:
        raise TypeError(f"{name}: expected integers, found {getattr(value, 'dtype', type(value).__name__)}")
    if value.dim() != 1:
        raise ValueError(f"{name}: expected shape (n,), found {tuple(value.shape)}")
    if len(value):
        least, most = (int(x) for x in value.aminmax())
        if least < low or most > high:
            raise ValueError(f"{name}: expected numbers from {low} to {high}, found {least if least < low else most}")


def _gathered(ids: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Those of all processes, by rank."""
    sizes = of_all_processes(len(ids), ids.device)
    if len(sizes) == 1:
        return ids, codes
    padded = ids.new_zeros(2, max(sizes))
    padded[:, : len(ids)] = torch.stack([ids, codes])
    found = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(found, padded)
    pairs = torch.cat([part[:, :size] for part, size in zip(found, sizes, strict=True)], dim=1)
    return pairs[0], pairs[1]
