"""Independent work in several processes, which end when their parent does."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from multiprocessing.connection import wait as wait_for_end
from typing import Any


def in_processes(work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], workers: int) -> list[Any]:
    """What `work(*job)` gives for each job, in their order.

    Args:
        work: a function of a module that a new process can import.
        jobs: its arguments, which can be pickled.
        workers: processes at a time, each with its share of the cores; with 1, or one job, this process does it all.

    Returns:
        The results. The first error of a job ends all others, and is raised.

    Example:
        >>> in_processes(pow, [(2, 3), (3, 2)], workers=1)
        [8, 9]
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, found {workers}")
    if workers == 1 or len(jobs) <= 1:
        return [work(*job) for job in jobs]
    context = multiprocessing.get_context("spawn")  # a forked torch may hang
    threads = max(1, cores() // min(workers, len(jobs)))
    with ProcessPoolExecutor(min(workers, len(jobs)), context, begin_worker, (threads,)) as pool:
        futures = [pool.submit(work, *job) for job in jobs]
        processes = list(pool._processes.values())  # of this pool alone
        try:
            ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in ended:
                future.result()  # raises the first error
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            raise


def begin_worker(threads: int) -> None:
    """Set up a worker: its share of the cores, and an end with its parent, also with one that is killed."""
    import torch

    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _end_with(sentinel: int) -> None:
    wait_for_end([sentinel])
    os._exit(1)
