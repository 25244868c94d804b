"""What is typed goes before what a file says, and CONFIG is told from values."""

from __future__ import annotations

import pytest
from compare_cases import load, stop_drawing, tiny, write

from tokenmix.cli import main
from tokenmix.compare.folder import read_results
from tokenmix.compare.runner import run_comparison
from tokenmix.compare.tree import check_tree
from tokenmix.compare.typed import prefer_typed, split_typed


@pytest.mark.parametrize(
    ("words", "config", "overrides"),
    [
        ([], None, []),
        (["demo"], "demo", []),
        (["--protocol.steps", "4"], None, [("protocol.steps", "4")]),
        (["--protocol.steps", "4", "demo"], "demo", [("protocol.steps", "4")]),
        (["demo", "--protocol.steps=4"], "demo", [("protocol.steps", "4")]),
        (["--protocol.weight_decay", "-1", "demo"], "demo", [("protocol.weight_decay", "-1")]),
        (["--protocol.seeds", "[0, 1]", "--output", "x"], None, [("protocol.seeds", "[0, 1]"), ("output", "x")]),
    ],
)
def test_values_are_no_config(words, config, overrides):
    typed = split_typed(words)
    assert (typed.config, typed.overrides) == (config, overrides)
    assert typed.arguments == [word for word in words if word != "demo"]


def test_without_config_it_is_the_demo(tmp_path, capsys, monkeypatch):
    asked = {}

    def stop(config, **more):
        asked.update(steps=config.protocol.steps, stacks=list(config.stacks), **more)
        raise ValueError("as far as this test goes")

    monkeypatch.setattr("tokenmix.compare.runner.run_comparison", stop)
    assert main(["compare", "--protocol.steps", "4", "--output", str(tmp_path / "out")]) == 2
    assert "as far as this test goes" in capsys.readouterr().err
    assert asked["steps"] == 4
    assert "hybrid" in asked["stacks"]
    assert main(["compare", "--protocol.steps", "5", "recall", "--output", str(tmp_path / "out")]) == 2
    assert asked["steps"] == 5
    assert "linear_attention" in asked["stacks"]


# ---------------------------------------------------------------------- the command line wins


def test_what_is_typed_goes_before_the_training_of_a_task(tmp_path, capsys, monkeypatch):
    stop_drawing(monkeypatch)
    path = write(tiny(tmp_path / "out"), tmp_path / "compare.yaml")  # parity has 6 updates of its own, recall 12
    part = ["--protocol.steps", "2", "--protocol.evaluate_every=2", "--protocol.seeds", "[0]"]
    assert main(["compare", str(path), *part, "--stack", "gam"]) == 0
    results = read_results(tmp_path / "out")
    assert {run["task"]: run["steps"] for run in results["runs"]} == {"recall": 2, "parity": 2}
    printed = " ".join(capsys.readouterr().out.split())
    assert "protocol.steps 2, as typed, goes before tasks.parity.training.steps 6" in printed
    assert results["config"]["tasks"]["parity"]["training"] == {}


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ([], 6),
        ([("protocol.seeds", "[0]")], 6),
        ([("protocol.steps", "30")], 12),
        ([("protocol", "{steps: 30}")], 12),
        ([("protocol.steps", "30"), ("tasks.parity.training.steps", "6")], 6),
        ([("protocol.steps", "30"), ("tasks.parity.training", "{steps: 6}")], 6),
    ],
)
def test_the_nearer_word_wins(overrides, steps, tmp_path):
    config = load(tiny(tmp_path / "out"), tmp_path)
    said = prefer_typed(config, overrides)
    assert config.protocol_of("parity").steps == steps  # 12 are those of the protocol in the file
    assert len(said) == (steps == 12)


def test_keys_of_the_presets_fit(tmp_path):
    import yaml

    from tokenmix.compare.config import PRESETS, CompareConfig

    for path in PRESETS.glob("*.yaml"):
        check_tree(yaml.safe_load(path.read_text(encoding="utf-8")), CompareConfig)
    numbers = tiny(tmp_path / "out", protocol={"learning_rates": ["1e-3", 0.01], "workers": None, "clip": 1})
    check_tree(numbers, CompareConfig)  # 1e-3 is a string to YAML 1.1, and a number to the parser
    assert load(numbers, tmp_path).protocol.learning_rates == [0.001, 0.01]


def test_a_python_caller_needs_no_command(tmp_path):
    with pytest.raises(TypeError, match=r"tasks\.recall: lengths: expected a list of integers, found 16"):
        run_comparison(load(tiny(tmp_path / "out", tasks={"recall": {"task": "recall", "lengths": 16}}), tmp_path))
