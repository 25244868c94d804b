"""A comparison that many tests read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from compare_cases import QUIET, load, tiny

from tokenmix.compare.runner import run_comparison


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of an uninterrupted comparison, to be copied and not changed, and its results."""
    folder = tmp_path_factory.mktemp("whole")
    results = run_comparison(load(tiny(folder / "out"), folder), command="tokenmix compare x.yaml", console=QUIET)
    return folder / "out", results
