"""A feed-forward with parameters for each of three modalities, against a dense one and against boolean masks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.rows import Pair, Row, relative_error
from tokenmix.feed_forward import SwiGLU
from tokenmix.layout import Layout
from tokenmix.routed import together, untie

DIM, HIDDEN = 512, 1536
SHARES = (0.6, 0.3, 0.1)  # of text, pictures and speech among the tokens


class Masked(nn.Module):
    """The authors' way: an index with a boolean mask for each modality, there and back (their merge mended)."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(SwiGLU(DIM, HIDDEN) for _ in SHARES)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        flat, kinds = x.flatten(0, -2), ids.flatten()
        y = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            here = kinds == number
            y = y.index_put((here,), expert(flat[here]))
        return y.view_as(x)


class Ours(nn.Module):
    """Sorted once, slices, put back; the sort counts in each call."""

    def __init__(self, masked: Masked) -> None:
        super().__init__()
        self.feed_forward = untie(SwiGLU(DIM, HIDDEN), len(SHARES))
        with torch.no_grad():
            for name, parameter in self.feed_forward.named_parameters():
                parameter.copy_(torch.stack([expert.get_parameter(name) for expert in masked.experts]))

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return together(self.feed_forward, x, Layout(modality=ids))


class Dense(nn.Module):
    """One feed-forward for all tokens: the same operations, a third of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.feed_forward = SwiGLU(DIM, HIDDEN)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.feed_forward(x)


def routed_pair(length: int, peer: str = "dense") -> Pair:
    torch.manual_seed(0)
    ids = torch.multinomial(torch.tensor(SHARES), length, replacement=True)[None]
    x, grad = torch.randn(1, length, DIM), torch.randn(1, length, DIM)
    masked = Masked()
    ours, theirs = Ours(masked), masked if peer == "masks" else Dense()

    def train(module: nn.Module, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        module.zero_grad()
        leaf = x.to(dtype).requires_grad_()
        y = module(leaf, ids)
        y.backward(grad.to(dtype))
        assert leaf.grad is not None
        return y.detach(), leaf.grad

    def errors() -> dict[str, float]:
        found: dict[str, float] = {}
        reference = Masked().double()
        reference.load_state_dict({name: value.double() for name, value in masked.state_dict().items()})
        exact = train(reference, torch.float64)
        for name, value, right in zip(("ours y", "ours dx"), train(ours), exact, strict=True):
            found[name] = relative_error(value, right)
        return found

    return Pair(lambda: train(ours), lambda: train(theirs), errors)


WHAT = f"feed-forward {DIM} to {HIDDEN}, 3 modalities"
ROWS = [
    Row("routing/dense", WHAT, "dense, one for all", routed_pair, 512, 1 / 1.45),
    Row("routing/dense", WHAT, "dense, one for all", routed_pair, 4096, 1 / 1.05, lengths=(64, 256, 512, 1024, 4096)),
    Row("routing/masks", WHAT, "boolean masks", partial(routed_pair, peer="masks"), 512),
    Row("routing/masks", WHAT, "boolean masks", partial(routed_pair, peer="masks"), 4096),
]
