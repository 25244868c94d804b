"""Pairs of layers, blocks and models, and how far each is from itself in float64."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.rows import Pair, relative_error

Call = Callable[[nn.Module, Tensor], Tensor]


def module_pair(
    mine: nn.Module,
    theirs: nn.Module,
    x: Tensor,
    *,
    train: bool = True,
    same: nn.Module | None = None,
    call: Call = nn.Module.__call__,
) -> Pair:
    """A pair of modules on the same input.

    Args:
        mine, theirs: float32.
        x: their input, float32 or integers.
        train: whether a call also takes the gradients of all parameters.
        same: a module of this library that both are compared with, in float64, where they have the same weights; None
            where they compute different things: then each is compared with itself in float64, on the first 2048 tokens.
        call: (module, x) -> y.
    """

    def run(module: nn.Module, given: Tensor = x) -> Tensor:
        if not train:
            with torch.no_grad():
                return call(module, given)
        module.zero_grad()
        y = call(module, given)
        (y if y.dim() == 0 else y.square().mean()).backward()
        return y.detach()

    def errors() -> dict[str, float]:
        given = x if same is not None else x[:, :2048]
        wide, found = given.double() if x.is_floating_point() else given, {}
        for who, module in (("ours", mine), ("theirs", theirs)):
            exact = copy.deepcopy(module if same is None else same).double()
            found[f"{who} y"] = relative_error(run(module, given), run(exact, wide))
            if train:
                found |= {f"{who} {name}": error for name, error in _gradient_errors(module, exact).items()}
            module.zero_grad()
        return found

    sizes = [sum(p.numel() for p in module.parameters()) / 1e6 for module in (mine, theirs)]
    notes = "{:.2f} M parameters against {:.2f} M".format(*sizes)
    return Pair(lambda: run(mine), lambda: run(theirs), errors, notes=notes)


def common_name(name: str) -> str | None:
    """What a parameter is called in transformers' models and in ours; None for those that go by other names.

    Example:
        >>> common_name("backbone.layers.1.mixer.A_log") == common_name("model.stack.layers.1.mixer.A_log")
        True
        >>> common_name("backbone.embeddings.weight"), common_name("backbone.norm_f.weight")
        ('embedding', None)
    """
    if "mixer." in name:
        layer = re.search(r"layers\.(\d+)\.", name)
        return (f"{layer[1]}." if layer else "") + name.rsplit("mixer.", maxsplit=1)[-1]
    if "embed" in name:
        return "embedding"
    return None if "norm" in name else name


def _gradient_errors(module: nn.Module, exact: nn.Module) -> dict[str, float]:
    """The largest error of a gradient for each kind of parameter.

    Raises:
        ValueError: no parameter of the two has one name.
    """
    right = {common_name(name): p.grad for name, p in exact.named_parameters()}
    found: dict[str, float] = {}
    for name, parameter in module.named_parameters():
        known, place = right.get(common_name(name)), common_name(name)
        if place is not None and known is not None:
            kind = "d " + re.sub(r"^\d+\.", "", place)
            grad = torch.zeros_like(known) if parameter.grad is None else parameter.grad
            found[kind] = max(found.get(kind, 0.0), relative_error(grad, known))
    if not found:
        raise ValueError(f"module: expected parameters named as in {type(exact).__name__}, found none")
    return found
