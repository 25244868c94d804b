"""A comparison: what it repeats, what it refuses, and that it gives the same however it was run."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from compare_cases import QUIET, compared, kill_in_the_middle, load, quality, stop_drawing, tiny, write

from fork_server import read_pipe
from tokenmix.cli import main
from tokenmix.compare.config import PRESETS, CompareConfig
from tokenmix.compare.folder import read_results
from tokenmix.compare.judge import TEST_SEED
from tokenmix.compare.plan import make_plan
from tokenmix.compare.runner import run_comparison
from tokenmix.compare.trial import Batches, run_trial
from tokenmix.training import parse_config


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The results of an uninterrupted comparison."""
    return compared(tmp_path_factory.getbasetemp())[1]


def test_results_say_what_was_run(whole):
    assert len(whole["runs"]) == 2 * 2 * 2 * 2
    assert {run["status"] for run in whole["runs"]} == {"finished"}
    for row in whole["summary"]:
        mine = [r for r in whole["runs"] if (r["task"], r["stack"]) == (row["task"], row["stack"])]
        chosen = sorted((r for r in mine if r["learning_rate"] == row["learning_rate"]), key=lambda r: r["seed"])
        assert row["scores"] == [r["test"] for r in chosen]
        assert row["score"] == pytest.approx(sum(row["scores"]) / 2)
        other = [r["valid"] for r in mine if r["learning_rate"] != row["learning_rate"]]
        assert sum(r["valid"] for r in chosen) >= sum(other)
    run = whole["runs"][0]
    assert run["command"] == "tokenmix compare x.yaml --only recall/attention/lr_0.003_seed_0"
    assert [step for step, _ in run["history"]] == [4, 8, 12]
    assert run["history"][-1][1] == run["valid"]


def test_budget_is_met(whole):
    sizes = {(run["task"], run["stack"]): run["parameters"] for run in whole["runs"]}
    for task in ("recall", "parity"):
        assert abs(sizes[task, "gam"] / sizes[task, "attention"] - 1) < 0.02


def test_flops_budget(tmp_path):
    config = load(tiny(tmp_path / "out", protocol={"budget": "flops"}), tmp_path)
    sizes = make_plan(config).sizes
    assert abs(sizes["recall", "gam"].flops / sizes["recall", "attention"].flops - 1) < 0.02
    assert sizes["recall", "gam"].parameters != sizes["recall", "attention"].parameters


def test_seeds_differ(whole):
    by_seed = {run["seed"]: run["history"] for run in whole["runs"] if run["task"] == "recall"}
    assert by_seed[0] != by_seed[1]


@pytest.fixture(scope="module")
def killed(processes, tmp_path_factory):
    """The config of a comparison that was killed, with two workers, and what of its 16 runs had ended by then.

    All hold the pipe to which the parent prints; it is at its end once the last of them has ended.
    """
    folder = tmp_path_factory.mktemp("killed")
    path = write(tiny(folder / "out", protocol={"workers": 2}), folder / "compare.yaml")
    ours, theirs = os.pipe()
    parent = processes.start(["-m", "tokenmix.cli", "compare", str(path)], stdout=theirs)
    os.close(theirs)
    printed = b""
    while b"\n6/16 " not in printed:
        printed += (part := read_pipe(ours))
        assert part, "it ended by itself"
    parent.kill()
    assert parent.wait() == -signal.SIGKILL
    while read_pipe(ours):
        pass
    os.close(ours)
    ended = {path: path.stat().st_mtime_ns for path in folder.glob("out/runs/*/*/*/metrics.json")}
    assert 6 <= len(ended) < 16, "killed too early or too late to show anything"
    return path, ended


def test_same_seeds_same_numbers_in_processes(whole, killed):
    path, ended = killed
    alone = Path(whole["config"]["output"])
    for path_there in ended:
        found, expected = (
            {**json.loads(metrics.read_text()), "seconds": 0}
            for metrics in (path_there, alone / path_there.relative_to(path.parent / "out"))
        )
        assert found == expected


def test_killed_comparison_repeats_nothing_and_gives_the_same(whole, killed, monkeypatch, capsys):
    stop_drawing(monkeypatch)
    path, ended = killed
    assert main(["compare", str(path), "--protocol.workers", "1"]) == 0
    assert f"{len(ended)} of 16 runs had ended before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in ended} == ended
    assert quality(read_results(path.parent / "out")) == quality(json.loads(json.dumps(whole)))


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    """A run that is stopped in its middle gives the numbers of one that was not, bit for bit."""
    config = load(tiny(tmp_path / "a", protocol={"save_seconds": 0}), tmp_path)
    trial = make_plan(config).trials[0]
    whole = run_trial(config, trial)
    config.output = str(tmp_path / "b")

    kill_in_the_middle(config, trial)
    assert list(trial.folder(config).glob("checkpoint-*")), "nothing was kept"
    steps = []
    resumed = run_trial(config, trial, steps.append)
    assert steps[0] > 1
    assert {**resumed, "seconds": 0} == {**whole, "seconds": 0}
    assert not list(trial.folder(config).glob("checkpoint-*"))


