"""transformers' Mamba models, as they are and on this library's scans, beside the library's own model of equal weights.

    OMP_NUM_THREADS=1 python benchmarks/accelerate_mamba.py

One thread, process CPU time, alternating runs, medians of the ratio to transformers' own time in the same round.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import Mamba2Config, Mamba2ForCausalLM, MambaConfig, MambaForCausalLM, PreTrainedModel

from tokenmix.hf import accelerate_mamba
from tokenmix.models import from_transformers

SIZES = {"vocab_size": 256, "hidden_size": 256, "num_hidden_layers": 2, "pad_token_id": 0}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "Mamba": lambda: MambaForCausalLM(MambaConfig(**SIZES)),
    "Mamba-2": lambda: Mamba2ForCausalLM(Mamba2Config(**SIZES, num_heads=8, head_dim=64, n_groups=1)),
}


def seconds(model: PreTrainedModel, ids: torch.Tensor, train: bool) -> float:
    """CPU time of one call."""
    began = time.process_time()
    if train:
        model(ids, labels=ids, use_cache=False).loss.backward()
    else:
        with torch.no_grad():
            model(ids, use_cache=False)
    return time.process_time() - began


def compare(name: str, length: int, train: bool, rounds: int) -> list[str]:
    """One row of the table."""
    torch.manual_seed(0)
    theirs = MODELS[name]()
    scanned = MODELS[name]()
    scanned.load_state_dict(theirs.state_dict())
    accelerate_mamba(scanned)
    models = {"theirs": theirs, "scanned": scanned, "ours": from_transformers(theirs)}
    ids = torch.randint(1, 256, (1, length))
    times: dict[str, list[float]] = {key: [] for key in models}
    for turn in range(rounds + 1):
        for key, model in models.items():
            spent = seconds(model, ids, train)
            if turn:  # the first warms up
                times[key].append(spent)
    cells = [name, str(length), "forward+backward" if train else "forward", f"{statistics.median(times['theirs']):.3f}"]
    for key in ("scanned", "ours"):
        ratios = sorted(a / b for a, b in zip(times["theirs"], times[key], strict=True))
        cells.append(f"{statistics.median(ratios):.1f} x ({ratios[0]:.1f} to {ratios[-1]:.1f})")
    return cells


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    caption = (
        f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, one thread; torch {torch.__version__}, "
        f"transformers {transformers.__version__}; times as fast as transformers, median of {arguments.rounds} (range)"
    )
    headings = ["model", "length", "what", "transformers (s)", "accelerate_mamba", "tokenmix's own model"]
    table = Table(*headings, caption=caption)
    for name in MODELS:
        for length in arguments.lengths:
            for train in (False, True):
                table.add_row(*compare(name, length, train, arguments.rounds))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
