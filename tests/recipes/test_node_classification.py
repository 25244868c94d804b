"""The recipe of node classification: its rows of expected.csv, resume, workers, processes and published configs."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from recipe_cases import COMPARISONS, RECIPES, load_recipe, rows_of

from fork_server import ForkServer
from killed_training import kill_training
from tokenmix.data.graphs import NodeData, load_graph, sources
from tokenmix.models.large_gt import LargeGTForNodeClassification
from tokenmix.training import parse_config
from tokenmix.training.graph_data import PreparedGraph
from tokenmix.training.graph_score import classify_nodes, over_seeds

FOLDER = RECIPES / "node_classification"
SHARED = Path(__file__).parents[3] / "shared" / "data"
FOLDERS = {"debian": SHARED / "debian_deps", "cora": SHARED / "cora"}


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_recipe(FOLDER / "train.py")


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((folder / "results.json").read_text())["rows"]}


@pytest.mark.parametrize("row", rows_of("node_classification"))
def test_expected(recipe: ModuleType, runs: dict[Any, Path], tmp_path: Path, row: dict[str, str]) -> None:
    """A row's value is a number, or the name of another model or baseline."""
    folder = FOLDERS.get(row["config"])
    if folder is not None and not folder.is_dir():
        pytest.skip(f"no copy of {row['config']} at {folder}")
    command = (row["config"], row["overrides"])
    if command not in runs:
        where = ["--output", str(tmp_path)] + ([] if folder is None else ["--data.folder", str(folder)])
        config = FOLDER / "configs" / f"{row['config']}.yaml"
        recipe.main(["--config", str(config), *shlex.split(row["overrides"]), *where])
        runs[command] = tmp_path
    found = results(runs[command])
    value = row["value"]
    bound = found[value][row["metric"]] if value in found else float(value)
    mine = found[row["stack"]][row["metric"]]
    assert COMPARISONS[row["comparison"]](mine, bound), f"{row['stack']}: {mine} {row['comparison']} {bound}"


TINY = """
models: {full: {}, local: {mode: local}}
model: {sample_size: 4, hidden_size: 8, num_attention_heads: 1, codes: 8, dropout: 0.2}
data: {name: cora}
training: {batch_size: 35, learning_rate: 1.0e-2, warmup_steps: 2, weight_decay: 0.0, log_steps: 2}
epochs: 3
seeds: [0, 1]
grid: [{}, {model.dropout: 0.5}]
baselines: [majority, mlp]
trials: 1
"""
needs_cora = pytest.mark.skipif(not FOLDERS["cora"].is_dir(), reason="no copy of Cora at ../shared/data")


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Arguments that train two tiny models on Cora, for a few steps, into `run`."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    where = ["--data.folder", str(FOLDERS["cora"]), "--output", str(tmp_path / "run")]
    return ["--config", str(tmp_path / "tiny.yaml"), *where]


ONE = ["--models", "{full: {}}", "--seeds", "[0]", "--grid", "[{}]", "--baselines", "[]"]


@needs_cora
def test_what_is_written(recipe: ModuleType, tiny: list[str], tmp_path: Path, capsys: Any) -> None:
    recipe.main(tiny)
    printed = " ".join(capsys.readouterr().out.split())
    run = tmp_path / "run"
    found = results(run)
    assert list(found) == ["majority", "mlp", "full", "local"]
    assert (run / "accuracy.png").stat().st_size > 5_000
    config, _ = parse_config(recipe.Config, ["--config", str(run / "config.yaml")])
    assert config == parse_config(recipe.Config, tiny)[0]
    graph = PreparedGraph(load_graph("cora", FOLDERS["cora"]), None, None, "")
    for name in ("full", "local"):
        row = found[name]
        assert (row["seeds"], row["trials"]) == (2, 2)
        assert f"{row['test']:.4f}" in printed
        trials = [json.loads((run / name / f"trial{i}_seed0" / "metrics.json").read_text()) for i in (0, 1)]
        best = max((0, 1), key=lambda i: trials[i]["metrics"]["val"])
        assert row["settings"] == config.grid[best]
        runs = [json.loads((run / name / f"trial{best}_seed{seed}" / "metrics.json").read_text()) for seed in (0, 1)]
        assert row["test"] == pytest.approx(over_seeds([one["metrics"] for one in runs])["test"])
        model = LargeGTForNodeClassification.from_pretrained(run / name / f"trial{best}_seed0" / "model")
        model.attach(graph.data.graph, graph.data.features)
        again = recipe.compute_metrics(model, graph, 0)
        assert again["test"] == pytest.approx(runs[0]["metrics"]["test"], abs=1e-6)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    recipe.main(tiny)  # nothing is trained again
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    with pytest.raises(ValueError, match="holds a run with"):
        recipe.main([*tiny, "--training.learning_rate", "0.5"])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "full" / "trial0_seed0" / "model" / "model.safetensors")


