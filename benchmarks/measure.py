"""Measuring: alternating runs, paired ratios, and peak memory in processes of their own."""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.rows import Pair, Row

CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}


@dataclass(frozen=True)
class Ratio:
    """Theirs / ours in each round.

    Attributes:
        median, low, high: of the ratios of the rounds: the median, and the quartiles.
        ours, theirs: medians, in seconds.
        rounds: how many.
    """

    median: float
    low: float
    high: float
    ours: float
    theirs: float
    rounds: int


def alternate(pair: Pair, rounds: int, clock: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Seconds of ours and theirs in each of `rounds` rounds, one after the other, after a round that warms up."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for spent, call in zip(times, (pair.ours, pair.theirs), strict=True):
            began = clock()
            call()
            spent.append(clock() - began)
            if turn == 0:
                spent.clear()
    return times


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The median of the ratios of rounds, so that what slows both in a round falls out.

    Example:
        >>> paired([1.0, 2.0, 1.0], [3.0, 6.0, 5.0]).median
        3.0
    """
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    return Ratio(statistics.median(ratios), low, high, statistics.median(ours), statistics.median(theirs), len(ratios))


@dataclass(frozen=True)
class Setting:
    """What holds for the whole process, and for those that it starts.

    Attributes:
        threads: of torch and the kernels.
        malloc: "default" or "tuned".
    """

    threads: int = 1
    malloc: str = "default"

    def apply(self) -> None:
        """Set it."""
        import torch

        torch.set_num_threads(self.threads)
        if self.malloc == "tuned":
            tune_malloc()


def tune_malloc() -> None:
    """Keep freed memory in the process (glibc): large tensors need no new pages at each call.

    Raises:
        OSError: no glibc.
    """
    libc = ctypes.CDLL("libc.so.6")
    if not (libc.mallopt(-3, 1 << 30) and libc.mallopt(-1, 2**31 - 1)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        raise OSError("mallopt refused")


# ---------------------------------------------------------------------- memory


def peak_bytes(call: Callable[[], object]) -> int:
    """How far the resident memory of this process rises above its level before a call."""
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def peak_of(row: Row, side: str, length: int, setting: Setting) -> int:
    """Peak memory of one call of one side, in a fresh process, after a call with few tokens.

    Raises:
        RuntimeError: the process failed.
    """
    numbers = (str(length), str(setting.threads), setting.malloc)
    command = [sys.executable, "-m", "benchmarks.measure", row.name, row.peer, side, *numbers]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])}: {done.stderr[-800:]}")
    return int(json.loads(done.stdout.splitlines()[-1])["bytes"])


def main(name: str, peer: str, side: str, length: str, threads: str, malloc: str) -> None:
    """What `peak_of` starts."""
    from benchmarks.catalogue import find

    Setting(int(threads), malloc).apply()
    row = find(name, peer)
    getattr(row.build(64), side)()  # loads libraries, starts threads
    print(json.dumps({"bytes": peak_bytes(getattr(row.build(int(length)), side))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
