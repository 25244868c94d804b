"""Transformers' own tests, from its source distribution on PyPI, at the version that is installed.

Nothing of theirs is kept in git: the files lie in .venv/hf-suite, and this fetches them when they are not there.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
STORE = ROOT / ".venv" / "hf-suite"

# The distribution has the files directly in tests/, and none of the folders. What the files import from the folders is
# stood in for by names without tests, so that the mixins of the files can be imported.
STAND_INS = {
    "__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/__init__.py": "",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}


def fetch() -> list[Path]:
    """Folders to put on sys.path: one with their package `tests`, one with the package that it needs beyond ours.

    Raises:
        subprocess.CalledProcessError: PyPI cannot be reached, or does not have the version.
    """
    name = f"transformers-{version('transformers')}"
    folder, extra = STORE / name, STORE / "site-packages"
    if not (extra / "parameterized").is_dir():
        _pip("install", "--target", str(extra), "--no-deps", "parameterized")
    if not (folder / "tests" / "test_modeling_common.py").is_file():
        STORE.mkdir(parents=True, exist_ok=True)
        source = ["--no-binary", ":all:", "--no-build-isolation", "--no-deps", name.replace("-", "==")]
        _pip("download", "--dest", str(STORE), *source)
        with tarfile.open(STORE / f"{name}.tar.gz") as archive:
            wanted = [member for member in archive if member.name.startswith(f"{name}/tests/")]
            archive.extractall(STORE, members=wanted, filter="data")
    for relative, text in STAND_INS.items():
        path = folder / "tests" / relative
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    return [folder, extra]


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments], check=True)


if __name__ == "__main__":
    print(*fetch(), sep="\n")
