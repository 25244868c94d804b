"""The multimodal recipe: its rows of expected.csv, what it writes, resume, both kinds of pictures, retrieval."""

import json
import math
import shlex
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
from tokenmix.data.modality_rows import PairTokens
from tokenmix.models import MixtureOfTransformersConfig, MixtureOfTransformersForCausalLM
from tokenmix.training import parse_config

FOLDER = RECIPES / "multimodal"
STAMPS = Path(__file__).parents[3] / "shared" / "data" / "tuxpaint_mini"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_recipe(FOLDER / "train.py")


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((folder / "results.json").read_text())["rows"]}


@pytest.mark.parametrize("row", rows_of("multimodal"))
def test_expected(recipe: ModuleType, runs: dict[Any, Path], tmp_path: Path, row: dict[str, str]) -> None:
    """A row's value is a number, or the name of another model or baseline."""
    command = (row["config"], row["overrides"])
    if command not in runs:
        config = FOLDER / "configs" / f"{row['config']}.yaml"
        main = load_recipe(FOLDER / "retrieve.py").main if row["config"] == "retrieval" else recipe.main
        main(["--config", str(config), *shlex.split(row["overrides"]), "--output", str(tmp_path)])
        runs[command] = tmp_path
    found = results(runs[command])
    value = row["value"]
    bound = found[value][row["metric"]] if value in found else float(value)
    mine = found[row["stack"]][row["metric"]]
    assert COMPARISONS[row["comparison"]](mine, bound), f"{row['stack']}: {mine} {row['comparison']} {bound}"


TINY = """
models: {dense: {untied: false}, mot: {}}
model:
  {hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, mixers: {a: {mixer: attention, heads: 2, rope: true}}}
data: {options: {font: DejaVuSansDisplay.ttf}, size: 16, speech: none, codes: 8, tokeniser_steps: 4}
training: {steps: 6, batch_size: 4, warmup_steps: 2, log_steps: 2, save_steps: 3}
evaluations: 2
drawn: 3
"""


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Arguments that train two tiny models on 44 characters, for a few steps, into `run`."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    return ["--config", str(tmp_path / "tiny.yaml"), "--output", str(tmp_path / "run")]


def test_what_is_written(recipe: ModuleType, tiny: list[str], tmp_path: Path, capsys: Any) -> None:
    recipe.main(tiny)
    printed, run = " ".join(capsys.readouterr().out.split()), tmp_path / "run"
    found = results(run)
    assert list(found)[-2:] == ["dense", "mot"]
    assert found["dense"]["flops_per_token"] == found["mot"]["flops_per_token"]
    assert found["mot"]["parameters"] > found["dense"]["parameters"]
    for name in ("dense", "mot"):
        assert f"{found[name]['image_loss']:.4f}" in printed
        history = json.loads((run / name / "metrics.json").read_text())["history"]
        assert sum("eval_image_loss" in line for line in history) == 2
    shares = json.loads((run / "results.json").read_text())["shares"]["mot"]
    assert set(shares) == {f"{name}_{cost}" for name in ("text", "image") for cost in ("flops", "seconds")}
    assert "mot reaches the final validation loss of dense at this share of its FLOPs" in printed
    assert all((run / name).stat().st_size > 5_000 for name in ("losses.png", "pictures.png"))
    config, _ = parse_config(recipe.Config, ["--config", str(run / "config.yaml")])
    assert config == parse_config(recipe.Config, tiny)[0]
    pairs = recipe.prepare_pairs(config.data, run)  # the tokenisers of the first start
    model = MixtureOfTransformersForCausalLM.from_pretrained(run / "mot" / "model")
    again = recipe.compute_metrics(config, model, pairs)
    for key in ("text_loss", "image_loss", "picture_error", "first_word"):
        assert again[key] == pytest.approx(found["mot"][key], rel=1e-4)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    recipe.main(tiny)  # nothing is trained again
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    with pytest.raises(ValueError, match="holds a run with"):
        recipe.main([*tiny, "--training.learning_rate", "0.5"])


def test_a_run_that_is_killed_goes_on_bit_for_bit(
    processes: ForkServer, recipe: ModuleType, tiny: list[str], tmp_path: Path
) -> None:
    """SIGKILL in the tokeniser's training, and again in the second model's; then the same command to its end."""
    from safetensors.torch import load_file

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    recipe.main([*tiny, "--output", str(whole)])
    script = [str(FOLDER / "train.py"), *tiny, "--output", str(killed)]
    kill_training(processes, 3, script)
    assert not (killed / "image_tokeniser" / "config.json").exists()
    kill_training(processes, 4 + 6 + 5, script)
    assert (killed / "dense" / "metrics.json").exists()
    assert (killed / "mot" / "checkpoint-3").is_dir()
    recipe.main([*tiny, "--output", str(killed)])
    for path in ("image_tokeniser", "dense/model", "mot/model"):
        kept = load_file(killed / path / "model.safetensors")
        for name, value in load_file(whole / path / "model.safetensors").items():
            assert torch.equal(value, kept[name]), (path, name)


