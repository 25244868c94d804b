"""What a comparison refuses, and in which words."""

from __future__ import annotations

import json

import pytest
from compare_cases import MIXERS, QUIET, load, quick, stop_drawing, tiny, write

from tokenmix.cli import main
from tokenmix.compare.folder import check_settings
from tokenmix.compare.plan import make_plan
from tokenmix.compare.runner import run_comparison


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    stop_drawing(monkeypatch)


def test_other_settings_in_a_runs_folder_are_refused(tmp_path):
    tree = tiny(tmp_path / "out", tasks={"parity": {"task": "parity", "lengths": [9], "training": {"steps": 2}}})
    run_comparison(load(tree, tmp_path), console=QUIET)
    tree["protocol"]["batch_size"] = 4
    with pytest.raises(ValueError, match=r"hold runs with protocol.batch_size=8, found protocol.batch_size=4"):
        run_comparison(load(tree, tmp_path), console=QUIET)


def test_advice_on_other_settings_covers_all_runs_and_no_others(tmp_path):
    tree = tiny(tmp_path / "out")
    plan, runs = make_plan(load(tree, tmp_path)), tmp_path / "out" / "runs"
    for trial in plan.trials:
        folder = trial.folder(load(tree, tmp_path))
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(trial.resolved(load(tree, tmp_path))))

    def advice(changed, trials=None):
        config = load(changed, tmp_path)
        with pytest.raises(ValueError, match="choose another --output, or delete ") as caught:
            check_settings(config, make_plan(config).trials if trials is None else trials)
        return str(caught.value).split("or delete ")[1].split(" to run anew")[0].split(" and ")

    check_settings(load(tree, tmp_path), plan.trials)
    assert advice(tiny(tmp_path / "out", protocol={"batch_size": 4})) == [str(runs)]
    changed = tiny(tmp_path / "out")
    changed["tasks"]["recall"]["training"] = {"steps": 5}
    assert advice(changed) == [str(runs / "recall")]
    changed = tiny(tmp_path / "out")
    changed["mixers"]["g"] = {"mixer": "gam", "slots": 4}
    assert advice(changed) == [str(runs / "parity" / "gam"), str(runs / "recall" / "gam")]
    changed = tiny(tmp_path / "out", protocol={"clip": 2.0})
    first = next(trial for trial in make_plan(load(changed, tmp_path)).trials if trial.stack == "gam")
    assert advice(changed, [first]) == [str(first.folder(load(changed, tmp_path)))]


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


TYPED = {
    "key": (["--protocol.step", "3"], "protocol.step: expected a key among budget", "did you mean 'protocol.steps'?"),
    "value": (["--protocol.steps", "many"], "protocol.steps: expected a whole number, found 'many'"),
    "no value": (["--protocol.steps"], "--protocol.steps: expected a value after it, found nothing"),
    "list": (["--costs.lengths", "64"], "costs.lengths: expected a list of whole numbers, found 64"),
    "option of a mixer": (["--mixers.a.heads", "3"], "mixers.a: heads: expected a divisor of dim=16, found 3"),
    "stack": (["--stack", "gamm"], "--stack: expected one of attention, gam, found 'gamm'; did you mean 'gam'?"),
    "task": (["--task", "recal"], "--task: expected one of recall, parity, found 'recal'; did you mean 'recall'?"),
    "two configs": (["other.yaml"], "CONFIG: expected one name or YAML file, found ", "and 'other.yaml'"),
    "no run": (["--only", "recal/gam/x"], "with a task among recall, parity, found 'recal'", "did you mean 'recall'?"),
    "no run of a stack": (["--only", "recall/nobody/1"], "with a stack of recall among attention, gam, found 'nobody'"),
    "no rate": (["--only", "recall/gam/lr_1_seed_0"], "a rate of recall among 0.003, 0.01 and a seed among 0, 1"),
    "reference": (["--protocol.reference", "gan"], "protocol.reference: expected one of", "did you mean 'gam'?"),
    "options": (["--mixer", "gam", "--options", "[1]"], "--options: expected a JSON object, found '[1]'"),
}


