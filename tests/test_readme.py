"""Every block of Python in README.md runs as printed, in the order of the page."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from tokenmix.data import byte_tokenizer
from tokenmix.models import MixerConfig, MixerForCausalLM

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
SECTION = "Plug a mixer into a Hugging Face model"


@pytest.fixture
def demo_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `make smoke` seems to have left its hybrid."""
    tokenizer: PreTrainedTokenizerBase = byte_tokenizer()
    config = MixerConfig(
        vocab_size=len(tokenizer), hidden_size=32, mixers={"m": {"mixer": "mamba2", "head_dim": 16}}, pattern="m"
    )
    folder = tmp_path / "runs" / "language_modeling" / "smoke" / "hybrid" / "model"
    MixerForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_is_something_to_run() -> None:
    assert len(BLOCKS) >= 4
    text = README.read_text(encoding="utf-8")
    section = text.split(f"## {SECTION}\n")[1].split("\n## ")[0]
    assert "```python" in section
    assert "swap_mixers(" in section


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_runs(number: int, demo_was_run: Path) -> None:
    torch.manual_seed(0)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(BLOCKS[number], f"README.md, block {number}", "exec"), {"__name__": "__main__"})
    for line in re.findall(r"print\(.*\)  # (.+)$", BLOCKS[number], flags=re.MULTILINE):
        assert line in printed.getvalue()