def test_pictures_as_patches(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    recipe.main([*tiny, "--data.pictures", "patches", "--models", "{mot: {}, dense: {untied: false}}"])
    found = results(tmp_path / "run")
    assert 0 < found["mot"]["image_loss"] < 10  # squared error of the velocity
    assert 0 <= found["mot"]["picture_error"] <= 1
    assert found["true picture, en- and decoded"]["picture_error"] == pytest.approx(0, abs=1e-9)


def test_real_stamps_with_what_is_said_of_them(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    """Pictures, captions and recordings of Tux Paint: three modalities."""
    if not STAMPS.is_dir():
        pytest.skip(f"no copy of Tux Paint's stamps at {STAMPS}")
    data = ["--data.name", "tux_paint", "--data.folder", str(STAMPS), "--data.speech", "recorded"]
    recipe.main([*tiny, *data, "--data.options", "{languages: [es]}", "--models", "{dense: {untied: false}, mot: {}}"])
    found = results(tmp_path / "run")["mot"]
    assert all(0 < found[f"{name}_loss"] < 20 for name in ("text", "image", "speech"))


def test_retrieval(tiny: list[str], tmp_path: Path, capsys: Any) -> None:
    recipe = load_recipe(FOLDER / "retrieve.py")
    mixers = "{a: {mixer: attention, heads: 2, causal: false}}"
    arguments = [
        *("--model", f"{{hidden_size: 16, mixers: {mixers}}}", "--data.speech", "none", "--data.size", "16"),
        *("--data.options", "{font: DejaVuSansDisplay.ttf}", "--patch_size", "8", "--output", str(tmp_path / "run")),
        *("--training.steps", "3", "--training.batch_size", "8", "--training.warmup_steps", "1"),
    ]
    recipe.main(arguments)
    found = results(tmp_path / "run")
    assert list(found) == ["chance", "pixels, ridge to words", "late interaction", "pooled"]
    assert all(0 <= found[name]["i2t_R@5"] <= 1 for name in found)
    assert 1 / 7 <= found["chance"]["t2i_R@1"] < 0.3  # of seven, of which some look alike
    assert f"{found['pooled']['i2t_R@10']:.3f}" in capsys.readouterr().out


def test_wrong_data_leave_no_folder(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    """So that the corrected command may have the same one."""
    for more, message in (
        (["--data.name", "unicode_glifs"], "unknown pairs 'unicode_glifs'; did you mean 'unicode_glyphs'"),
        (["--data.name", "image_captions", "--data.options", "{}", "--data.folder", str(tmp_path / "none")], "none"),
        (["--data.limit", "-1"], "limit: expected a positive integer, found -1"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            recipe.main([*tiny, *more, "--output", str(tmp_path / "run")])
        assert not (tmp_path / "run").exists()


def test_refuses_before_it_trains(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    for override, message in (
        (["--models", "{dense: {norm_placement: none}}"], "norm_placement: expected one of"),
        (["--models", "{dense: {}, odd: {untied: 3}}"], "untied"),
        (["--data.name", "unicode_glyph"], "did you mean 'unicode_glyphs'"),
        (["--against", "densse"], "against: expected one of models"),
        (["--data.patch_size", "5"], "patch_size: expected a divisor of size=16, found 5"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            recipe.main([*tiny, *override, "--output", str(tmp_path / message[:6])])
        assert not list((tmp_path / message[:6]).rglob("checkpoint-*"))


@pytest.mark.slow
def test_two_processes_train_as_one_does(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    """torchrun without a change of the recipe, its tokenisers too: the losses of one process within a tenth."""
    recipe.main([*tiny, "--output", str(tmp_path / "one")])
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *(str(FOLDER / "train.py"), *tiny, "--output", str(tmp_path / "two")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (results(tmp_path / name)["mot"] for name in ("one", "two"))
    for name in ("text_loss", "image_loss"):
        assert two[name] == pytest.approx(one[name], rel=0.1)


def test_towers_are_loaded_and_go_on(tmp_path: Path) -> None:
    """A run that was killed after its last update finishes, and what it wrote is a model."""
    recipe = load_recipe(FOLDER / "retrieve.py")
    arguments = [
        *("--model", "{hidden_size: 16, mixers: {a: {mixer: attention, heads: 2, causal: false}}}"),
        *("--data.speech", "none", "--data.size", "16", "--data.options", "{font: DejaVuSansDisplay.ttf}"),
        *(
            "--interactions",
            "[token]",
            "--output",
            str(tmp_path),
            "--training.steps",
            "2",
            "--training.batch_size",
            "8",
        ),
    ]
    recipe.main(arguments)
    before = results(tmp_path)["late interaction"]
    (tmp_path / "token_seed0" / "metrics.json").unlink()
    recipe.main(arguments)
    after = results(tmp_path)["late interaction"]
    assert {k: v for k, v in after.items() if "R@" in k} == {k: v for k, v in before.items() if "R@" in k}
    towers = recipe.RetrievalTowers.from_pretrained(tmp_path / "token_seed0" / "model")
    assert (towers.config.patch, towers.config.interaction) == (64, "token")
    with pytest.raises(ValueError, match=r"data\.codes: expected it left out"):
        recipe.main([*arguments, "--data.codes", "8", "--output", str(tmp_path / "other")])


def test_published_setting_builds(recipe: ModuleType) -> None:
    config, _ = parse_config(recipe.Config, ["--config", str(FOLDER / "configs" / "chameleon_7b.yaml")])
    tokens = PairTokens(["a"], torch.zeros(1, 1024, dtype=torch.int64), config.data.codes)
    sizes = {}
    for name, fields in config.models.items():
        settings = MixtureOfTransformersConfig(modalities=tokens.modalities, **config.model, **fields)
        with torch.device("meta"):
            sizes[name] = MixtureOfTransformersForCausalLM(settings).num_parameters()
    assert 6.2e9 < sizes["dense"] < 7.2e9
    assert math.isclose(sizes["mot"] / sizes["dense"], 2, rel_tol=0.02)
