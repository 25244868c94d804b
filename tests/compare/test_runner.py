"""A comparison: what it repeats, what it refuses, and that it gives the same however it was run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from compare_cases import MIXERS, quality, tiny, write
from rich.console import Console

from tokenmix.cli import main
from tokenmix.compare.config import PRESETS, CompareConfig
from tokenmix.compare.judge import TEST_SEED
from tokenmix.compare.runner import make_plan, read_results, run_comparison
from tokenmix.compare.trial import Batches, run_trial
from tokenmix.training import parse_config

QUIET = Console(quiet=True)


def load(tree, folder):
    config, _ = parse_config(CompareConfig, ["--config", str(write(tree, folder / "compare.yaml"))])
    return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted comparison."""
    folder = tmp_path_factory.mktemp("whole")
    return run_comparison(load(tiny(folder / "out"), folder), command="tokenmix compare x.yaml", console=QUIET)


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


def test_same_seeds_same_numbers_in_processes(whole, tmp_path):
    config = load(tiny(tmp_path / "out", protocol={"workers": 2}), tmp_path)
    again = run_comparison(config, console=QUIET)
    assert quality(again) == quality(whole)


def test_seeds_differ(whole):
    by_seed = {run["seed"]: run["history"] for run in whole["runs"] if run["task"] == "recall"}
    assert by_seed[0] != by_seed[1]


def test_killed_comparison_repeats_nothing_and_gives_the_same(whole, tmp_path):
    path = write(tiny(tmp_path / "out", protocol={"workers": 2}), tmp_path / "compare.yaml")
    command = [sys.executable, "-m", "tokenmix.cli", "compare", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    runs = tmp_path / "out" / "runs"
    while process.poll() is None and len(list(runs.glob("*/*/*/metrics.json"))) < 3:
        os.sched_yield()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    ended = {path: path.stat().st_mtime_ns for path in runs.glob("*/*/*/metrics.json")}
    assert 3 <= len(ended) < 16, "killed too early or too late to show anything"
    _wait_for_workers(path)
    ended = {path: path.stat().st_mtime_ns for path in runs.glob("*/*/*/metrics.json")}
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(ended)} of 16 runs had ended before" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in ended} == ended
    assert quality(read_results(tmp_path / "out")) == quality(json.loads(json.dumps(whole)))


def _wait_for_workers(path):
    """Workers end with their parent."""
    for _ in range(10**7):
        commands = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if f"{entry.name}" != str(os.getpid()) and _parent(entry) == 1:
                        commands.append((entry / "cmdline").read_bytes())
                except OSError:
                    continue
        if not any(b"multiprocessing" in command and b"spawn_main" in command for command in commands):
            return
        os.sched_yield()
    raise AssertionError("workers outlive their parent")


def _parent(entry):
    return int((entry / "stat").read_text().rpartition(")")[2].split()[1])


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    """A run that is stopped in its middle gives the numbers of one that was not, bit for bit."""
    config = load(tiny(tmp_path / "a", protocol={"save_seconds": 0}), tmp_path)
    trial = make_plan(config).trials[0]
    whole = run_trial(config, trial)
    config.output = str(tmp_path / "b")

    class Killed(BaseException):
        pass

    def kill(step):
        if step == 7:
            raise Killed

    with pytest.raises(Killed):
        run_trial(config, trial, kill)
    assert list(trial.folder(config).glob("checkpoint-*")), "nothing was kept"
    steps = []
    resumed = run_trial(config, trial, steps.append)
    assert steps[0] > 1
    assert {**resumed, "seconds": 0} == {**whole, "seconds": 0}
    assert not list(trial.folder(config).glob("checkpoint-*"))


def test_adding_a_mixer_runs_only_it(whole, tmp_path):
    tree = tiny(tmp_path / "out")
    first = run_comparison(load(tree, tmp_path), console=QUIET)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("runs/*/*/*/metrics.json")}
    tree["mixers"]["m"], tree["stacks"]["mamba2"] = MIXERS["m"], "m"
    second = run_comparison(load(tree, tmp_path), console=QUIET)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(second["runs"]) == len(first["runs"]) + 8
    assert [row for row in second["summary"] if row["stack"] == "mamba2"]


def test_other_settings_in_a_runs_folder_are_refused(tmp_path):
    tree = tiny(tmp_path / "out", tasks={"parity": {"task": "parity", "lengths": [9], "training": {"steps": 2}}})
    run_comparison(load(tree, tmp_path), console=QUIET)
    tree["protocol"]["batch_size"] = 4
    with pytest.raises(ValueError, match=r"holds a run with protocol.batch_size=8, found protocol.batch_size=4"):
        run_comparison(load(tree, tmp_path), console=QUIET)


