"""transformers' own Mamba models on the scans of this library: one call, and one that undoes it."""

from __future__ import annotations

import importlib
import inspect
import types
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from tokenmix.hf.mamba_forward import KERNELS, ORIGINALS, Forward, mamba2_forward, mamba_forward
from tokenmix.mixer import TokenMixer

_FORWARDS: dict[tuple[str, str], Forward] = {
    ("mamba", "MambaMixer"): mamba_forward,
    ("falcon_mamba", "FalconMambaMixer"): mamba_forward,
    ("jamba", "JambaMambaMixer"): mamba_forward,
    ("mamba2", "Mamba2Mixer"): mamba2_forward,
    ("bamba", "BambaMixer"): mamba2_forward,
    ("falcon_h1", "FalconH1Mixer"): mamba2_forward,
    ("granitemoehybrid", "GraniteMoeHybridMambaLayer"): mamba2_forward,
    ("nemotron_h", "NemotronHMamba2Mixer"): mamba2_forward,
    ("zamba2", "Zamba2MambaMixer"): mamba2_forward,
}
_LEFT = {"ZambaMambaMixer": "it scans each head with projections of its own, which no function here does"}
_ARGUMENTS = {"self", "hidden_states", "attention_mask", "kwargs"}  # of transformers' forward, and one cache


@dataclass(frozen=True)
class MambaReport:
    """What `accelerate_mamba` did; as a context manager, it undoes just that at its end.

    Attributes:
        accelerated: classes, or layers of the model, that run on this library's scans now.
        left: classes or layers that do not, and why.
    """

    accelerated: tuple[str, ...]
    left: Mapping[str, str]
    _undo: tuple[Callable[[], object], ...] = field(default=(), repr=False)

    def __enter__(self) -> MambaReport:
        return self

    def __exit__(self, *_: object) -> None:
        for undo in self._undo:
            undo()


def accelerate_mamba(model: nn.Module | None = None) -> MambaReport:
    """Run transformers' Mamba layers on this library's scans, where they would run without kernels.

    Same parameters and cache; outputs and gradients equal to rounding (about 1e-6 in float32). What changes is the
    time, above all of Mamba-1's backward pass. `restore_mamba` undoes it. A second call changes nothing more.

    On a device other than the CPU the layers stay as they are if `mamba_ssm` or `kernels` is installed, and quantized
    layers stay as they are everywhere. Four things are done right that transformers (5.20 to 5.24) does not do without
    kernels: a Mamba-1 prompt read in chunks goes on with the state of the chunk before; left padding does not reach
    real tokens through the bias of the input projection (`use_bias=True`); `time_step_limit` of Mamba-2 holds for
    single tokens, too; packed documents (`seq_idx`) are kept apart, where transformers raises.

    Args:
        model: a model of which to change the layers; None changes the classes: all layers in this process, also of
            models that are made later.

    Returns:
        Which classes or layers now run on the scans, and which do not and why. Used in a `with` statement, it undoes
        at its end what this call changed.

    Raises:
        TypeError: `model` is no module. ValueError: it has no layer that could be changed.

    Example:
        >>> from transformers import MambaConfig, MambaForCausalLM
        >>> model = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2))
        >>> accelerate_mamba(model).accelerated
        ('backbone.layers.0.mixer', 'backbone.layers.1.mixer')
        >>> restore_mamba(model)
        ('backbone.layers.0.mixer', 'backbone.layers.1.mixer')
        >>> with accelerate_mamba() as report:
        ...     print("MambaMixer" in report.accelerated, list(report.left))
        True ['ZambaMambaMixer']
    """
    if model is None:
        return _accelerate_classes()
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a model, or None for all of them, found {type(model).__name__}")
    return _accelerate_layers(model)


def restore_mamba(model: nn.Module | None = None) -> tuple[str, ...]:
    """Undo `accelerate_mamba`: of the classes, or of a model that was given to it.

    Args:
        model: as it was given to `accelerate_mamba`.

    Returns:
        The classes or layers that were restored; none if there was nothing to undo.

    Raises:
        TypeError: `model` is no module.

    Example:
        >>> restore_mamba()
        ()
    """
    if model is None:
        return tuple(kind.__name__ for kind in list(ORIGINALS) if _restore_class(kind))
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a model, or None for all of them, found {type(model).__name__}")
    return tuple(name for name, module in model.named_modules() if _restore_layer(module))


