"""Native CPU kernels: which path is in use, and why.

`TOKENMIX_KERNELS` chooses: "auto" (the kernels where they load, plain torch otherwise), "c" (the kernels, or an error
that says why not), "torch" (never the kernels). They are looked for at the first use: a library that was compiled at
install, then one compiled before on this machine from the same sources, then the system's C compiler.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from tokenmix.kernels import build, native

CHOICES = ("auto", "c", "torch")
LEVELS = ("the compiler's default vectors", "AVX2", "AVX-512")


@dataclass(frozen=True)
class Status:
    """What serves the operations on the CPU.

    Attributes:
        path: "c" or "torch".
        reason: why, in words.
        library: file of the kernels in use.
        vectors: which vectors the kernels use here.
        openmp: whether they use several threads.
    """

    path: str
    reason: str
    library: Path | None = None
    vectors: str = ""
    openmp: bool = False

    def __str__(self) -> str:
        if self.path == "torch":
            return f"plain torch: {self.reason}"
        threads = "OpenMP" if self.openmp else "one thread: the compiler has no OpenMP"
        return f"native kernels ({self.vectors}, {threads}): {self.reason}, {self.library}"


_lock = threading.Lock()
_loaded: tuple[ctypes.CDLL | None, Status] | None = None
_forced: ContextVar[str] = ContextVar("tokenmix_kernels", default="auto")
try:  # dispatch modes, and jit's tracing; both are private
    _WATCHERS: tuple[Callable[[], Any], ...] | None = (
        torch._C._len_torch_dispatch_stack,
        torch._C._get_tracing_state,
    )
except AttributeError:
    _WATCHERS = None


def status() -> Status:
    """Which path serves the operations on the CPU; compiles the kernels if that was not done before.

    Raises:
        ValueError: another value of TOKENMIX_KERNELS than auto, c and torch.
        RuntimeError: TOKENMIX_KERNELS=c, and the kernels do not load.

    Example:
        >>> status().path in ("c", "torch")
        True
    """
    return _load()[1]


def library() -> Any:
    """The loaded library, for `tokenmix.kernels.native`; only where `available()`."""
    return _load()[0]


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether the kernels are in use.

    Example:
        >>> with use("torch"):
        ...     available()
        False
    """
    return not unwanted() and _load()[0] is not None


def unwanted() -> bool:
    """Whether plain torch is asked for: inside `use("torch")`.

    Example:
        >>> unwanted()
        False
    """
    return _forced.get() == "torch"


def serves(*tensors: Tensor | None) -> bool:
    """Whether the kernels are in use for these tensors: all on the CPU, none in float64, and nothing transforms them.

    Transforms of torch.func and forward-mode derivatives are for plain torch.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    if not all(t.device.type == "cpu" and t.dtype != torch.float64 for t in given):
        return False
    return not transformed() and available()


def transformed() -> bool:
    """Whether derivatives are taken in ways that custom operators do not know: by torch.func, or forward-mode.

    Example:
        >>> transformed(), torch.func.grad(lambda x: x * transformed())(torch.ones(()))
        (False, tensor(1.))
    """
    return bool(torch._C._are_functorch_transforms_active()) or forward_ad._current_level >= 0


def wants_gradients(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for the gradient of one of the tensors.

    Example:
        >>> wants_gradients(torch.ones(1)), wants_gradients(None, torch.ones(1, requires_grad=True))
        (False, True)
    """
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def call(function: Callable[..., Any], operator: Callable[..., Any], *arguments: Any) -> Any:
    """The function that an operator of torch.library was made of, called as it is where that is allowed.

    Args:
        function: what calls a kernel.
        operator: the same, registered with torch.
        arguments: of either.
    """
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    return (function if direct(*tensors) else operator)(*arguments)