def test_the_order_of_data_is_that_of_the_seed_alone(tmp_path):
    config = load(tiny(tmp_path / "out"), tmp_path)
    task = make_plan(config).tasks["recall"]
    batches = Batches(task, seed=0, rows=4, steps=3)
    assert batches[1]["inputs"].equal(batches[1]["inputs"])
    assert not batches[0]["inputs"].equal(Batches(task, seed=1, rows=4, steps=3)[0]["inputs"])
    assert not batches[0]["inputs"].equal(task.batch("test", TEST_SEED, 0, 4).inputs)


MISTAKES = {
    "no stack": ({"stacks": {}}, "stacks: expected at least one, found none"),
    "no mixer": ({"stacks": {"x": "z"}}, "stacks: expected letters of mixers ['a', 'g'] for 'x', found 'z'"),
    "mixer": ({"mixers": {"a": {"mixer": "atention"}}, "stacks": {"x": "a"}}, "did you mean 'attention'"),
    "option": ({"mixers": {"a": {"mixer": "attention", "head": 2}}, "stacks": {"x": "a"}}, "did you mean 'heads'"),
    "task": ({"tasks": {"x": {"task": "recal"}}}, "did you mean 'recall'"),
    "folder name": ({"tasks": {"a/b": {"task": "parity"}}}, "expected names without"),
    "training": (
        {"tasks": {"x": {"task": "parity", "training": {"step": 3}}}},
        "tasks.x.training: expected keys",
    ),
    "reference": ({"protocol": {"reference": "nobody"}}, "protocol.reference: expected one of ['attention', 'gam']"),
    "file": ({"mixers": {"a": {"mixer": "none.py:Mine"}}, "stacks": {"x": "a"}}, "no file none.py"),
    "too large": (
        {"mixers": {**MIXERS, "g": {"mixer": "gam", "slots": 4000}}, "stacks": {"attention": "a", "gam": "g"}},
        "stacks.gam: expected at most",
    ),
    "same label": (
        {"tasks": {"x": {"task": "recall", "lengths": [16, 32], "pairs": [2, 2], "vocabulary": 16}}},
        "tasks.x: expected another pairs for each case, found 2, 2",
    ),
    "stacks of a task": ({"tasks": {"x": {"task": "parity", "stacks": "gam"}}}, "tasks.x.stacks: expected a list"),
    "twice": ({"tasks": {"x": {"task": "parity", "stacks": ["gam", "gam"]}}}, "tasks.x.stacks: expected a list"),
    "width": ({"model": {"hidden_size": -4}}, "hidden_size"),
    "rate": ({"protocol": {"learning_rates": [float("inf")]}}, "learning_rates"),
    "seed": ({"tasks": {"x": {"task": "parity", "training": {"seeds": [1.5]}}}}, "tasks.x.training: seeds: expected"),
    "budget": ({"model": {"feed_forward": None, "hidden_size": 16}}, "model.feed_forward: expected one"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_before_anything_is_trained(name, tmp_path, capsys):
    changes, message = MISTAKES[name]
    path = write(tiny(tmp_path / "out", **changes), tmp_path / "compare.yaml")
    assert main(["compare", str(path)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "runs").exists()


def test_misspelt_keys_and_values_are_named(tmp_path, capsys):
    path = write(tiny(tmp_path / "out"), tmp_path / "compare.yaml")
    assert main(["compare", str(path), "--protocol.step", "3"]) == 2
    assert "protocol.steps" in capsys.readouterr().err
    assert main(["compare", "demmo"]) == 2
    assert "expected a YAML file or one of demo" in capsys.readouterr().err


def test_fields_that_a_task_lacks_are_a_reason_to_skip(tmp_path):
    source = tmp_path / "mine.py"
    source.write_text(
        "import tokenmix\n"
        "class NeedsCoords(tokenmix.TokenMixer):\n"
        "    causal, needs = 'optional', ('coords',)\n"
        "    def mix(self, x, layout, state):\n"
        "        return x\n"
        "class Mean(tokenmix.TokenMixer):\n"
        "    causal, cost = 'never', 'L'\n"
        "    def mix(self, x, layout, state):\n"
        "        return x.mean(1, keepdim=True).expand_as(x)\n"
    )
    tree = tiny(tmp_path / "out", protocol={"seeds": [0], "learning_rates": [0.01], "steps": 2, "evaluate_every": 2})
    tree["mixers"] |= {"n": {"mixer": f"{source}:NeedsCoords"}, "p": {"mixer": f"{source}:Mean"}}
    tree["stacks"] |= {"coords": "n", "mean": "p"}
    results = run_comparison(load(tree, tmp_path), console=QUIET)
    reasons = {(entry["task"], entry["stack"]): entry["reason"] for entry in results["skipped"]}
    assert set(reasons) == {("recall", "coords"), ("parity", "coords"), ("recall", "mean")}
    assert "needs coords" in reasons["parity", "coords"]
    assert "reads the future" in reasons["recall", "mean"]
    assert [row["task"] for row in results["summary"] if row["stack"] == "mean"] == ["parity"]


def test_a_mixer_that_raises_does_not_end_the_others(tmp_path):
    source = tmp_path / "mine.py"
    source.write_text(
        "import tokenmix\n"
        "class Breaks(tokenmix.TokenMixer):\n"
        "    causal, cost = 'always', 'L'\n"
        "    def mix(self, x, layout, state):\n"
        "        if self.training:\n"
        "            raise RuntimeError('out of luck')\n"
        "        return x\n"
    )
    tree = tiny(tmp_path / "out", protocol={"seeds": [0], "learning_rates": [0.01], "steps": 2, "evaluate_every": 2})
    path = write(tree, tmp_path / "compare.yaml")
    assert main(["compare", str(path), "--mixer", f"{source}:Breaks", "--task", "recall"]) == 1
    results = read_results(tmp_path / "out")
    by_stack = {run["stack"]: run for run in results["runs"]}
    assert by_stack["Breaks"]["error"] == "RuntimeError: out of luck"
    assert by_stack["gam"]["status"] == "finished"
    assert any("failed or diverged: Breaks" in sentence for sentence in results["findings"])


def test_diverged_runs_are_told(tmp_path):
    tree = tiny(tmp_path / "out", stacks={"gam": "g"}, mixers={"g": MIXERS["g"]})
    tree["protocol"] |= {"learning_rates": [0.01, 3e38], "clip": 1e30, "seeds": [0, 1]}
    del tree["tasks"]["parity"]
    results = run_comparison(load(tree, tmp_path), console=QUIET)
    lost = [run for run in results["runs"] if run["learning_rate"] == 3e38]
    assert {run["status"] for run in lost} == {"diverged"}
    assert results["summary"][0]["learning_rate"] == 0.01


def test_one_folder_one_comparison(tmp_path):
    fcntl = pytest.importorskip("fcntl", reason="no file locks on this system")
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process is running a comparison"):
            run_comparison(load(tiny(tmp_path / "out"), tmp_path), console=QUIET)


def test_only_one_run(whole, tmp_path, capsys):
    path = write(tiny(tmp_path / "out"), tmp_path / "compare.yaml")
    name = "recall/gam/lr_0.01_seed_1"
    assert main(["compare", str(path), "--only", name]) == 0
    expected = next(run for run in whole["runs"] if run["folder"] == f"runs/{name}")
    assert f"test: {expected['test']}" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("runs/*/*/*/metrics.json"))) == 1
    assert main(["compare", str(path), "--only", "recall/nobody/1"]) == 2


def test_report_and_baseline(whole, tmp_path, capsys):
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
    tree = tiny(tmp_path / "out", protocol={"search": "first seed", "seeds": [0, 1, 2]})
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


def test_stack_keeps_the_budget_of_the_whole(whole, tmp_path):
    path = write(tiny(tmp_path / "out"), tmp_path / "compare.yaml")
    assert main(["compare", str(path), "--stack", "gam", "--task", "recall"]) == 0
    alone, both = read_results(tmp_path / "out")["runs"], whole["runs"]
    for run in alone:
        other = next(r for r in both if r["folder"] == run["folder"])
        assert (run["parameters"], run["test"]) == (other["parameters"], other["test"])
    assert {run["stack"] for run in alone} == {"gam"}


def test_results_of_older_code_of_ones_own_are_refused(tmp_path, capsys):
    source = tmp_path / "mine.py"
    text = (
        "import tokenmix\n"
        "class Mine(tokenmix.TokenMixer):\n"
        "    causal, cost = 'always', 'L'\n"
        "    def mix(self, x, layout, state):\n"
        "        return x\n"
    )
    source.write_text(text)
    tree = tiny(tmp_path / "out", protocol={"seeds": [0], "learning_rates": [0.01], "steps": 2, "evaluate_every": 2})
    command = ["compare", str(write(tree, tmp_path / "c.yaml")), "--mixer", f"{source}:Mine", "--task", "recall"]
    assert main(command) == 0
    source.write_text(text.replace("return x", "return x.cumsum(1)"))
    assert main(command) == 2
    assert "mine.py:Mine=" in capsys.readouterr().err


def test_a_loss_that_is_no_number_ends_a_run_at_once(tmp_path):
    source = tmp_path / "mine.py"
    source.write_text(
        "import tokenmix\n"
        "class Late(tokenmix.TokenMixer):\n"
        "    causal, cost, calls = 'always', 'L', 0\n"
        "    def mix(self, x, layout, state):\n"
        "        self.calls += self.training\n"
        "        return x / (self.calls < 4)\n"
    )
    mixers = {"n": {"mixer": f"{source}:Late"}}
    tree = tiny(tmp_path / "out", mixers=mixers, stacks={"late": "n"})
    tree["model"]["num_hidden_layers"] = 1
    tree["protocol"] |= {"seeds": [0], "learning_rates": [0.01], "steps": 9, "evaluate_every": 100}
    del tree["tasks"]["parity"]
    (run,) = run_comparison(load(tree, tmp_path), console=QUIET)["runs"]
    assert (run["status"], run["stopped"], run["steps"]) == ("diverged", "diverged", 4)