def _accelerate_classes() -> MambaReport:
    accelerated, left, undo = [], dict(_LEFT), []
    for (folder, name), forward in _FORWARDS.items():
        kind = _class_of(folder, name)
        why = "this version of transformers has no such class" if kind is None else _foreign(kind)
        if kind is None or why:
            left[name] = why
            continue
        if kind not in ORIGINALS:
            ORIGINALS[kind] = kind.__dict__["forward"]
            kind.forward = forward
            undo.append(lambda kind=kind: _restore_class(kind))
        accelerated.append(name)
    if KERNELS:
        left["layers on other devices than the CPU"] = "mamba_ssm or kernels is installed, which are faster there"
    return MambaReport(tuple(accelerated), left, tuple(undo))


def _accelerate_layers(model: nn.Module) -> MambaReport:
    forwards = {_class_of(*place): forward for place, forward in _FORWARDS.items()}
    accelerated, left, undo = [], {}, []
    for name, module in model.named_modules():
        kind = next((base for base in type(module).__mro__ if base in forwards), None)
        if kind is None:
            if hasattr(module, "A_log") and hasattr(module, "conv1d") and not isinstance(module, TokenMixer):
                known = type(module).__name__
                left[name] = f"{known}: " + _LEFT.get(known, "no function here computes what it does")
            continue
        if _is_ours(module.__dict__.get("forward")):
            accelerated.append(name)
            continue
        why = _foreign(kind)
        if type(module).forward is not kind.forward:
            why = "its class has a forward of its own"
        elif "forward" in module.__dict__:
            why = "its forward is replaced already (by accelerate's hooks, say): call this before that is done"
        elif hasattr(getattr(module, "config", None), "_is_quantized"):
            why = "it is quantized"
        if why:
            left[name] = f"{type(module).__name__}: {why}"
            continue
        module.forward = types.MethodType(forwards[kind], module)
        undo.append(lambda module=module: _restore_layer(module))
        accelerated.append(name)
    if not accelerated:
        known = ", ".join(name for _, name in _FORWARDS)
        found = "; ".join(f"{name}: {why}" for name, why in left.items()) or "no layer with A_log and conv1d"
        raise ValueError(f"model: expected layers among {known}, found in {type(model).__name__}: {found}")
    if left:
        lines = "; ".join(f"{name} ({why})" for name, why in left.items())
        warnings.warn(f"accelerate_mamba left layers as they are: {lines}", stacklevel=3)
    return MambaReport(tuple(accelerated), left, tuple(undo))


def _class_of(folder: str, name: str) -> type[nn.Module] | None:
    try:
        module = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
    except ImportError:
        return None
    return getattr(module, name, None)


def _foreign(kind: type[nn.Module]) -> str:
    """Why the forward of a class is not the one that was read when this was written; empty if it is."""
    original = ORIGINALS.get(kind, kind.forward)
    found = set(inspect.signature(original).parameters)
    if found - _ARGUMENTS in ({"cache"}, {"cache_params"}) and found >= _ARGUMENTS:
        return ""
    return f"its forward takes {sorted(found)}, which this version of tokenmix does not know"


def _is_ours(forward: object) -> bool:
    return getattr(forward, "__func__", forward) in (mamba_forward, mamba2_forward)


def _restore_class(kind: type) -> bool:
    if not _is_ours(kind.__dict__["forward"]):
        warnings.warn(
            f"restore_mamba left {kind.__name__} as it is: its forward was replaced again after accelerate_mamba; "
            "undo that first",
            stacklevel=3,
        )
        return False
    kind.forward = ORIGINALS.pop(kind)  # type: ignore[attr-defined]  # a module
    return True


def _restore_layer(module: nn.Module) -> bool:
    if not _is_ours(module.__dict__.get("forward")):
        return False
    del module.forward
    return True