@needs_cora
def test_a_run_that_is_killed_goes_on_bit_for_bit(
    processes: ForkServer, recipe: ModuleType, tiny: list[str], tmp_path: Path
) -> None:
    """SIGKILL after the second checkpoint, by a process of its own; then the same command again."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    recipe.main([*tiny, *ONE, "--output", str(whole)])
    kill_training(processes, 10, [str(FOLDER / "train.py"), *tiny, *ONE, "--output", str(killed)])
    assert (killed / "full" / "trial0_seed0" / "checkpoint-8").is_dir()
    assert not (killed / "full" / "trial0_seed0" / "metrics.json").exists()
    recipe.main([*tiny, *ONE, "--output", str(killed)])
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(killed)[name]), name


@needs_cora
def test_a_run_that_lost_its_patience_does_not_go_on(
    recipe: ModuleType, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped early, and killed before the end was written: nothing is trained again; patience survives a kill too."""
    monkeypatch.setattr(recipe, "trainer_accuracy", lambda evaluated: {"accuracy": 0.5})
    impatient = [*tiny, *ONE, "--patience", "1", "--output", str(tmp_path / "run")]
    recipe.main(impatient)
    folder = tmp_path / "run" / "full" / "trial0_seed0"
    steps = json.loads((folder / "metrics.json").read_text())["metrics"]["steps"]
    assert steps == 8  # two epochs of four: the second was no better
    before = weights(tmp_path / "run")
    for stop in ("metrics.json", "checkpoint-8"):
        (folder / "metrics.json").unlink(missing_ok=True)
        if stop == "checkpoint-8":
            shutil.rmtree(folder / stop)  # as if it had been killed before the second epoch was over
        recipe.main(impatient)
        assert json.loads((folder / "metrics.json").read_text())["metrics"]["steps"] == steps
        for name, value in weights(tmp_path / "run").items():
            assert torch.equal(value, before[name]), name


