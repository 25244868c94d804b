"""Memory that a call takes, counted by torch's allocators rather than read off the process, and memory that is free."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

_GROUPS = (  # folder, limit, used and reclaimable of the process group: cgroups 2 and 1
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def peak_bytes(call: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Most bytes held at once during a call, beyond those held at its start.

        peak = max over t of the sum over events s <= t of bytes_s   (freed ones are negative)

    On the CPU the events are those that torch.profiler records of torch's allocator, in their order, so the number is
    exact and the same at every call. It counts tensors, the returned ones and those that operators make inside. It does
    not count scratch that a native kernel or a library of matrix products takes from the system by itself, which is a
    few blocks a thread, nor the profiler. On CUDA it is `torch.cuda.max_memory_allocated`.

    The profiler's messages on stderr are silenced by setting KINETO_LOG_LEVEL, unless it is set already.

    Args:
        call: what to run, once.
        device: where its tensors live.

    Returns:
        Bytes, at least 0.

    Example:
        >>> def three_then_two() -> torch.Tensor:
        ...     first, second = torch.empty(100), torch.empty(50)
        ...     del first
        ...     return torch.cat([second, torch.empty(20)])
        >>> peak_bytes(three_then_two) == 4 * (100 + 50)
        True
    """
    collects = gc.isenabled()
    gc.disable()  # what was left over before must not be freed during the call
    try:
        return _peak_on_cuda(call, device) if torch.device(device).type == "cuda" else _peak_on_cpu(call)
    finally:
        if collects:
            gc.enable()


def _peak_on_cpu(call: Callable[[], object]) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    profiler = recorded.profiler
    if profiler is None or profiler.kineto_results is None:
        raise RuntimeError("torch.profiler: expected records of the call, found none")
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):  # stable, so equal times keep their order
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _peak_on_cuda(call: Callable[[], object], device: torch.device | str) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return max(torch.cuda.max_memory_allocated(device) - before, 0)


def free_bytes(device: torch.device | str = "cpu") -> int | None:
    """Bytes that can still be taken: of the GPU, or of the machine and the process group; None where nobody says.

    Example:
        >>> found = free_bytes()
        >>> found is None or found > 0
        True
    """
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = []
    try:
        lines = _read("/proc/meminfo").splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        pass
    for folder, limit, used, reclaimable in _GROUPS:
        try:
            most, taken, told = (_read(f"{folder}/{name}") for name in (limit, used, "memory.stat"))
            files = next(int(line.split()[1]) for line in told.splitlines() if line.split()[0] == reclaimable)
            found.append(int(most) - int(taken) + files)
        except (OSError, ValueError, StopIteration):  # not there, or "max"
            continue
    return max(min(found), 0) if found else None


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")
