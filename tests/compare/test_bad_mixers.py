"""What becomes of mixers that fail, diverge, read the future, or need what a task does not give."""

from __future__ import annotations

from compare_cases import MIXERS, QUIET, load, quick, tiny, write

from tokenmix.cli import main
from tokenmix.compare.folder import read_results
from tokenmix.compare.runner import run_comparison


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


def test_a_look_at_the_future_is_found_or_declared(tmp_path):
    source = tmp_path / "mine.py"
    source.write_text(
        "import tokenmix\n"
        "class Peeks(tokenmix.TokenMixer):\n"
        "    causal, cost = 'always', 'L'\n"
        "    def mix(self, x, layout, state):\n"
        "        return x + x.roll(-1, 1)\n"
        "class Mean(tokenmix.TokenMixer):\n"
        "    causal, cost = 'never', 'L'\n"
        "    def mix(self, x, layout, state):\n"
        "        return x.mean(1, keepdim=True).expand_as(x)\n"
    )
    tree = quick(tmp_path / "out", portrait={"measure": True, "laws": False, "length": 16})
    tree["mixers"] |= {"p": {"mixer": f"{source}:Peeks"}, "n": {"mixer": f"{source}:Mean"}}
    tree["stacks"] = {"attention": "a", "peeks": "p", "mean": "n"}
    results = run_comparison(load(tree, tmp_path), console=QUIET)
    said = {stack: (x["reads_future"], x["says_causal"]) for stack, x in results["portraits"].items()}
    assert said == {"attention": (False, True), "peeks": (True, True), "mean": (True, False)}
    verdicts = {(row["task"], row["stack"]): row["verdict"] for row in results["summary"]}
    assert verdicts["recall", "peeks"] == "not counted"
    assert verdicts["parity", "peeks"] != "not counted"  # the future of a row gives no answer of the row away
    told = [sentence for sentence in results["findings"] if "reads the future" in sentence]
    assert len(told) == 1
    assert told[0].startswith("Warning: peeks reads the future")
    again = run_comparison(load(tree, tmp_path), console=QUIET)  # its portraits are those in the folder
    assert again["portraits"] == results["portraits"]
