"""Processes that start in no time: forks of one that has imported what takes seconds, and nothing of tokenmix.

Run as a script this is the server; `ForkServer` starts it and asks it for processes. Each has a process id, an
environment, a folder, standard streams and an exit status of its own, can be killed, and ends as python ends; only what
it shares with the server is not taken apart, which would copy all of it first and take seconds.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

# what tokenmix and the recipes import of others
IMPORTS = ("torch._dynamo", "transformers.trainer", "transformers.models.auto.modeling_auto", "transformers.generation")
IMPORTS += ("accelerate", "jsonargparse", "matplotlib.pyplot", "scipy.optimize", "scipy.sparse")


class Process:
    """A process that was started: a part of subprocess.Popen's interface."""

    def __init__(self, status: IO[str]) -> None:
        self.returncode: int | None = None
        self._status = status
        self.pid = int(status.readline())

    def poll(self) -> int | None:
        """The exit status, minus the signal where one ended it, or None while it runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            return self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once it has ended."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class ForkServer:
    """Starts processes by their arguments, as after `python`: a script, -c code or -m module, and what follows."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, __file__, str(theirs.fileno()), *IMPORTS]
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}  # forks need a server without threads
        self._server = subprocess.Popen(command, pass_fds=[theirs.fileno()], env={**os.environ, **threads})
        theirs.close()

    def start(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: IO[Any] | int = subprocess.DEVNULL,
        stdout: IO[Any] | int = subprocess.DEVNULL,
        stderr: IO[Any] | int = subprocess.DEVNULL,
    ) -> Process:
        """A process that runs."""
        request = {"arguments": list(arguments), "env": dict(os.environ if env is None else env), "cwd": os.getcwd()}
        with open(os.devnull, "r+b") as nothing:
            streams = [nothing if stream == subprocess.DEVNULL else stream for stream in (stdin, stdout, stderr)]
            ours, theirs = os.pipe()
            numbers = [stream if isinstance(stream, int) else stream.fileno() for stream in streams]
            socket.send_fds(self._control, [json.dumps(request).encode()], [*numbers, theirs])
        os.close(theirs)
        return Process(os.fdopen(ours))

    def run(
        self, arguments: Sequence[str], *, env: Mapping[str, str] | None = None, timeout: float = 280
    ) -> subprocess.CompletedProcess[str]:
        """A process that has ended, with what it printed."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = self.start(arguments, env=env, stdout=out, stderr=err)
            try:
                process.wait(timeout)
            finally:
                process.kill()
            out.seek(0), err.seek(0)
            return subprocess.CompletedProcess(list(arguments), process.wait(), out.read(), err.read())

    def close(self) -> None:
        """End the server; processes that run go on."""
        self._control.close()
        self._server.wait()


def read_pipe(pipe: int, timeout: float = 120) -> bytes:
    """What a pipe holds once it holds something; nothing once the last process that could write has ended."""
    if not select.select([pipe], [], [], timeout)[0]:
        raise TimeoutError(f"neither output nor an end in {timeout} seconds")
    return os.read(pipe, 1 << 16)


def serve(control: socket.socket) -> dict[str, Any]:
    """Answer requests until there are no more; returns in each new process alone, with what it is asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the watchers
    while True:
        message, numbers, _, _ = socket.recv_fds(control, 1 << 20, 4)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            return begin(json.loads(message), numbers[:3], numbers[3])
        for number in numbers:
            os.close(number)


def begin(request: dict[str, Any], streams: list[int], status: int) -> dict[str, Any]:
    """Fork once more: the first process tells the number and the exit status of the second, in which this returns."""
    child = os.fork()
    for target, number in enumerate(streams):
        if child == 0:
            os.dup2(number, target)
        os.close(number)
    if child == 0:
        os.close(status)
        return request
    for target in range(3):
        os.close(target)
    os.write(status, b"%d\n" % child)
    os.write(status, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os._exit(0)


def become(request: dict[str, Any]) -> None:
    """Be what `python` would be with these arguments."""
    import torch

    tempfile.tempdir = None  # that of this environment
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    first, *rest = request["arguments"]
    if first == "-m":
        sys.path[0], sys.argv = os.getcwd(), rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.path[0], sys.argv = "", ["-c", *rest[1:]]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    else:
        sys.path[0], sys.argv = str(Path(first).parent), [first, *rest]
        runpy.run_path(first, run_name="__main__")


def live(request: dict[str, Any]) -> None:
    """Become what is asked for and end as it does: wait for threads, run what waits for the end, give the status."""
    status: Any = None
    try:
        become(request)
    except SystemExit as error:
        status = error.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        status = 1
    if not isinstance(status, int | None):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter calls at its end
    atexit._run_exitfuncs()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit((status or 0) & 0xFF)


if __name__ == "__main__":
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.collect(), gc.freeze()  # a collection in a fork would touch, and so copy, all of it
    live(serve(socket.socket(fileno=int(sys.argv[1]))))
