"""The recipe as a module, a tiny run of it, and folders that rows of expected.csv share."""

from pathlib import Path
from types import ModuleType

import pytest
from recipe_cases import TINY, TRAIN, load_recipe


@pytest.fixture(scope="session")
def recipe() -> ModuleType:
    return load_recipe(TRAIN)


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Arguments that train two tiny stacks on the numbers up to 1,500, for a few steps, into `run`."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "numbers.txt").write_text("".join(f"{i}\n" for i in range(1500)))
    files = ["--data.files", str(tmp_path / "numbers.txt")]
    return ["--config", str(tmp_path / "tiny.yaml"), *files, "--output", str(tmp_path / "run")]


@pytest.fixture(scope="module")
def runs() -> dict[tuple[str, str], Path]:
    """Folders of runs by config and overrides: rows with the same command share one."""
    return {}
