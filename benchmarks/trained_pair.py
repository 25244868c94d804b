"""python -m benchmarks.trained_pair VANILLA BLOCK: tokens a second of two trained models, each at its own best batch.

The headline of the Block Transformer's paper compares models of equal perplexity, of which the block model has about
three times the parameters, each with as many rows as fit one memory. This does the same with two models that
`recipes/language_modeling` trained: folders with `model/` and `metrics.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

import tokenmix.models  # noqa: F401  # registers the Auto classes
from benchmarks.block_decoding import MIB, block_run, rows_within
from benchmarks.decoding import vanilla_run
from benchmarks.measure import Setting, alternate, paired
from benchmarks.rows import Pair
from tokenmix.models import BlockTransformerForCausalLM


def run_of(model: Any, context: int, rows: int, steps: int) -> Callable[[], object]:
    """`steps` new tokens of each row after a context."""
    make = block_run if isinstance(model, BlockTransformerForCausalLM) else vanilla_run
    return make(model, context, rows, steps, True)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser("python -m benchmarks.trained_pair", description=__doc__)
    parser.add_argument("vanilla", type=Path)
    parser.add_argument("block", type=Path)
    parser.add_argument("--context", type=int, default=1024, help="tokens read before (default 1024)")
    parser.add_argument("--mib", type=int, default=64, help="memory for the cache (default 64)")
    parser.add_argument("--steps", type=int, default=32, help="new tokens of each row (default 32)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--into", type=Path, help="say it in this results.json, too")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    Setting(options.threads).apply()
    found = []
    for folder in (options.block, options.vanilla):
        model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
        rows = rows_within(model, options.context, options.mib * MIB)
        if rows < 1:
            raise ValueError(
                f"mib: expected room for a row of {options.context} tokens of {folder}, found {options.mib}"
            )
        found.append((folder, model, rows, run_of(model, options.context, rows, options.steps)))
    (_, _, own, ours), (_, _, other, theirs) = found
    times = alternate(Pair(ours, theirs), options.rounds, time.process_time)
    work = own / other
    ratio = paired([seconds / work for seconds in times[0]], times[1])
    sides = [
        describe(folder, model, options.context, rows, rows * options.steps / seconds)
        for (folder, model, rows, _), seconds in zip(found, (ratio.ours * work, ratio.theirs), strict=True)
    ]
    title = f"{options.mib} MiB of cache, {options.context} tokens read before, {options.threads} thread(s)"
    table = Table("model", title=title)
    for heading in ("parameters", "bits/byte", "cache a row (MiB)", "rows", "tokens/s"):
        table.add_column(heading, justify="right")
    for side in sides:
        sizes = (
            f"{side['parameters']:,}",
            f"{side['bits_per_byte']:.3f}",
            f"{side['cache'] / MIB:.3f}",
            f"{side['rows']}",
        )
        table.add_row(side["name"], *sizes, f"{side['tokens_per_second']:,.0f}")
    Console(width=100).print(table)
    print(f"{ratio.median:.2f} x ({ratio.low:.2f} to {ratio.high:.2f})")
    if options.into is not None:
        report = json.loads(options.into.read_text())
        pair = {"mib": options.mib, "context": options.context, "ratio": ratio.median}
        pair |= {"low": ratio.low, "high": ratio.high, "ours": sides[0], "theirs": sides[1]}
        names = (sides[0]["name"], sides[1]["name"])
        kept = [p for p in report.get("trained pairs", []) if (p["ours"]["name"], p["theirs"]["name"]) != names]
        options.into.write_text(json.dumps(report | {"trained pairs": [*kept, pair]}, indent=1) + "\n")
        print(f"written: {options.into}")
    return 0


def describe(folder: Path, model: Any, context: int, rows: int, speed: float) -> dict[str, Any]:
    """What the report says of one model."""
    return {
        "name": folder.name,
        "parameters": model.num_parameters(),
        "bits_per_byte": json.loads((folder / "metrics.json").read_text())["metrics"]["bits_per_byte"],
        "cache": model.state_bytes(context),
        "rows": rows,
        "tokens_per_second": speed,
    }


if __name__ == "__main__":
    sys.exit(main())
