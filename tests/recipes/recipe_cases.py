"""Paths, a tiny config and readers that the tests of the recipe share."""

import csv
import importlib.util
import json
import operator
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"
TRAIN = RECIPES / "language_modeling" / "train.py"
CONFIGS = sorted((RECIPES / "language_modeling" / "configs").glob("*.yaml"))
with (RECIPES / "expected.csv").open(newline="") as file:
    EXPECTED = list(csv.DictReader(file))
COMPARISONS = {"<": operator.lt, ">": operator.gt, "==": operator.eq}

TINY = """
mixers:
  a: {mixer: attention, heads: 2}
  l: {mixer: ls_attention, heads: 2, long_heads: 1, window: 8, monitor: true}
  m: {mixer: mamba2, state_size: 4, head_dim: 8}
stacks: {hybrid: ma, attention: a}
data: {context: 32}
model: {hidden_size: 16, num_hidden_layers: 2, dropout: 0.1}
training: {steps: 4, batch_size: 4, warmup_steps: 2, log_steps: 2, save_steps: 50}
prompt: "4"
"""


def load_recipe(path: Path) -> ModuleType:
    """A recipe's script as a module."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def losses(folder: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in metrics(folder)["history"] if "loss" in line}


def rows_of(recipe: str) -> list[Any]:
    """Rows of expected.csv, as parameters of a test."""
    rows = [row for row in EXPECTED if row["recipe"] == recipe]
    return [pytest.param(r, marks=[pytest.mark.slow] if r["speed"] == "slow" else [], id=r["what"]) for r in rows]
