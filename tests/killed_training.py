"""Training in a process of its own that SIGKILL ends: nothing is flushed, closed or finished."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from subprocess import CompletedProcess

from fork_server import ForkServer

CODE = """
import os, runpy, signal, sys
from transformers import Trainer
left, step = int(sys.argv[1]), Trainer.training_step
def step_or_die(self, *arguments, **options):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments, **options)
Trainer.training_step = step_or_die
sys.argv = sys.argv[2:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def kill_training(processes: ForkServer, forwards: int, arguments: Sequence[str]) -> CompletedProcess[str]:
    """Run a script that trains, up to the kill.

    Args:
        processes: starts the process.
        forwards: training steps of Hugging Face's Trainer, over all models that this process trains; the kill comes
            before the last of them.
        arguments: the script's path, and its arguments.

    Returns:
        What it had printed.
    """
    done = processes.run(["-c", CODE, str(forwards), *arguments])
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    return done