def direct(*tensors: Tensor) -> bool:
    """Whether a kernel may be called without torch's dispatcher, which costs more than a small kernel.

    That is so without gradients, for plain tensors, where nothing traces, transforms or watches the calls.

    Example:
        >>> direct(torch.ones(1)), direct(torch.ones(1, requires_grad=True))
        (False, False)
        >>> with torch.no_grad():
        ...     direct(torch.ones(1))
        True
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    for tensor in tensors:
        if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.is_neg():
            return False
    return _WATCHERS is not None and not transformed() and not any(watcher() for watcher in _WATCHERS)


@contextmanager
def use(path: str) -> Iterator[None]:
    """Within the block, use plain torch ("torch"), or the kernels where they load ("auto"); in this thread.

    What torch.compile has compiled keeps the path that was in use then. Windowed attention then runs on torch's own
    flash kernel.

    Raises:
        ValueError: another path.

    Example:
        >>> with use("torch"):
        ...     serves(torch.ones(1))
        False
    """
    if path not in ("auto", "torch"):
        raise ValueError(f"path: expected 'auto' or 'torch', found {path!r}")
    token = _forced.set(path)
    try:
        yield
    finally:
        _forced.reset(token)


def _load() -> tuple[ctypes.CDLL | None, Status]:
    global _loaded  # noqa: PLW0603  # one library a process
    if _loaded is None:
        with _lock:
            if _loaded is None:
                _loaded = _find()
    return _loaded


def _find() -> tuple[ctypes.CDLL | None, Status]:
    choice = os.environ.get("TOKENMIX_KERNELS", "auto").strip().lower() or "auto"
    if choice not in CHOICES:
        raise ValueError(f"TOKENMIX_KERNELS: expected one of {', '.join(CHOICES)}, found {choice!r}")
    if choice == "torch":
        return None, Status("torch", "TOKENMIX_KERNELS=torch")
    reasons = []
    ways = (
        ("compiled at install", _prebuilt),
        ("compiled on this machine", build.cached_library),
        ("compiled on this machine anew", partial(build.cached_library, anew=True)),
    )
    for reason, find in ways:
        try:
            path = find()
            found = open_library(path)
        except build.BuildError as error:
            reasons.append(str(error))
            if find is build.cached_library:
                break  # compiling anew would fail likewise
        except OSError as error:
            reasons.append(str(error))
        else:
            return found, Status("c", reason, path, LEVELS[found.tm_level()], bool(found.tm_openmp()))
    why = "; ".join(reasons)
    if choice == "c":
        raise RuntimeError(f"TOKENMIX_KERNELS: c asks for the native kernels, which do not load: {why}")
    return None, Status("torch", why)


def _prebuilt() -> Path:
    if not build.PREBUILT.exists():
        raise build.BuildError("none were compiled at install")
    return build.PREBUILT


def open_library(path: Path) -> ctypes.CDLL:
    """Load a library and prove that it works.

    Raises:
        OSError: it does not load, was made from other sources, or computes something wrong.
    """
    build.check_seal(path)
    found = ctypes.CDLL(str(path))
    try:
        native.declare(found)
        made_from = found.tm_hash().decode()
    except AttributeError as error:
        raise OSError(f"{path}: not a library of tokenmix ({error})") from error
    if made_from != build.source_hash():
        raise OSError(f"{path}: made from other sources ({made_from}) than those here ({build.source_hash()})")
    _probe(found, path)
    return found


def _probe(found: ctypes.CDLL, path: Path) -> None:
    """Two tokens of a channel: h_1 = 2 x 3 x 5 = 30, h_2 = 30 exp(-2) + 30, y_t = 4 h_t. No tensors, so no modes."""

    def numbers(*values: float) -> Any:
        return (ctypes.c_float * len(values))(*values)

    given = {"x": numbers(3, 3), "dt": numbers(2, 2), "A": numbers(-1), "B": numbers(5, 5), "C": numbers(4, 4)}
    y, last = numbers(0, 0), numbers(0)
    strides = {f"{name}_{axis}": size for name in ("x", "dt", "B", "C") for axis, size in (("row", 2), ("time", 1))}
    scan = native.Scan(rows=1, length=2, channels=1, states=1, chunk=2, threads=1, **strides)
    for name, array in {**given, "y": y, "last": last}.items():
        setattr(scan, name, ctypes.addressof(array))
    native.run(found.tm_scan_forward, scan)
    expected = [120.0, 120.0 * (1 + math.exp(-2))]
    if not all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(y, expected, strict=True)):
        raise OSError(f"{path}: the probe expected {expected}, found {list(y)}")
