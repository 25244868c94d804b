"""What was measured: JSON, a table for the console, Markdown for README, and plots."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from tokenmix import kernels

SCHEMA = 1
PEERS = ("torch", "transformers", "mambapy", "local-attention", "tokenmix")


def machine(threads: int, metric: str, malloc: str) -> dict[str, Any]:
    """What the numbers depend on."""
    model = platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        names = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ]
        model = names[0] if names else model
    return {
        "processor": model,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": threads,
        "metric": metric,
        "malloc": malloc,
        "kernels": kernels.status().path,
        "kernel vectors": kernels.status().vectors,
        "commit": _commit(),
        "versions": {name: _version(name) for name in PEERS},
        "GEMM GFLOP/s": round(gemm_rate(), 1),
    }


def gemm_rate(size: int = 1024, rounds: int = 9) -> float:
    """What torch's matrix product reaches here, in GFLOP/s of CPU time: a yardstick for the table's times."""
    from benchmarks.measure import CLOCKS

    a, best = torch.randn(size, size), float("inf")
    for _ in range(rounds):
        began = CLOCKS["cpu"]()
        a @ a
        best = min(best, CLOCKS["cpu"]() - began)
    return 2 * size**3 / best / 1e9


def _commit() -> str:
    """The commit of this checkout, with "+" where something tracked is changed; empty outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def verdict(result: dict[str, Any]) -> str:
    """What became of the target of a row."""
    if "ratio" not in result:
        return result.get("skipped") or result.get("failed") or "not run"
    if result["target"] is None:
        return ""
    if result["ratio"] < result["target"]:
        return "missed"
    return "stretch met" if result["stretch"] and result["ratio"] >= result["stretch"] else "met"


def amount(result: dict[str, Any], side: str) -> str:
    """Seconds in ms, or bytes in MB."""
    value = result[side]
    return f"{value / 1e6:.1f} MB" if result["memory"] else f"{value * 1e3:.3g} ms"


def cells(result: dict[str, Any]) -> list[str]:
    """A row of the tables."""
    target = "" if result["target"] is None else f"{result['target']:.3g} x"
    if result["target"] is not None and result["stretch"] is not None:
        target += f" ({result['stretch']:.3g} x)"
    if "ratio" in result:
        spread = "" if result["memory"] else f" ({result['low']:.3g} to {result['high']:.3g})"
        measured = [amount(result, "theirs"), amount(result, "ours"), f"{result['ratio']:.3g} x{spread}"]
    else:
        measured = ["", "", "-"]
    return [result["what"], str(result["length"]), result["peer"], *measured, target, verdict(result)]


HEADINGS = ("what", "L", "against", "theirs", "ours", "ratio (quartiles)", "target (stretch)", "")


def console_table(report: dict[str, Any]) -> Table:
    """For rich's console."""
    table = Table(*HEADINGS, caption=caption(report))
    for result in report["results"]:
        table.add_row(*cells(result))
    return table


def caption(report: dict[str, Any]) -> str:
    """What the numbers depend on, in a line."""
    m = report["machine"]
    versions = ", ".join(f"{name} {found}" for name, found in m["versions"].items() if found and name != "tokenmix")
    time = {"cpu": "process CPU time", "wall": "wall time"}[m["metric"]]
    return (
        f"{m['processor']} ({m['kernel vectors'] or m['vectors']}), {m['threads']} thread(s), {time}, malloc "
        f"{m['malloc']}, matrix products at {m['GEMM GFLOP/s']:.0f} GFLOP/s; {versions}. Ratios are theirs / ours, "
        "medians of alternating runs"
    )


def markdown(report: dict[str, Any]) -> str:
    """The table of README."""
    lines = ["| " + " | ".join(HEADINGS[:-1]) + " |", "|" + " --- |" * (len(HEADINGS) - 1)]
    for result in report["results"]:
        row = cells(result)
        if row[-1] == "missed":
            row[-2] += ", missed"
        lines.append("| " + " | ".join(row[:-1]) + " |")
    return "\n".join([*lines, "", caption(report) + ".", *remarks(report)])


