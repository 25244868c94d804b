"""The command `tokenmix`: exit status, tables, JSON, and what it says about mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tokenmix
from fork_server import ForkServer
from tokenmix.cli import main

MIXERS = '''
import torch
from tokenmix import TokenMixer, register_mixer


class Own(TokenMixer):
    """Twice the token."""

    cost, ordered = "L", False

    def __init__(self, dim, factor=2.0):
        super().__init__(dim)
        self.factor = factor

    def mix(self, x, layout, state):
        return self.factor * x


class Leaky(TokenMixer):
    causal, cost = "always", "L"

    def mix(self, x, layout, state):
        return x + x.roll(-1, 1)


NUMBER = 3
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own_mixers.py"
    path.write_text(MIXERS)
    return path


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tokenmix {tokenmix.__version__}\n"


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "check" in capsys.readouterr().out


def test_check_a_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["check", f"{file}:Own", "--options", '{"factor": 3}', "--dim", "8", "--law", "1", "--law", "cost"]) == 0
    )
    printed = capsys.readouterr().out
    assert "Own" in printed
    assert "passed" in printed
    assert "9 cost" in printed
    assert "2 padding" not in printed


def test_check_a_module_in_the_working_directory(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(file.parent)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["check", "own_mixers:Own", "--dim", "8", "--law", "2"]) == 0
    assert "2 padding" in capsys.readouterr().out


def test_a_broken_law_exits_with_1(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{file}:Leaky", "--dim", "8", "--law", "4"]) == 1
    printed = capsys.readouterr().out
    assert "broken" in printed
    assert "law 4 (causality) is broken: output " in printed
    assert "expected at most 1e-12" in printed


def test_check_a_registered_mixer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "sliding_window", "--options", '{"window": 4, "heads": 2}', "--law", "6"]) == 0
    assert "sliding_window" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["atention"], "unknown name 'atention'; did you mean 'attention'"),
        (["atention"], "a class of your own is MODULE:CLASS or file.py:CLASS"),
        (["no_such_module:Own"], "cannot import 'no_such_module': No module named 'no_such_module'"),
        (["no_such_file.py:Own"], "no file no_such_file.py (looked in "),
        (["{file}:Missing"], "has no 'Missing'; its mixers: Own, Leaky"),
        (["{file}:NUMBER"], "'NUMBER', which is no TokenMixer subclass; its mixers: Own, Leaky"),
        (["{file}:Own", "--dim", "0"], "dim: expected a positive integer, found 0"),
        (["{file}:Own", "--options", '{"facto": 1}'], "unexpected keyword argument 'facto'"),
        (["{file}:Own", "--options", "{factor: 1}"], "--options: expected a JSON object, found '{factor: 1}'"),
        (["{file}:Own", "--options", "[1]"], "--options: expected a JSON object, found '[1]'"),
        (["{file}:Own", "--law", "11"], "--law: laws: unknown 11, known: 1 values, 2 padding"),
        (["sliding_window", "--options", '{"windw": 4}'], "windw: not an argument of mixer 'sliding_window'; did you"),
        (["{file}:Own", "--dim", "wide"], "argument --dim: invalid int value: 'wide'"),
    ],
)
def test_mistakes_exit_with_2(
    arguments: list[str], message: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *(argument.replace("{file}", str(file)) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_fails_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fails_at_import.py"
    path.write_text("1 / 0\n")
    assert main(["check", f"{path}:Own"]) == 2
    assert "fails_at_import.py: ZeroDivisionError: division by zero" in capsys.readouterr().err


def test_mixers_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mixers"]) == 0
    table = capsys.readouterr().out
    assert main(["mixers", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(tokenmix.list_mixers())
    assert all(row["name"] in table for row in rows)
    attention = next(row for row in rows if row["name"] == "attention")
    assert attention["state_size"] == 2 * 1024 * 256
    assert attention["causal"] == "optional"


def test_mixers_describes_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mixers", "sliding_window"]) == 0
    printed = capsys.readouterr().out
    assert "Beltagy" in printed
    assert "window" in printed
    assert main(["mixers", "sliding_window", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["arguments"]["dim"] == "required"
    assert described["arguments"]["window"] == "128"
    assert described["arguments"]["rope"] == "False"
    assert "groups" not in described["arguments"]
    assert main(["mixers", "slidingwindow"]) == 2
    assert "did you mean 'sliding_window'" in capsys.readouterr().err


def test_env(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    words = ["Python", "torch", "transformers", "GPU", "matplotlib", "causal-conv1d", "mamba-ssm"]
    for word in (*words, "operations on the CPU"):
        assert word in printed


def test_the_process_itself(processes: ForkServer, file: Path) -> None:
    done = processes.run(["-m", "tokenmix.cli", "check", f"{file}:Leaky", "--dim", "8", "--law", "4"])
    assert done.returncode == 1
    assert "law 4 (causality) is broken" in done.stdout
    code = "import sys, tokenmix.cli; tokenmix.cli.main(['mixers', '--json']); sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_the_readme_lists_all_mixers() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    assert [name for name in tokenmix.list_mixers() if f"│ {name} " not in readme] == []
