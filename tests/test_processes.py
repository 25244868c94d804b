"""Work in several processes: results, errors, and no orphans."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tokenmix.processes import in_processes


def test_processes_give_what_one_process_gives():
    jobs = [(2, 3), (3, 2), (5, 1)]
    assert in_processes(pow, jobs, workers=1) == in_processes(pow, jobs, workers=2) == [8, 9, 5]
    assert in_processes(pow, [], workers=2) == []
    with pytest.raises(ValueError, match="workers: expected at least 1, found 0"):
        in_processes(pow, jobs, workers=0)


def test_an_error_in_a_process_is_raised():
    with pytest.raises(ValueError, match=r"math domain error|expected a nonnegative"):
        in_processes(math.sqrt, [(1.0,), (-1.0,)], workers=2)


SLOW_FIRST = """
import sys, time
from pathlib import Path
from tokenmix.processes import in_processes
def work(folder, name):
    if name == "bad":
        while not (Path(folder) / "slow").exists():
            time.sleep(0.01)
        raise ValueError("bad is bad")
    (Path(folder) / name).write_text("")
    time.sleep(600)
if __name__ == "__main__":
    in_processes(work, [(sys.argv[1], "slow"), (sys.argv[1], "bad")], workers=2)
"""


def test_an_error_does_not_wait_for_the_jobs_before_it(tmp_path: Path):
    script = tmp_path / "slow_first.py"
    script.write_text(SLOW_FIRST)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert "ValueError: bad is bad" in done.stderr
    assert done.returncode == 1


ENDLESS = """
import sys, time, os
from pathlib import Path
from tokenmix.processes import in_processes
def work(folder, name):
    (Path(folder) / name).write_text(str(os.getpid()))
    while True:
        time.sleep(0.05)
if __name__ == "__main__":
    in_processes(work, [(sys.argv[1], "a"), (sys.argv[1], "b")], workers=2)
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path):
    script, pids = tmp_path / "endless.py", tmp_path / "pids"
    script.write_text(ENDLESS)
    pids.mkdir()
    with subprocess.Popen([sys.executable, str(script), str(pids)]) as process:
        deadline = time.monotonic() + 120
        while len([f for f in pids.iterdir() if f.read_text()]) < 2 and time.monotonic() < deadline:
            os.sched_yield()
        process.kill()
    workers = [int(f.read_text()) for f in pids.iterdir()]
    assert len(workers) == 2
    deadline = time.monotonic() + 60
    while any(map(runs, workers)) and time.monotonic() < deadline:
        os.sched_yield()
    assert not any(map(runs, workers))


def runs(pid: int) -> bool:
    """Whether a process is there and not only waiting for its parent to look at it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
