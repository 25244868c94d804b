"""python -m benchmarks: run the comparisons, print the table, write JSON and plots."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.catalogue import ROWS, at_lengths, select
from benchmarks.measure import CLOCKS, Setting, alternate, paired, peak_of
from benchmarks.report import SCHEMA, console_table, machine, merged, plot, verdict
from benchmarks.rows import Row

PACKAGES = {"local_attention": "local-attention"}


def run_row(row: Row, rounds: int, clock: Callable[[], float], setting: Setting, curves: bool) -> dict[str, Any]:
    """Measure a row, unless a package is missing or a side computes something wrong."""
    result: dict[str, Any] = {
        key: getattr(row, key) for key in ("name", "what", "peer", "length", "target", "stretch", "memory")
    }
    if missing := row.missing():
        names = " ".join(PACKAGES.get(name, name) for name in missing)
        return result | {"skipped": f"pip install {names}"}
    pair = row.build(row.length)
    result["errors"], result["notes"] = pair.errors(), pair.notes
    limits = {name: pair.limit * (10 if name.startswith("theirs") else 1) for name in result["errors"]}
    wrong = {name: error for name, error in result["errors"].items() if not error <= limits[name]}
    if wrong:
        return result | {"failed": f"wrong: {', '.join(f'{name} {error:.1e}' for name, error in wrong.items())}"}
    if row.memory:
        del pair
        ours, theirs = (peak_of(row, side, row.length, setting) for side in ("ours", "theirs"))
        result |= {"ours": ours, "theirs": theirs, "ratio": theirs / max(ours, 1)}
    else:
        ours_times, their_times = alternate(pair, min(rounds, row.rounds), clock)
        ratio = asdict(paired([seconds / pair.work for seconds in ours_times], their_times))
        result |= {"ratio": ratio.pop("median"), **ratio}
        if row.flops is not None:
            result["GFLOP/s"] = row.flops(row.length) / ratio["ours"] / 1e9
    if curves and row.lengths:
        result["curve"] = {length: _point(row, length, clock, setting) for length in row.lengths}
    return result


def _point(row: Row, length: int, clock: Callable[[], float], setting: Setting) -> dict[str, float]:
    if row.memory:
        return {side: peak_of(row, side, length, setting) for side in ("ours", "theirs")}
    ratio = paired(*alternate(row.build(length), 3, clock))
    return {"ours": ratio.ours, "theirs": ratio.theirs}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", help="run rows whose names begin so, such as scan or window/train; default all"
    )
    parser.add_argument("--rounds", type=int, default=9, help="alternating runs of a row at most (default 9)")
    parser.add_argument(
        "--lengths", type=int, nargs="+", help="run every chosen row at these lengths, without targets and curves"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of torch and the kernels (default 1)")
    parser.add_argument(
        "--metric", choices=sorted(CLOCKS), default="cpu", help="process CPU time (default) or wall time"
    )
    parser.add_argument("--malloc", choices=("default", "tuned"), default="default", help="tuned: keep freed memory")
    parser.add_argument(
        "--no-curves", action="store_true", help="leave out the runs over many lengths that are plotted"
    )
    parser.add_argument("--quick", action="store_true", help="3 rounds, no curves")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks"), help="folder of results.json and curves.png"
    )
    parser.add_argument("--into", type=Path, help="put the rows in the place of those of this results.json, too")
    parser.add_argument("--gate", action="store_true", help="fail if a row misses 70 %% of its target")
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    options = parser.parse_args(arguments)
    for name, values in (("rounds", [options.rounds]), ("threads", [options.threads]), ("lengths", options.lengths)):
        if values is not None and min(values) < 1:
            parser.error(f"--{name}: expected at least 1, found {min(values)}")
    try:
        select(options.names)
    except ValueError as error:
        parser.error(str(error))
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run it; 1 if the gate is missed, or something is wrong."""
    options = parse(arguments)
    if options.list:
        for row in ROWS:
            print(f"{row.name:28} L {row.length:<6} {row.what} | {row.peer}")
        return 0
    rounds, curves = (3, False) if options.quick else (options.rounds, not options.no_curves)
    setting = Setting(options.threads, options.malloc)
    setting.apply()
    console = Console(stderr=True)
    report: dict[str, Any] = {"schema": SCHEMA, "machine": machine(options.threads, options.metric, options.malloc)}
    report["results"] = []
    options.out.mkdir(parents=True, exist_ok=True)
    for row in at_lengths(select(options.names), options.lengths):
        result = run_row(row, rounds, CLOCKS[options.metric], setting, curves)
        report["results"].append(result)
        found = f"{result['ratio']:.2f} x" if "ratio" in result else ""
        console.print(f"{row.name} L {row.length} against {row.peer}: {found} {verdict(result)}", highlight=False)
        (options.out / "results.json").write_text(json.dumps(report, indent=1) + "\n")  # kept if the run is stopped
    if curves:
        plot(report, options.out / "curves.png")
    Console(width=170).print(console_table(report))
    print(f"written: {options.out / 'results.json'}")
    if options.into is not None:
        order = [(row.name, row.peer, row.length) for row in ROWS]
        into = merged(json.loads(options.into.read_text()), report, order)
        options.into.write_text(json.dumps(into, indent=1) + "\n")
        print(f"written: {options.into}")
    failed = any("failed" in result for result in report["results"])
    short = [r for r in report["results"] if r["target"] and "ratio" in r and r["ratio"] < 0.7 * r["target"]]
    return 1 if failed or (options.gate and short) else 0


if __name__ == "__main__":
    sys.exit(main())
