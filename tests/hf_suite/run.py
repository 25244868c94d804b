"""`make test-hf`: fetch transformers' tests, run them on our models, and compare what was skipped with the docs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fetch import ROOT, STORE, fetch
from skips import check_skips, read_results

HERE = Path(__file__).parent
OPTIONS = ["-q", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "filterwarnings=", "--disable-warnings"]


def main(arguments: list[str]) -> int:
    """Exit status: that of pytest, or 1 where the table of skips does not fit the run."""
    paths = [*map(str, fetch()), str(HERE)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "TOKENMIX_HF_SUITE": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }

    def pytest(*more: str) -> int:
        command = [sys.executable, "-m", "pytest", *OPTIONS, *more]
        return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode

    if arguments:
        return pytest(*arguments)
    report = STORE / "report.xml"
    report.unlink(missing_ok=True)
    status = pytest("-n", "2", f"--junitxml={report}", str(HERE / "test_theirs.py"))
    if not report.is_file():
        return status or 1
    classes, reasons = read_results(report)
    for name, outcomes in sorted(classes.items()):
        print(f"{name}: " + ", ".join(f"{outcomes[key]} {key}" for key in ("passed", "failed", "skipped")))
    mistakes = check_skips(reasons)
    print("\n".join(mistakes) or f"every skip has its reason in docs/hf_suite.md ({len(reasons)} reasons)")
    faults = pytest("-n", "2", str(HERE / "test_planted_faults.py"))
    return status or faults or int(bool(mistakes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
