"""The tests' quick processes end as python's own do."""

import signal

import pytest

from fork_server import ForkServer


@pytest.mark.parametrize(
    ("code", "status", "printed", "said"),
    [
        ("print('done')", 0, "done", ""),
        ("import sys; sys.exit(3)", 3, "", ""),
        ("import sys; sys.exit('no such file')", 1, "", "no such file"),
        ("raise ValueError('wrong is wrong')", 1, "", "ValueError: wrong is wrong"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "", "KeyboardInterrupt"),
        ("import atexit; atexit.register(print, 'last'); print('first')", 0, "first\nlast", ""),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, "", ""),
        (
            "import threading; gate = threading.Event()\n"
            "threading.Thread(target=lambda: (gate.wait(), print('second'))).start()\n"
            "threading.Timer(0.01, gate.set).start(); print('first')",
            0,
            "first\nsecond",
            "",
        ),
    ],
)
def test_a_process_ends_as_python_does(processes: ForkServer, code: str, status: int, printed: str, said: str) -> None:
    found = processes.run(["-c", code])
    assert (found.returncode, found.stdout.strip()) == (status, printed)
    assert found.stderr.strip().endswith(said)
