"""The recipe as a module, and a tiny run of it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from recipe_cases import TINY, TRAIN


@pytest.fixture(scope="session")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("language_modeling_train", TRAIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Arguments that train two tiny stacks on the numbers up to 1,500, for a few steps, into `run`."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "numbers.txt").write_text("".join(f"{i}\n" for i in range(1500)))
    files = ["--data.files", str(tmp_path / "numbers.txt")]
    return ["--config", str(tmp_path / "tiny.yaml"), *files, "--output", str(tmp_path / "run")]