@needs_cora
def test_workers_change_nothing(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    for workers in (0, 2):
        out = ["--output", str(tmp_path / f"workers{workers}")]
        recipe.main([*tiny, *ONE, *out, "--training.trainer", f"{{dataloader_num_workers: {workers}}}"])
    for name, value in weights(tmp_path / "workers0").items():
        assert torch.equal(value, weights(tmp_path / "workers2")[name]), name


@needs_cora
def test_chunks_change_no_logits(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    recipe.main([*tiny, *ONE])
    data: NodeData = load_graph("cora", FOLDERS["cora"])
    model = LargeGTForNodeClassification.from_pretrained(tmp_path / "run" / "full" / "trial0_seed0" / "model")
    model.attach(data.graph, data.features)
    collate = PreparedGraph(data, None, None, "").collator(model.config, 0, resample=False)
    nodes = torch.arange(0, data.graph.num_nodes, 7)
    whole, chunks = classify_nodes(model, collate, nodes), classify_nodes(model, collate, nodes, 50)
    torch.testing.assert_close(whole, chunks, atol=1e-5, rtol=1e-5)
    assert whole.shape == (len(nodes), 7)


@pytest.mark.slow
@needs_cora
def test_two_processes_train_as_one_does(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    """torchrun without a change of the recipe: the same batches over two processes, and an accuracy as good."""
    longer = [*ONE, "--epochs", "20", "--training.batch_size", "70", "--model.hidden_size", "32"]
    recipe.main([*tiny, *longer, "--output", str(tmp_path / "one")])
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *(str(FOLDER / "train.py"), *tiny, *longer, "--output", str(tmp_path / "two")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (results(tmp_path / name)["full"]["test"] for name in ("one", "two"))
    assert min(one, two) > 0.5
    assert abs(one - two) < 0.08


@pytest.mark.slow
def test_two_million_nodes_take_less_than_eight_gigabytes(tmp_path: Path) -> None:
    """Generated, aggregated to disk, sampled, trained on and scored, in a process of its own that tells its peak."""
    where = ["--data.folder", str(tmp_path / "graph"), "--output", str(tmp_path / "run")]
    command = [str(FOLDER / "train.py"), "--config", str(FOLDER / "configs" / "power_law.yaml"), *where]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    found = results(tmp_path / "run")["full"]
    assert "2,000,000 nodes" in json.loads((tmp_path / "run" / "results.json").read_text())["graph"]
    assert found["peak_gb"] < 8
    assert found["test"] > 0.3  # of 50 classes


@pytest.mark.parametrize("name", ["products", "snap_patents"])
def test_published_settings_build(recipe: ModuleType, name: str) -> None:
    config, _ = parse_config(recipe.Config, ["--config", str(FOLDER / "configs" / f"{name}.yaml")])
    from tokenmix.models.large_gt import LargeGTConfig

    with torch.device("meta"):
        fields = {"num_features": 100, "num_nodes": 2_449_029, "num_labels": 47, "position_size": 64}
        model = LargeGTForNodeClassification(LargeGTConfig(**fields, **config.model, **config.models["full"]))
    width, heads = config.model["hidden_size"], config.model["num_attention_heads"]
    assert model.model.local_half.qkv_proj.weight.shape == (3 * width * heads, width)
    assert model.model.global_half.quantiser.codebook().shape == (4096, 128)


@needs_cora
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (["--grid", "[{dropout: 0.1}]"], "grid: expected model.<field> or training.<field>.* found 'dropout'"),
        (["--grid", "[{}, {training.steps: 1}]"], "grid: .* found 'training.steps'"),
        (["--grid", "[{}, {model.dropout: 1.5}]"], "dropout: expected a probability below 1, found 1.5"),
        (["--grid", "[{}, {training.accumulation: 8}]"], "batch_size: expected a multiple"),
        (["--models", "{full: {}, wide: {hops: 1}}"], "models: wide expected fields of"),
        (["--models", "{mlp: {}}"], "models: expected names that no baseline has, found .'mlp'"),
        (["--seeds", "[]"], "seeds, grid: expected at least one of each"),
        (["--models.full.mode", "both"], "mode: expected one of full, local, global"),
        (["--models", "{}", "--baselines", "[]"], "models: expected at least one model or baseline"),
        (["--baselines", "[mpl]"], "mpl"),
        (["--data.name", "coar"], "coar"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    recipe: ModuleType, tiny: list[str], tmp_path: Path, change: list[str], expected: str
) -> None:
    with pytest.raises((ValueError, SystemExit), match=expected):
        recipe.main([*tiny, *change])
    assert not list((tmp_path / "run").glob("*/trial*"))


OWN = """
import dataclasses
from tokenmix.data.graphs import load_graph, register_graph

@register_graph("without_{part}")
def without(root, *, split_seed=0):
    sizes = dict(num_nodes=60, num_edges=100, num_features=3, communities=4, num_classes=4)
    data = load_graph("power_law", **sizes)
    return dataclasses.replace(data, {part}=data.{part}[:0])
"""


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_split_without_nodes_is_told_before_anything_is_trained(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))  # forgotten when the test ends
    (tmp_path / "own.py").write_text(OWN.format(part=part))
    graph = ["--config", str(FOLDER / "configs" / "smoke.yaml"), "--data.name", f"{tmp_path}/own.py:without_{part}"]
    with pytest.raises(ValueError, match=rf"data\.{part}: expected nodes, which .*, found none"):
        recipe.main([*graph, "--output", str(tmp_path / "run")])
    assert not list((tmp_path / "run").glob("*/trial*"))
