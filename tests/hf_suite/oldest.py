"""`make test-oldest`: the tests of models, caches and swapped models with the oldest transformers that we allow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib

from fetch import ROOT, STORE


def oldest() -> str:
    """The version that pyproject.toml begins with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (found,) = [match[1] for text in project["dependencies"] if (match := re.match(r"transformers>=([\d.]+)", text))]
    return found if found.count(".") == 2 else f"{found}.0"


def main() -> int:
    """Exit status of pytest."""
    version = oldest()
    folder = STORE / f"oldest-{version}"
    if not (folder / "transformers" / "__init__.py").is_file():
        pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install", "--no-deps"]
        subprocess.run([*pip, "--target", str(folder), f"transformers=={version}"], check=True)
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    check = f"import transformers; assert transformers.__version__ == {version!r}, transformers.__version__"
    subprocess.run([sys.executable, "-c", check], env=environment, check=True)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "tests/models", "tests/hf"]
    return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