def test_the_order_of_data_is_that_of_the_seed_alone(tmp_path):
    config = load(tiny(tmp_path / "out"), tmp_path)
    task = make_plan(config).tasks["recall"]
    batches = Batches(task, seed=0, rows=4, steps=3)
    assert batches[1]["inputs"].equal(batches[1]["inputs"])
    assert not batches[0]["inputs"].equal(Batches(task, seed=1, rows=4, steps=3)[0]["inputs"])
    assert not batches[0]["inputs"].equal(task.batch("test", TEST_SEED, 0, 4).inputs)


def test_report_and_baseline(whole, tmp_path, capsys):
    shutil.copytree(whole["config"]["output"], tmp_path / "out")
    path = write(tiny(tmp_path / "out"), tmp_path / "compare.yaml")
    (tmp_path / "old.json").write_text(json.dumps(whole))
    assert main(["compare", str(path), "--baseline", str(tmp_path / "old.json")]) == 0
    assert "nothing changed beyond the spread" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    results = read_results(tmp_path / "out")
    assert {row["verdict"] for row in results["baseline"]["rows"]} == {"within the spread"}
    (tmp_path / "bad.json").write_text("{}")
    assert main(["compare", str(path), "--baseline", str(tmp_path / "bad.json")]) == 2
    assert "baseline: expected results.json of a comparison" in capsys.readouterr().err


def test_the_task_of_the_docs_is_run(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
    (tmp_path / "my_tasks.py").write_text(text.split("```python\n")[1].split("```")[0])
    tree = tiny(tmp_path / "out", tasks={"first": {"task": f"{tmp_path}/my_tasks.py:First"}})
    tree["protocol"] |= {"seeds": [0], "learning_rates": [0.01], "steps": 60, "batch_size": 32, "evaluate_every": 60}
    results = run_comparison(load(tree, tmp_path), console=QUIET)
    scores = {row["stack"]: row["score"] for row in results["summary"]}
    assert scores["attention"] > 0.5
    assert scores["gam"] < 0.4  # the first token lies beyond its reach
    assert results["tasks"]["first"]["cases"] == ["16", "32"]


@pytest.mark.parametrize("name", ["demo", "recall", "tasks"])
def test_presets_can_be_run(name):
    config, _ = parse_config(CompareConfig, ["--config", str(PRESETS / f"{name}.yaml")])
    plan = make_plan(config)
    for task in plan.tasks:
        sizes = [size.parameters for (of, _), size in plan.sizes.items() if of == task]
        assert max(sizes) / min(sizes) < 1.01
    assert not plan.skipped


def test_list(capsys):
    assert main(["compare", "--list"]) == 0
    printed = capsys.readouterr().out
    assert "demo" in printed
    assert "listops" in printed


def test_a_task_may_be_asked_of_some_stacks_alone(tmp_path):
    tree = tiny(tmp_path / "out", costs={"lengths": [8, 16], "rounds": 1, "backward": False, "measure": True})
    tree["protocol"] |= {"seeds": [0], "learning_rates": [0.01], "steps": 2, "evaluate_every": 2}
    tree["tasks"]["recall"]["stacks"] = ["attention"]
    results = run_comparison(load(tree, tmp_path), console=QUIET)
    asked = {(row["task"], row["stack"]) for row in results["summary"]}
    assert asked == {("recall", "attention"), ("parity", "attention"), ("parity", "gam")}
    assert {row["stack"] for row in results["costs"]["rows"]} == {"attention", "gam"}
    tree["tasks"]["recall"]["stacks"] = ["atention"]
    with pytest.raises(
        ValueError, match=r"expected a list of different names among attention, gam, found \['atention'\]"
    ):
        run_comparison(load(tree, tmp_path), console=QUIET)


def test_first_seed_searches_for_the_others(tmp_path):
    tree = tiny(tmp_path / "out", protocol={"search": "first seed", "seeds": [0, 1, 2], "steps": 4})
    del tree["tasks"]["parity"]
    results = run_comparison(load(tree, tmp_path), console=QUIET)
    for row in results["summary"]:
        mine = [run for run in results["runs"] if run["stack"] == row["stack"]]
        assert len(mine) == 2 + 2
        first = {run["learning_rate"]: run["valid"] for run in mine if run["seed"] == 0}
        assert first[row["learning_rate"]] == max(first.values())
        assert {run["learning_rate"] for run in mine if run["seed"] > 0} == {row["learning_rate"]}
        assert row["seeds"] == 3
    assert any("chosen with the first seed" in sentence for sentence in results["findings"])