@pytest.mark.parametrize("name", TYPED)
def test_what_is_wrong_on_the_command_line_is_named(name, tmp_path, capsys):
    words, *messages = TYPED[name]
    path = write(tiny(tmp_path / "out"), tmp_path / "compare.yaml")
    assert main(["compare", str(path), *words]) == 2
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    for message in messages:
        assert message in printed
    assert not (tmp_path / "out" / "runs").exists()


def test_a_misspelt_preset_is_named(capsys):
    assert main(["compare", "demmo"]) == 2
    expected = "CONFIG: expected a YAML file or one of demo, recall, tasks, found 'demmo'; did you mean 'demo'?"
    assert expected in capsys.readouterr().err


FILES = {  # a line that is changed, and what is said
    "protocol: [1]": "protocol: expected a mapping with keys such as budget, reference, learning_rates, found [1]",
    "costs: {lengths: 64}": "costs.lengths: expected a list of whole numbers, found 64",
    "mixers:": "mixers: expected a mapping of letters to mixers, such as {a: {mixer: attention, heads: 2}}, found "
    "nothing",
    "mixers: {a: attention}": "mixers.a: expected a mapping such as {mixer: attention, heads: 2}, found 'attention'",
    "stacks: {no: a}": "stacks: expected names as keys, found False (YAML reads yes, no, on and off as such",
    "tasks: [recall]": "tasks: expected a mapping of names to tasks, such as ",
    "tasks: {x: {task: recall, lengths: 64}}": "tasks.x: lengths: expected a list of integers, found 64",
    "tasks: {x: {task: recall, pairs: 4}}": "tasks.x: pairs: expected a list of integers, found 4",
    "tasks: {x: {task: text, corpus: []}}": "tasks.x: corpus: expected one of ",
    "costs: none": "costs: expected a mapping with keys such as measure, lengths, rounds, found 'none'; to leave it "
    "out: costs.measure: false",
    "protocl: {steps: 3}": "protocl: expected a key among mixers, stacks, tasks, model, protocol, costs, portrait, "
    "output, found 'protocl'; did you mean 'protocol'?",
    "model: {hidden_size: 16.5}": "model.hidden_size: expected a whole number, found 16.5",
    "protocol: {budget: params}": "protocol.budget: expected one of parameters, flops, none, found 'params'",
    "protocol: {seeds: [0": "CONFIG: expected YAML in ",
}


@pytest.mark.parametrize("line", FILES)
def test_what_is_wrong_in_a_file_is_one_line(line, tmp_path, capsys):
    tree = tiny(tmp_path / "out")
    tree.pop(line.partition(":")[0], None)
    path = write(tree, tmp_path / "compare.yaml")
    path.write_text(f"{path.read_text()}\n{line}\n")
    assert main(["compare", str(path)]) == 2
    printed = capsys.readouterr().err
    assert FILES[line] in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize(("content", "found"), [(b"", "nothing"), (b"- 1", "[1]"), (b"\xff\xfe", "invalid start byte")])
def test_a_file_that_is_no_config_is_one_line(content, found, tmp_path, capsys):
    path = tmp_path / "compare.yaml"
    path.write_bytes(content)
    assert main(["compare", str(path)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("tokenmix compare: CONFIG: expected ")
    assert f"found {found}" in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize("below", ["", "/deeper"])
def test_an_output_that_is_a_file_is_named(below, tmp_path, capsys):
    path = write(quick(tmp_path / "file"), tmp_path / "compare.yaml")
    (tmp_path / "file").write_text("mine")
    assert main(["compare", str(path), "--output", f"{tmp_path}/file{below}"]) == 2
    assert f"output: expected a folder, found the file {tmp_path / 'file'}\n" in capsys.readouterr().err


def test_one_folder_one_comparison(tmp_path):
    fcntl = pytest.importorskip("fcntl", reason="no file locks on this system")
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process is running a comparison"):
            run_comparison(load(tiny(tmp_path / "out"), tmp_path), console=QUIET)


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
