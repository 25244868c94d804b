"""What a command leaves in the folder of a comparison stays on the page of the next, and can be told apart."""

from __future__ import annotations

import json
import shutil

import pytest
from compare_cases import MIXERS, QUIET, compared, kill_in_the_middle, load, quality, quick, stop_drawing, tiny, write

from tokenmix.cli import main
from tokenmix.compare.folder import read_results
from tokenmix.compare.plan import make_plan
from tokenmix.compare.runner import run_comparison

MINE = (
    "import tokenmix\n"
    "class Mine(tokenmix.TokenMixer):\n"
    "    causal, cost = 'always', 'L'\n"
    "    def __init__(self, dim, factor=1.0):\n"
    "        super().__init__(dim)\n"
    "        self.factor = factor\n"
    "    def mix(self, x, layout, state):\n"
    "        return self.factor * x\n"
)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    stop_drawing(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted comparison, and its results as they are written."""
    folder, results = compared(tmp_path_factory.getbasetemp())
    return folder, json.loads(json.dumps(results))


@pytest.fixture
def copied(whole, tmp_path):
    """The config of a comparison whose folder holds the whole."""
    shutil.copytree(whole[0], tmp_path / "out")
    return write(tiny(tmp_path / "out"), tmp_path / "compare.yaml")


def ended(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/*/metrics.json")}


def pairs(results):
    return {(row["task"], row["stack"]) for row in results["summary"]}


@pytest.mark.parametrize("part", [["--stack", "gam", "--task", "recall"], ["--task", "parity"]])
def test_a_part_leaves_the_page_of_the_whole(whole, copied, part, capsys):
    before = ended(copied.parent / "out")
    assert main(["compare", str(copied), *part]) == 0
    assert ended(copied.parent / "out") == before
    assert quality(read_results(copied.parent / "out")) == quality(whole[1])
    assert "on the page too, from earlier commands: " in capsys.readouterr().out


def test_a_part_prints_its_own_tasks(copied, capsys):
    assert main(["compare", str(copied), "--task", "parity"]) == 0
    printed = capsys.readouterr().out
    assert "parity: accuracy" in printed
    assert "recall: accuracy" not in printed


def test_parts_make_a_whole(tmp_path):
    path = write(quick(tmp_path / "out"), tmp_path / "compare.yaml")
    assert main(["compare", str(path), "--task", "recall"]) == 0
    results = read_results(tmp_path / "out")
    assert pairs(results) == {("recall", "attention"), ("recall", "gam")}
    assert not results["kept"]
    assert main(["compare", str(path), "--task", "parity", "--stack", "gam"]) == 0
    results = read_results(tmp_path / "out")
    assert pairs(results) == {("recall", "attention"), ("recall", "gam"), ("parity", "gam")}
    assert results["kept"] == [{"task": "recall", "stack": "attention"}, {"task": "recall", "stack": "gam"}]


def test_what_has_not_ended_or_differs_is_left_out(whole, copied, capsys):
    folder = copied.parent / "out"
    (folder / "runs" / "parity" / "gam" / "lr_0.01_seed_0" / "metrics.json").unlink()
    tree = tiny(folder)
    tree["tasks"]["recall"]["training"] = {"warmup_steps": 3}
    write(tree, copied)
    assert main(["compare", str(copied), "--task", "parity", "--stack", "attention"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "not on the page: parity/gam: only 3 of 4 runs have ended" in printed
    assert "not on the page: recall/gam: output: " in printed
    assert "holds a run with protocol.warmup_steps=2, found protocol.warmup_steps=3" in printed
    assert pairs(read_results(folder)) == {("parity", "attention")}


def test_first_seed_is_kept_whole(tmp_path):
    tree = tiny(tmp_path / "out", protocol={"search": "first seed", "seeds": [0, 1], "steps": 4})
    first = json.loads(json.dumps(run_comparison(load(tree, tmp_path), console=QUIET)))
    assert len(first["runs"]) == 4 * 3
    assert main(["compare", str(tmp_path / "compare.yaml"), "--task", "parity"]) == 0
    assert quality(read_results(tmp_path / "out")) == quality(first)


# ---------------------------------------------------------------------- mixers of the command line


def test_an_added_mixer_stays_on_the_page(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(MINE)
    path = write(quick(tmp_path / "out", costs={"lengths": [8, 16], "rounds": 1}), tmp_path / "compare.yaml")
    command = ["compare", str(path), "--task", "recall"]
    assert main([*command, "--mixer", f"{tmp_path}/mine.py:Mine"]) == 0
    with_mine, runs = read_results(tmp_path / "out"), ended(tmp_path / "out")
    capsys.readouterr()
    assert main(command) == 0
    assert "on the page too, from earlier commands: recall: Mine" in capsys.readouterr().out
    results = read_results(tmp_path / "out")
    assert pairs(results) == {("recall", "attention"), ("recall", "gam"), ("recall", "Mine")}
    assert quality(results) == quality(with_mine)
    assert ended(tmp_path / "out") == runs
    assert results["costs"] == with_mine["costs"]
    shutil.rmtree(tmp_path / "out" / "runs" / "recall" / "Mine")
    assert main(command) == 0
    assert "Mine" not in read_results(tmp_path / "out")["stacks"]


def test_the_same_mixer_is_the_same_stack_and_another_is_another(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    path = write(quick(tmp_path / "out"), tmp_path / "compare.yaml")
    command = ["compare", str(path), "--task", "recall", "--mixer", f"{tmp_path}/mine.py:Mine"]
    assert main(command) == 0
    assert main([*command, "--options", '{"factor": 2.0}']) == 0
    stacks = read_results(tmp_path / "out")["stacks"]
    factors = {name: stacks[name]["mixers"][stacks[name]["pattern"]].get("factor") for name in ("Mine", "Mine_2")}
    assert factors == {"Mine": None, "Mine_2": 2.0}
    runs = ended(tmp_path / "out")
    assert main(command) == 0
    assert ended(tmp_path / "out") == runs
    assert {"Mine", "Mine_2"} <= set(read_results(tmp_path / "out")["stacks"])


def test_an_added_mixer_whose_file_is_gone_is_told(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(MINE)
    path = write(quick(tmp_path / "out"), tmp_path / "compare.yaml")
    command = ["compare", str(path), "--task", "recall"]
    assert main([*command, "--mixer", f"{tmp_path}/mine.py:Mine"]) == 0
    (tmp_path / "mine.py").unlink()
    assert main(command) == 0
    assert "not on the page: recall/Mine: no file" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "mine.py").write_text(MINE)
    assert main(command) == 0
    assert ("recall", "Mine") in pairs(read_results(tmp_path / "out"))


def test_a_letter_that_the_config_needs_itself_is_told(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(MINE)
    path = write(quick(tmp_path / "out"), tmp_path / "compare.yaml")
    assert main(["compare", str(path), "--task", "recall", "--mixer", f"{tmp_path}/mine.py:Mine"]) == 0
    tree = quick(tmp_path / "out", stacks={"attention": "a", "new": "α"})
    tree["mixers"]["α"] = MIXERS["m"]
    assert main(["compare", str(write(tree, path)), "--task", "recall"]) == 0
    assert "Mine, which --mixer added: the config has another mixer α now" in capsys.readouterr().out


def test_adding_a_mixer_runs_only_it(whole, copied):
    folder = copied.parent / "out"
    kept = ended(folder)
    tree = tiny(folder)
    tree["mixers"]["m"], tree["stacks"]["mamba2"] = MIXERS["m"], "m"
    second = run_comparison(load(tree, copied.parent), console=QUIET)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(second["runs"]) == len(whole[1]["runs"]) + 8
    assert [row for row in second["summary"] if row["stack"] == "mamba2"]


# ---------------------------------------------------------------------- one run, or a part, on its own


def test_stack_keeps_the_budget_of_the_whole(whole, tmp_path):
    path = write(tiny(tmp_path / "out"), tmp_path / "compare.yaml")
    assert main(["compare", str(path), "--stack", "gam", "--task", "recall"]) == 0
    alone, both = read_results(tmp_path / "out")["runs"], whole[1]["runs"]
    for run in alone:
        other = next(r for r in both if r["folder"] == run["folder"])
        assert (run["parameters"], run["test"]) == (other["parameters"], other["test"])
    assert {run["stack"] for run in alone} == {"gam"}


def test_only_one_run(whole, tmp_path, capsys):
    path = write(tiny(tmp_path / "out"), tmp_path / "compare.yaml")
    name = "recall/gam/lr_0.01_seed_1"
    assert main(["compare", str(path), "--only", name]) == 0
    expected = next(run for run in whole[1]["runs"] if run["folder"] == f"runs/{name}")
    assert f"test: {expected['test']}" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("runs/*/*/*/metrics.json"))) == 1


def test_going_on_from_a_checkpoint_is_told(tmp_path, capsys):
    path = write(tiny(tmp_path / "out", protocol={"save_seconds": 0}), tmp_path / "compare.yaml")
    config = load(tiny(tmp_path / "out", protocol={"save_seconds": 0}), tmp_path)
    trial = make_plan(config).trials[0]

    kill_in_the_middle(config, trial)
    assert main(["compare", str(path), "--only", trial.name]) == 0
    told = f"{trial.name}: goes on from its checkpoint, after update "
    line = next(line for line in capsys.readouterr().out.splitlines() if told in line)
    assert 0 < int(line.removeprefix(told).split()[0]) <= 7
    assert line.endswith("of 12")
    assert main(["compare", str(path), "--only", trial.name]) == 0
    assert "checkpoint" not in capsys.readouterr().out
