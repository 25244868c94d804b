"""Configurations: YAML and overrides into dataclasses, and mistakes that name the nearest key."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from tokenmix.training import parse_config


@dataclass
class Inner:
    steps: int = 10
    rate: float = 0.1
    schedule: Literal["cosine", "linear"] = "cosine"
    limit: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Outer:
    mixers: dict[str, dict[str, Any]]
    training: Inner = field(default_factory=Inner)
    output: str = "runs"


YAML = """
mixers:
  a: {mixer: attention, heads: 4, rope: true}
  m: {mixer: mamba2, options: {chunk: 8, size: 2}}
training: {steps: 20, limit: 5}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(YAML)
    return str(path)


def parse(file: str, *overrides: str) -> Outer:
    return parse_config(Outer, ["--config", file, *overrides])[0]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The single line on stderr of a call that exits with 2."""
    with pytest.raises(SystemExit) as exit:
        parse_config(Outer, arguments)
    assert exit.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


def test_file_and_defaults(file: str) -> None:
    config = parse(file)
    assert config == Outer(
        mixers={
            "a": {"mixer": "attention", "heads": 4, "rope": True},
            "m": {"mixer": "mamba2", "options": {"chunk": 8, "size": 2}},
        },
        training=Inner(steps=20, limit=5),
    )
    assert type(config.training) is Inner


def test_nested_overrides(file: str) -> None:
    overrides = ["--training.steps", "7", "--training.schedule=linear", "--training.rate", "1e-3", "--output", "there"]
    config = parse(file, *overrides, "--training.limit", "null", "--training.extra.optim", "sgd")
    assert config.training == Inner(steps=7, rate=1e-3, schedule="linear", limit=None, extra={"optim": "sgd"})
    assert config.output == "there"


def test_process_arguments_are_the_default(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "--config", file, "--mixers.a.heads", "8", "--output", "there"])
    config, _ = parse_config(Outer)
    assert (config.mixers["a"]["heads"], config.output) == (8, "there")


@pytest.mark.parametrize("override", [["--mixers.a.heads", "8"], ["--mixers.a.heads=8"]], ids=["space", "equals"])
@pytest.mark.parametrize("first", [True, False])
def test_deep_overrides_keep_the_other_keys(file: str, override: list[str], first: bool) -> None:
    """Whether they come before or after the file."""
    arguments = [*override, "--config", file] if first else ["--config", file, *override]
    config, _ = parse_config(Outer, arguments)
    assert config.mixers["a"] == {"mixer": "attention", "heads": 8, "rope": True}
    assert config.mixers["m"] == {"mixer": "mamba2", "options": {"chunk": 8, "size": 2}}


def test_deeper_overrides_and_types(file: str) -> None:
    overrides = [
        "--mixers.m.options.chunk",
        "16",
        "--mixers.a.rope=false",
        "--mixers.a.scale=-1.5",
        "--mixers.a.k",
        "x",
    ]
    config = parse(file, *overrides)
    assert config.mixers["m"]["options"] == {"chunk": 16, "size": 2}
    assert config.mixers["a"] == {"mixer": "attention", "heads": 4, "rope": False, "scale": -1.5, "k": "x"}


def test_a_new_entry(file: str) -> None:
    config = parse(file, "--mixers.g", "{mixer: gam, slots: 8}", "--mixers.g.slots", "4")
    assert sorted(config.mixers) == ["a", "g", "m"]
    assert config.mixers["g"] == {"mixer": "gam", "slots": 4}


def test_resolved_yaml_parses_back_to_the_same(file: str, tmp_path: Path) -> None:
    overrides = ["--mixers.a.heads=8", "--training.rate", "3e-4", "--training.extra", "{optim: sgd}"]
    config, resolved = parse_config(Outer, ["--config", file, *overrides])
    again = tmp_path / "resolved.yaml"
    again.write_text(resolved)
    config_again, resolved_again = parse_config(Outer, ["--config", str(again)])
    assert asdict(config_again) == asdict(config)
    assert resolved_again == resolved
    assert "schedule: cosine" in resolved  # defaults are written out
    assert str(file) not in resolved


@pytest.mark.parametrize(
    ("mistake", "misspelt", "nearest"),
    [
        ("training: {stepz: 3}", "stepz", "training.steps"),
        ("trainig: {steps: 3}", "trainig.steps", "training.steps"),
        ("training: {schedul: linear}", "schedul", "training.schedule"),
        ("outputs: there", "outputs", "output"),
    ],
)
def test_misspelt_key_in_the_file(tmp_path: Path, capsys: Any, mistake: str, misspelt: str, nearest: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("mixers: {}\n" + mistake)
    line = refused(capsys, "--config", str(path))
    assert f"'{misspelt}'" in line
    assert f"did you mean '{nearest}'" in line


@pytest.mark.parametrize(
    ("mistake", "nearest"),
    [
        ("--training.stepz", "training.steps"),
        ("--trainning.steps", "training.steps"),
        ("--ouput", "output"),
        ("--steps", "training.steps"),
    ],
)
@pytest.mark.parametrize("equals", [True, False])
def test_misspelt_key_on_the_command_line(file: str, capsys: Any, mistake: str, nearest: str, equals: bool) -> None:
    line = refused(capsys, "--config", file, *([f"{mistake}=3"] if equals else [mistake, "3"]))
    assert mistake.strip("-") in line
    assert f"did you mean '{nearest}'" in line


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--training.steps", "many"], ["training.steps", "int", "many"]),
        (["--training.rate", "fast"], ["training.rate", "float", "fast"]),
        (["--training.schedule", "cosin"], ["training.schedule", "cosine", "linear", "cosin"]),
        (["--mixers", "3"], ["mixers", "dict", "3"]),
        (["--mixers.q.heads", "8"], ["mixers.q.heads", "['a', 'm']", "'q'"]),
        (["--mixers.a.heads"], ["mixers.a.heads", "expected a value"]),
        (["--mixers.a.heads=[1"], ["mixers.a.heads", "'[1'"]),
    ],
)
def test_wrong_values(file: str, capsys: Any, arguments: list[str], parts: list[str]) -> None:
    line = refused(capsys, "--config", file, *arguments)
    for part in parts:
        assert part in line


def test_missing_file_and_missing_value(tmp_path: Path, capsys: Any) -> None:
    assert "nowhere.yaml" in refused(capsys, "--config", str(tmp_path / "nowhere.yaml"))
    assert "mixers" in refused(capsys, "--output", "there")
    broken = tmp_path / "broken.yaml"
    broken.write_text("mixers: {a: [")
    refused(capsys, "--config", str(broken))
