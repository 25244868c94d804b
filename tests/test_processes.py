"""Work in several processes: results, errors, and no orphans."""

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from fork_server import ForkServer, read_pipe
from tokenmix.processes import in_processes


def test_processes_give_what_one_process_gives():
    jobs = [(2, 3), (3, 2), (5, 1)]
    assert in_processes(pow, jobs, workers=1) == in_processes(pow, jobs, workers=2) == [8, 9, 5]
    assert in_processes(pow, [], workers=2) == []
    with pytest.raises(ValueError, match="workers: expected at least 1, found 0"):
        in_processes(pow, jobs, workers=0)


def long_or_wrong(folder: Path, name: str) -> None:
    """The second job fails once the first has begun, which would take two minutes."""
    if name == "wrong":
        while not (folder / "begun").exists():
            time.sleep(0.01)
        raise ValueError("wrong is wrong")
    (folder / "begun").touch()
    time.sleep(120)
    (folder / "ended").touch()


def test_an_error_in_a_process_is_raised_and_does_not_wait_for_the_jobs_before_it(tmp_path: Path):
    with pytest.raises(ValueError, match="wrong is wrong"):
        in_processes(long_or_wrong, [(tmp_path, "long"), (tmp_path, "wrong")], workers=2)
    for process in multiprocessing.active_children():  # another thread may be joining them: their ends alone tell
        assert wait([process.sentinel], timeout=60)
    assert (tmp_path / "begun").exists()
    assert not (tmp_path / "ended").exists()


ENDLESS = """
import os, signal, sys
from tokenmix.processes import in_processes
def work(name):
    os.write(1, b"begun ")
    while True:
        signal.pause()
if __name__ == "__main__":
    in_processes(work, [("a",), ("b",)], workers=2)
"""


def test_workers_end_with_a_parent_that_is_killed(processes: ForkServer, tmp_path: Path):
    """A pipe that all of them hold is at its end once the last of them has ended."""
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    ours, theirs = os.pipe()
    parent = processes.start([str(script)], stdout=theirs)
    os.close(theirs)
    printed = b""
    while printed.count(b"begun") < 2:
        printed += (part := read_pipe(ours))
        assert part, "they ended by themselves"
    parent.kill()
    assert parent.wait() == -signal.SIGKILL
    assert read_pipe(ours) == b""
    os.close(ours)
