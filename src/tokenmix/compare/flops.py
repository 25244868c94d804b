"""Arithmetic of a forward, counted: matrix products, and everything else that computes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tokenmix import kernels
from tokenmix.layout import Layout

# Operators that move, make or choose numbers and compute none; a trailing underscore is left out.
_NAMES = (
    "_assert_async _local_scalar_dense _reshape_alias _to_copy _unsafe_view arange bernoulli cat clone "
    "constant_pad_nd contiguous copy detach embedding empty empty_like empty_permuted empty_strided eye fill flip "
    "full full_like gather index index_copy index_fill index_put index_select lift_fresh linspace masked_fill "
    "masked_scatter masked_select new_empty new_empty_strided new_full new_ones new_zeros nonzero normal ones "
    "ones_like rand rand_like randint randn randn_like randperm repeat repeat_interleave resize roll scalar_tensor "
    "scatter select_scatter set slice_scatter stack take tril triu uniform unfold_copy where zero zeros zeros_like "
)
_MOVES = frozenset(_NAMES.split())
_TWO_A_NUMBER = frozenset({"addcmul", "addcdiv", "lerp"})  # a product and a sum


class Flops(NamedTuple):
    """What a call computes.

    Attributes:
        products: two FLOPs a multiplication of matrix products and convolutions, and what has a formula of its own.
        others: one FLOP a number of everything else that computes.
    """

    products: int
    others: int

    @property
    def total(self) -> int:
        """Both."""
        return self.products + self.others


def _scan_flops(dt: Any, *rest: Any, **_: Any) -> int:
    """Of Mamba's scan in plain torch, a number of the state and token: dt A, exp, u B; two for h and two for h C."""
    length, rows, channels = dt  # shapes
    size, keep = rest[1][0], rest[4]
    return (7 + (keep is not None)) * length * rows * size * channels


class _OtherCounter(TorchDispatchMode):
    """Counts what computes and is no matrix product: an operation's floats, inputs or outputs, whichever are more."""

    def __init__(self, products: Callable[[Any], bool]) -> None:
        super().__init__()
        self.flops, self.products = 0, products

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and count it."""
        found = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        name = packet.__name__.removesuffix("_")
        if not (func.is_view or name in _MOVES or self.products(packet)):
            results = [value for value in _flat(found) if value.is_floating_point() or value.is_complex()]
            if results:
                numbers = max(value.numel() for value in [*results, *_flat(args)])
                self.flops += numbers * (2 if name in _TWO_A_NUMBER else 1)
        return found


def _flat(values: Any) -> list[Tensor]:
    """The tensors among values and lists of them."""
    if isinstance(values, Tensor):
        return [values]
    return [tensor for value in values for tensor in _flat(value)] if isinstance(values, (tuple, list)) else []


@torch.no_grad()
def count_flops(module: nn.Module, x: Tensor, layout: Layout | None = None) -> Flops:
    """Count the arithmetic of module(x, layout), in eval mode and without gradients.

        FLOPs = 2 x multiplications of matrix products  +  numbers that other operations compute

    Matrix products, convolutions and attention are those that torch's FlopCounterMode knows, with attention in its
    plain form: all L x L scores, also those that a causal mask hides. Of everything else (exp, sums, norms, gates, the
    steps of a recurrence) an operation counts as one FLOP for each of its numbers, outputs or inputs, whichever are
    more, and a product that is added (addcmul) as two. Copies, padding, gathers and masks are free. So a recurrence
    that is no matrix product is seen too: Mamba's scan counts as 7 FLOPs a token and number of its state. An operator
    of torch.library is counted by the formula that torch.utils.flop_counter.register_flop_formula has for it, else as
    one FLOP a number.

    It is the plain-torch form that is counted (`tokenmix.kernels.use("torch")`), whichever kernel runs; a chunked form
    computes somewhat more than the recurrence it stands for. The count runs on the meta device, so that it costs
    neither memory nor arithmetic, and falls back to running the module where it does not run there.

    Args:
        module: left unchanged.
        x: (B, L, dim), of which the shape matters.
        layout: where the tokens live.

    Returns:
        The FLOPs of matrix products, of everything else, and their total.

    Example:
        >>> count_flops(nn.Sequential(nn.Linear(8, 16, bias=False), nn.SiLU()), torch.zeros(2, 5, 8))
        Flops(products=2560, others=160)
    """
    arguments = (x,) if layout is None else (x, layout)
    subject = copy.deepcopy(module).eval()
    try:
        there = [argument.to("meta") for argument in arguments]
        return _count(copy.deepcopy(subject).to("meta"), there)
    except Exception:  # it reads numbers, or keeps tensors that do not move
        return _count(subject, arguments)


def _count(module: nn.Module, arguments: Any) -> Flops:
    formulas = {torch.ops.tokenmix.selective_scan: _scan_flops}
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    others = _OtherCounter(lambda packet: packet in counter.flop_registry)
    # inside a kernel nothing is seen, and the fused attention of the CPU is not known to FlopCounterMode
    with kernels.use("torch"), sdpa_kernel(SDPBackend.MATH), counter, others:
        module(*arguments)
    return Flops(counter.get_total_flops(), others.flops)
