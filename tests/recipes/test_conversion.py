"""The conversion recipe: its rows of expected.csv, what it writes, and what it refuses before it trains."""

import json
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from recipe_cases import COMPARISONS, RECIPES, load_recipe, rows_of
from transformers import AutoModelForCausalLM

import tokenmix.hf  # noqa: F401  # registers the classes of converted models

FOLDER = RECIPES / "conversion"


@pytest.fixture(scope="module")
def conversion() -> ModuleType:
    return load_recipe(FOLDER / "convert.py")


@pytest.mark.parametrize("row", rows_of("conversion"))
def test_expected(conversion: ModuleType, runs: dict[Any, Path], tmp_path: Path, row: dict[str, str]) -> None:
    """A row's value is compared with the last stage's share of the gap that was closed."""
    command = (row["config"], row["overrides"])
    if command not in runs:
        config = FOLDER / "configs" / f"{row['config']}.yaml"
        conversion.main(["--config", str(config), *shlex.split(row["overrides"]), "--output", str(tmp_path)])
        runs[command] = tmp_path
    report = json.loads((runs[command] / "metrics.json").read_text())[row["stack"]]
    (last,) = [point for point in report["points"] if point["name"] == "finetune"]
    assert COMPARISONS[row["comparison"]](last[row["metric"]], float(row["value"])), last[row["metric"]]


TINY = """
conversions: {hybrid: {"0": {mixer: mamba2}}}
from_random: [hybrid]
data: {context: 32, test_bytes: 600}
model: {hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 24}
teacher: {steps: 3, batch_size: 2, warmup_steps: 1, save_steps: 3}
conversion:
  hidden: {steps: 2, batch_size: 2, context: 32, warmup_steps: 1, save_steps: 2}
  logits: {steps: 2, batch_size: 2, context: 32, warmup_steps: 1, save_steps: 2}
  finetune: {steps: 2, batch_size: 2, context: 32, warmup_steps: 1, save_steps: 2}
  eval_context: 32
  eval_overlap: 8
  state_context: 20
  decode_tokens: 2
  decode_repeats: 1
"""


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "numbers.txt").write_text("".join(f"{i}\n" for i in range(2500)))
    files = ["--data.files", str(tmp_path / "numbers.txt")]
    return ["--config", str(tmp_path / "tiny.yaml"), *files, "--output", str(tmp_path / "run")]


def test_what_is_written(conversion: ModuleType, tiny: list[str], tmp_path: Path, capsys: Any) -> None:
    conversion.main(tiny)
    printed = capsys.readouterr().out
    for text in ("6-gram", "original", "fine-tuned alike", "hybrid, random start"):
        assert text in " ".join(printed.split())
    run = tmp_path / "run"
    found = json.loads((run / "metrics.json").read_text())
    assert set(found) == {"hybrid", "hybrid, random start"}
    assert found["hybrid"]["carried"] == {"0": ["q", "k", "v", "o"]}
    assert found["hybrid, random start"]["carried"] == {"0": []}
    assert (run / "conversion.png").stat().st_size > 10_000
    model = AutoModelForCausalLM.from_pretrained(run / "hybrid" / "model")
    assert model(torch.tensor([[52, 53]])).logits.isfinite().all()
    before = (run / "metrics.json").read_bytes()
    conversion.main(tiny)  # finished: read, not run again
    assert (run / "metrics.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--conversions", "{bad: {'5': {mixer: gam}}}", "--from_random", "[]"],
            "expected layers from 0 to 1, found '5'",
        ),
        (["--from_random", "[other]"], r"from_random: expected names among \['hybrid'\], found \['other'\]"),
        (["--conversion.hidden.steps", "-1"], "hidden.steps: expected 0 or more, found -1"),
    ],
)
def test_mistakes_come_first(
    conversion: ModuleType, tiny: list[str], tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        conversion.main([*tiny, *options])
    assert not (tmp_path / "run").exists()
