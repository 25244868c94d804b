"""Each planted fault is noticed by the test that docs/hf_suite.md names, and without a fault these tests pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from faults import FAULTS

HERE = Path(__file__).parent
# the test that must notice it; those of transformers are told from ours by their place in docs/hf_suite.md
NOTICED_BY = {
    "ignored mask": "test_generate_left_padded",
    "stale state": "test_generate_greedy",
    "lost convolution state": "test_forward_in_pieces",
    "no reorder": "test_generate_beams",
    "untied weights": "test_tied_weights_keys",
    "no initialisation": "test_can_init_all_missing_weights",
    "look-ahead": "test_generate_without_cache",
}


def run(test: str, fault: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TOKENMIX_FAULT": fault}
    node = f"{HERE / 'test_theirs.py'}::HybridTest::{test}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", node]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_noticed(fault: str) -> None:
    found = run(NOTICED_BY[fault], fault)
    assert found.returncode == 1, found.stdout
    assert re.search(rf"FAILED .*::{NOTICED_BY[fault]}\b", found.stdout), found.stdout


@pytest.mark.parametrize("test", sorted(set(NOTICED_BY.values())))
def test_no_fault_no_failure(test: str) -> None:
    found = run(test, "")
    assert found.returncode == 0, found.stdout
    assert "1 passed" in found.stdout


def test_the_table_of_faults_is_this_one() -> None:
    text = (HERE.parents[1] / "docs" / "hf_suite.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z -]+) \| `(test_\w+)` \|", text, flags=re.MULTILINE)
    assert dict(rows) == NOTICED_BY
