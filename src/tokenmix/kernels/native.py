"""The kernels of native.c, called on tensors: plain functions without autograd.

All tensors are float32 on the CPU, and contiguous in their last axis; the mirrors of the structs of arguments.h are
checked against the library when it is loaded.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64


def _mirror(name: str, fields: str) -> type[ctypes.Structure]:
    """A ctypes struct: names with a * are pointers, with a . floats, others int64."""
    kinds = {"*": _POINTER, ".": ctypes.c_float}
    pairs = [(field.lstrip("*."), kinds.get(field[0], _NUMBER)) for field in fields.split()]
    return type(name, (ctypes.Structure,), {"_fields_": pairs})


Scan: Any = _mirror(
    "Scan",
    "*x *dt *A *B *C *D *z *dt_bias *state *mask *starts *y *last *entries rows length channels states chunk "
    "x_row x_time dt_row dt_time B_row B_time C_row C_time z_row z_time softplus threads",
)
ScanGrads: Any = _mirror("ScanGrads", "*y *last *x *dt *z *A *B *C *D *dt_bias *state")
Conv: Any = _mirror("Conv", "*x *weight *bias *state *starts *y rows length channels taps x_row x_time silu threads")
ConvGrads: Any = _mirror("ConvGrads", "*y *x *weight *bias *state")
Ssd: Any = _mirror(
    "Ssd",
    "*v *k *q *log_decay *scale *skip *state *mask *starts *y *last *entries rows length heads groups values keys "
    "v_row v_time v_head k_row k_time k_head q_row q_time q_head threads",
)
SsdGrads: Any = _mirror("SsdGrads", "*y *last *v *log_decay *scale *skip *k *q *state")
Window: Any = _mirror(
    "Window",
    "*q *k *v *y *sums rows heads kv_heads length width window causal "
    "q_row q_head q_time k_row k_head k_time v_row v_head v_time y_row y_head y_time "
    "sums_row sums_head sums_time .scale threads",
)
WindowGrads: Any = _mirror(
    "WindowGrads",
    "*y *q *k *v y_row y_head y_time q_row q_head q_time k_row k_head k_time v_row v_head v_time",
)
Cache: Any = _mirror(
    "Cache",
    "*q *k *v *low *high *y rows heads kv_heads keys width q_row q_head k_row k_head k_time v_row v_head v_time "
    ".scale threads",
)
Nearest: Any = _mirror("Nearest", "*coords *mask *query *index rows length queries dims count skip_self threads")
Farthest: Any = _mirror("Farthest", "*coords *mask *start *index rows length dims count threads")
TwoHop: Any = _mirror("TwoHop", "*indptr *indices *nodes *out num_nodes count size seed wide threads")
FanOut: Any = _mirror("FanOut", "*indptr *indices *nodes *offsets *out num_nodes count seed hop replace wide threads")
Aggregate: Any = _mirror(
    "Aggregate", "*indptr *indices *x *left *right *y num_nodes start stop features x_row y_row wide threads"
)
STRUCTS = (
    Scan,
    ScanGrads,
    Conv,
    ConvGrads,
    Ssd,
    SsdGrads,
    Window,
    WindowGrads,
    Cache,
    Nearest,
    Farthest,
    TwoHop,
    FanOut,
    Aggregate,
)
_ALONE = 1 << 15  # steps of arithmetic below which one thread is fastest


def declare(library: ctypes.CDLL) -> None:
    """Give the functions of a library their types.

    Raises:
        OSError: a library whose structs are not those of this file.
    """
    library.tm_hash.restype = ctypes.c_char_p
    library.tm_sizeof.restype = _NUMBER
    for index, struct in enumerate(STRUCTS):
        if library.tm_sizeof(index) != ctypes.sizeof(struct):
            raise OSError(f"{struct.__name__}: the library has another size of it")


def address(tensor: Tensor | None) -> int | None:
    """Where the numbers of a tensor begin."""
    return None if tensor is None else tensor.data_ptr()


def rows(tensor: Tensor) -> Tensor:
    """The tensor, copied if its last axis is not contiguous or overlaps itself."""
    ready = tensor.stride(-1) == 1 and all(tensor.stride()[:-1])
    return tensor if ready else tensor.contiguous()


def threads(work: int) -> int:
    """How many threads a call uses."""
    return 1 if work < _ALONE else torch.get_num_threads()


def run(function: Any, *structs: Any) -> None:
    """Call a kernel.

    Raises:
        MemoryError: no memory for its scratch.
    """
    if function(*map(ctypes.byref, structs)):
        raise MemoryError(f"{function.__name__}: no memory for the scratch of a kernel")


def holding(struct: Any, *tensors: Tensor | None) -> Any:
    """The struct, with which the tensors live that it points into."""
    struct.tensors = tensors
    return struct