def remarks(report: dict[str, Any]) -> list[str]:
    """Sentences on what is no ratio: rates beside that of matrix products, and how memory grows with L."""
    said = []
    for result in report["results"]:
        where = f"{result['what']}, L {result['length']}"
        if "GFLOP/s" in result:
            share = 100 * result["GFLOP/s"] / report["machine"]["GEMM GFLOP/s"]
            said.append(f"{where}: {result['GFLOP/s']:.0f} GFLOP/s, {share:.0f} % of the rate of matrix products.")
        if result["memory"] and result.get("curve"):
            said.append(f"{where}: {amount(result, 'ours')}, which grows as L to the power of {growth(result):.2f}.")
    if any(result["name"].startswith("block/") for result in report["results"]):
        said.append(HEADLINE)
        said += [trained(pair) for pair in report.get("trained pairs", [])]
    return said


HEADLINE = (
    "Block Transformer: the rows have equal parameters, and where a memory is named each model has as many sequences "
    "as it holds. The paper's headline of 10 to 20 times the throughput compares models of equal perplexity, of which "
    "the block model has about three times the parameters, each at its own best batch. Of models trained here on equal "
    "text (`recipes/language_modeling/configs/block_small.yaml`, `python -m benchmarks.trained_pair`):"
)


def trained(pair: dict[str, Any]) -> str:
    """A sentence on two trained models."""
    sides = [
        f"{side['name']} ({side['parameters'] / 1e6:.2f} M parameters, {side['bits_per_byte']:.3f} bits/byte, "
        f"{side['cache'] / 2**20:.2f} MiB a sequence) {side['tokens_per_second']:,.0f} tokens/s"
        for side in (pair["ours"], pair["theirs"])
    ]
    where = f"{pair['mib']} MiB of cache after {pair['context']} tokens"
    return f"{sides[0]}, {sides[1]}: {pair['ratio']:.1f} x, with {where}."


def merged(old: dict[str, Any], new: dict[str, Any], rows: list[tuple[str, str, int]]) -> dict[str, Any]:
    """A report with some of its rows measured anew, on the same machine under the same settings.

    Args:
        old, new: the reports.
        rows: name, peer and length of what it may hold, in order.

    Raises:
        ValueError: another machine, or other settings or versions.

    Example:
        >>> machine = {"threads": 1, "commit": "a", "GEMM GFLOP/s": 80.0}
        >>> old = {"machine": machine, "results": [{"name": "x", "peer": "p", "length": 1, "ratio": 2.0}]}
        >>> new = {"machine": machine | {"commit": "b"}, "results": [old["results"][0] | {"ratio": 3.0}]}
        >>> merged(old, new, [("x", "p", 1)])["results"]
        [{'name': 'x', 'peer': 'p', 'length': 1, 'ratio': 3.0, 'commit': 'b'}]
    """
    changing = ("commit", "GEMM GFLOP/s")
    before, after = ({k: v for k, v in report["machine"].items() if k not in changing} for report in (old, new))
    if before != after:
        raise ValueError(f"into: expected a report of the same machine and settings, {after}, found {before}")
    found = {(row["name"], row["peer"], row["length"]): row for row in old["results"]}
    for row in new["results"]:
        found[row["name"], row["peer"], row["length"]] = row | {"commit": new["machine"]["commit"]}
    return old | {"results": [found[key] for key in rows if key in found]}


def growth(result: dict[str, Any]) -> float:
    """The power of L with which our side of a curve grows between its two greatest lengths.

    Example:
        >>> growth({"curve": {"8": {"ours": 1}, "16": {"ours": 3}, "32": {"ours": 12}}})
        2.0
    """
    (low, less), (high, more) = sorted((int(length), point["ours"]) for length, point in result["curve"].items())[-2:]
    return math.log(more / less) / math.log(high / low)


def plot(report: dict[str, Any], path: Path) -> None:
    """Time or memory against L, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = [result for result in report["results"] if result.get("curve")]
    if not curves:
        return
    columns = min(3, len(curves))
    lines = -(-len(curves) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4.6 * columns, 3.6 * lines), squeeze=False)
    for axis in axes.flat[len(curves) :]:
        axis.remove()
    for axis, result in zip(axes.flat, curves, strict=False):
        scale, unit = (1e-6, "MB") if result["memory"] else (1e3, "ms")
        for side, label in (("theirs", result["peer"]), ("ours", "tokenmix")):
            points = [(length, point[side] * scale) for length, point in result["curve"].items() if side in point]
            axis.loglog([int(length) for length, _ in points], [y for _, y in points], marker="o", label=label)
        axis.set(title=result["what"], xlabel="L", ylabel=unit)
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
