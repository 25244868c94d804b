"""The language modelling recipe, run as a user runs it: expected results, outputs, mistakes, and exact resume."""

import csv
import importlib.util
import json
import math
import operator
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from matplotlib import image
from transformers import AutoModelForCausalLM, AutoTokenizer

import tokenmix.models  # registers the Auto classes
from tokenmix.data import TokenBlocks, text_files
from tokenmix.training import parse_config, score_text

RECIPES = Path(__file__).parents[2] / "recipes"
TRAIN = RECIPES / "language_modeling" / "train.py"
CONFIGS = sorted((RECIPES / "language_modeling" / "configs").glob("*.yaml"))
with (RECIPES / "expected.csv").open(newline="") as file:
    EXPECTED = list(csv.DictReader(file))
COMPARISONS = {"<": operator.lt, ">": operator.gt, "==": operator.eq}

TINY = """
mixers:
  a: {mixer: attention, heads: 2}
  l: {mixer: ls_attention, heads: 2, long_heads: 1, window: 8, monitor: true}
  m: {mixer: mamba2, state_size: 4, head_dim: 8}
stacks: {hybrid: ma, attention: a}
data: {context: 32}
model: {hidden_size: 16, num_hidden_layers: 2, dropout: 0.1}
training: {steps: 4, batch_size: 4, warmup_steps: 2, log_steps: 2, save_steps: 50}
prompt: "4"
"""


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("language_modeling_train", TRAIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Arguments that train two tiny stacks on the numbers up to 1,500, for a few steps, into `run`."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "numbers.txt").write_text("".join(f"{i}\n" for i in range(1500)))
    files = ["--data.files", str(tmp_path / "numbers.txt")]
    return ["--config", str(tmp_path / "tiny.yaml"), *files, "--output", str(tmp_path / "run")]


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def losses(folder: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in metrics(folder)["history"] if "loss" in line}


# ---- expected results


@pytest.fixture(scope="module")
def runs() -> dict[tuple[str, str], Path]:
    """Folders of runs by config and overrides: rows with the same command share one."""
    return {}


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[pytest.mark.slow] if row["speed"] == "slow" else [], id=row["what"]) for row in EXPECTED],
)
def test_expected(recipe: ModuleType, runs: dict[tuple[str, str], Path], tmp_path: Path, row: dict[str, str]) -> None:
    """A row's value is a number or the name of an n-gram baseline; the stack `*` is every stack."""
    assert row["recipe"] == "language_modeling"
    command = (row["config"], row["overrides"])
    if command not in runs:
        config = TRAIN.parent / "configs" / f"{row['config']}.yaml"
        recipe.main(["--config", str(config), *shlex.split(row["overrides"]), "--output", str(tmp_path)])
        runs[command] = tmp_path
    run = runs[command]
    (baselines,) = (json.loads(path.read_text()) for path in run.glob("baselines-*.json"))
    bound = float(baselines.get(row["value"], row["value"]))
    folders = [path.parent for path in run.glob("*/metrics.json")] if row["stack"] == "*" else [run / row["stack"]]
    assert folders
    for folder in folders:
        found = metrics(folder)["metrics"][row["metric"]]
        assert COMPARISONS[row["comparison"]](found, bound), f"{folder.name}: {found} {row['comparison']} {bound}"


# ---- what a run writes


def test_outputs(recipe: ModuleType, tiny: list[str], tmp_path: Path, capsys: Any) -> None:
    recipe.main([*tiny, "--mixers.a.rope=true"])
    run = tmp_path / "run"
    config, _ = parse_config(recipe.Config, ["--config", str(run / "config.yaml")])
    assert config == parse_config(recipe.Config, [*tiny, "--mixers.a.rope=true"])[0]
    assert config.mixers["a"] == {"mixer": "attention", "heads": 2, "rope": True}
    assert image.imread(run / "loss.png").shape[1] > 300
    assert not (run / "max_logits.png").exists()
    corpus = text_files(tmp_path / "numbers.txt")
    printed = capsys.readouterr().out
    assert corpus.description.split(":")[0] in printed
    for stack, layers in {"hybrid": ["Mamba2", "Attention"], "attention": ["Attention", "Attention"]}.items():
        model = AutoModelForCausalLM.from_pretrained(run / stack / "model")
        tokenizer = AutoTokenizer.from_pretrained(run / stack / "model")
        assert isinstance(model, tokenmix.models.MixerForCausalLM)
        assert [type(mixer).__name__ for mixer in model.stack.mixers] == layers
        test = TokenBlocks.from_corpus(corpus, "test", context=32, tokenizer=tokenizer)
        found = metrics(run / stack)["metrics"]
        scores = score_text(model, test, batch_size=3)
        assert scores["bits_per_byte"] == pytest.approx(found["bits_per_byte"], rel=1e-5)
        assert scores["perplexity"] == pytest.approx(found["perplexity"], rel=1e-5)
        assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())
        assert found["tokens_per_second"] == pytest.approx(4 * 4 * 32 / found["train_seconds"])
        assert f"{found['bits_per_byte']:.3f}" in printed
        sample = metrics(run / stack)["sample"]
        assert sample.startswith("4")
        assert len(sample) > 50
        assert list(losses(run / stack)) == [2, 4]
    assert found["state_bytes"] == 2 * 2 * 32 * 16 * 4  # attention: layers, keys and values, context, width, float32


def test_learns(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    """The score, printed with the loss, is that of a trained model: far below the 8 bits of a random one."""
    recipe.main([*tiny, "--training.steps", "30", "--training.learning_rate", "0.02", "--training.log_steps", "10"])
    for stack in ("hybrid", "attention"):
        assert metrics(tmp_path / "run" / stack)["metrics"]["bits_per_byte"] < 5
        assert losses(tmp_path / "run" / stack)[30] < losses(tmp_path / "run" / stack)[10] - 0.5


@pytest.mark.skipif(torch.accelerator.is_available(), reason="about bfloat16 on the processor")
def test_bfloat16(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    """Trained with autocast; scored, sampled and saved in float32, so the saved model gives the score to 1e-6."""
    tiny += ["--training.steps", "20", "--training.learning_rate", "0.02"]  # weights at which bfloat16 would show
    recipe.main([*tiny, "--training.bf16", "true"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "hybrid" / "model")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    config, _ = parse_config(recipe.Config, [*tiny])
    _, _, _, test = recipe.build_data(config.data)
    found = metrics(tmp_path / "run" / "hybrid")["metrics"]["bits_per_byte"]
    assert score_text(model, test, batch_size=4)["bits_per_byte"] == pytest.approx(found, rel=1e-6)
    recipe.main([*tiny, "--output", str(tmp_path / "float32")])
    assert losses(tmp_path / "float32" / "hybrid") != losses(tmp_path / "run" / "hybrid")


@pytest.mark.parametrize("stacks", ["{ls: l}", "{plain: a, ls: al}"], ids=["one stack", "the second of two"])
def test_max_logits(recipe: ModuleType, tiny: list[str], tmp_path: Path, stacks: str) -> None:
    recipe.main([*tiny, "--stacks", stacks])
    assert image.imread(tmp_path / "run" / "max_logits.png").shape[1] > 300
    layers = ["0", "1"] if stacks == "{ls: l}" else ["1"]
    keys = {f"max_logit/{layer}/{kind}" for layer in layers for kind in ("8", "all")}
    for line in metrics(tmp_path / "run" / "ls")["history"]:
        if "loss" in line:
            assert {key for key in line if key.startswith("max_logit/")} == keys
            assert all(0 < line[key] < 100 for key in keys)


def test_monitor_config(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    """The published config, made small: every layer of both stacks is in the log and in the plot."""
    sizes = ["--model.num_hidden_layers", "2", "--model.hidden_size", "24", "--data.context", "32"]
    short = ["--training.steps", "2", "--training.log_steps", "1", "--training.batch_size", "4"]
    recipe.main(["--config", str(TRAIN.parent / "configs" / "monitor.yaml"), *tiny[2:], *sizes, *short])
    assert (tmp_path / "run" / "max_logits.png").stat().st_size > 1000
    for stack, kinds in {"attention": ["all"], "ls_attention": ["50", "all"]}.items():
        line = metrics(tmp_path / "run" / stack)["history"][0]
        keys = sorted(key for key in line if key.startswith("max_logit/"))
        assert keys == [f"max_logit/{layer}/{kind}" for layer in (0, 1) for kind in kinds]


def test_bpe_packed_files(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    """Byte-pair encoding, packed documents, and files by split; the score goes by the bytes of the test file."""
    text = "".join(f"the number {i} and the next number {i + 1}\n" for i in range(200)).encode()
    (tmp_path / "train.txt").write_bytes(b"\n\x00\n".join([text] * 3))
    (tmp_path / "test.txt").write_bytes(text[:1500])
    files = f"{{train: {tmp_path / 'train.txt'}, test: {tmp_path / 'test.txt'}}}"
    bpe = ["--data.tokenizer", "bpe", "--data.vocab_size", "300", "--data.packed", "true"]
    recipe.main([*tiny[:2], *tiny[4:], "--data.files", files, *bpe, "--stacks", "{hybrid: ma}"])
    folder = tmp_path / "run" / "hybrid"
    model, tokenizer = (c.from_pretrained(folder / "model") for c in (AutoModelForCausalLM, AutoTokenizer))
    assert len(tokenizer) == model.config.vocab_size == 300
    tokens = tokenizer(text[:1500].decode())["input_ids"]
    assert len(tokens) < 1000
    found = metrics(folder)["metrics"]
    size = 1500 - len(tokenizer.decode(tokens[:1]).encode())
    bits = math.log2(found["perplexity"]) * (len(tokens) - 1) / size
    assert found["bits_per_byte"] == pytest.approx(bits, rel=1e-6)
    config, _ = parse_config(recipe.Config, ["--config", str(tmp_path / "run" / "config.yaml")])
    corpus, _, train, test = recipe.build_data(config.data)
    assert corpus.documents["train"] == 3
    assert len(set(train.segments.tolist())) == 3
    assert test.scored_bytes == size


# ---- mistakes of a user


def refused(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> str:
    """What a call raises before it would train or write anything."""

    def no_training(*_: Any, **__: Any) -> None:
        raise AssertionError("training has started")

    monkeypatch.setattr(recipe, "train_stack", no_training)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        recipe.main(arguments)
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["--mixers.a.mixer", "atention"], ["mixer: unknown name 'atention'", "did you mean 'attention'"]),
        (["--mixers.a.headz", "2"], ["headz: not an argument of mixer 'attention'", "did you mean 'heads'"]),
        (["--mixers.a.heads", "3"], ["heads: expected a divisor of dim=16, found 3"]),
        (["--mixers.l.window", "0", "--stacks.ls", "l"], ["window: expected a positive integer, found 0"]),
        (["--stacks", "{one: ax}"], ["pattern: expected letters of mixers ['a', 'l', 'm'], found ['x'] in 'ax'"]),
        (["--stacks.last", "x"], ["pattern: expected letters of mixers ['a', 'l', 'm'], found ['x'] in 'x'"]),
        (["--stacks", "{one: ''}"], ["pattern: expected at least one letter, found an empty string"]),
        (["--stacks", "{}"], ["stacks: expected at least one", "found none"]),
        (["--data.files.train", "{tmp}/nowhere.txt"], ["train: expected a file", "found none at", "nowhere.txt"]),
        (["--data.files", "{tmp}/nowhere.txt"], ["train: expected a file", "found none at", "nowhere.txt"]),
        (
            ["--data.files", "{tmp}/empty.txt"],
            ["train: expected a file with text", "found the empty file", "empty.txt"],
        ),
        (["--data.files", "{trian: x}"], ["files: expected train", "found ['trian']"]),
        (["--data.context", "1"], ["context: expected at least 2 tokens, found 1"]),
        (["--data.test_bytes", "20"], ["test split", "expected at least one context of 32 tokens, found 20"]),
        (["--data.overlap", "32"], ["overlap: expected 1 to context - 1 = 31, found 32"]),
        (["--training.steps", "0"], ["steps: expected at least 1, found 0"]),
        (["--training.trainer.learning_rate", "1"], ["trainer: expected keywords that have no field", "learning_rate"]),
        (["--training.batch_size", "0"], ["batch_size: expected a multiple of", "found 0"]),
        (["--training.schedule", "cosin"], ["cosin is not a valid SchedulerType", "cosine"]),
    ],
    ids=lambda value: " ".join(value) if str(value[0]).startswith("--") else "",
)
def test_mistakes(
    recipe: ModuleType, tiny: list[str], tmp_path: Path, monkeypatch: Any, overrides: Any, parts: Any
) -> None:
    """Each is refused before any training, and leaves no folder that would refuse the mended command."""
    (tmp_path / "empty.txt").touch()
    message = refused(recipe, monkeypatch, [*tiny, *(value.replace("{tmp}", str(tmp_path)) for value in overrides)])
    for part in parts:
        assert part in message
    assert not (tmp_path / "run").exists()


def test_misspelt_key(recipe: ModuleType, tiny: list[str], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY.replace("hidden_size", "hiden_size"))
    with pytest.raises(SystemExit) as exit:
        recipe.main(tiny)
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert "'hiden_size'" in error
    assert "did you mean 'model.hidden_size'" in error
    assert not (tmp_path / "run").exists()


def test_another_config_in_the_same_folder(
    recipe: ModuleType, tiny: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    recipe.main([*tiny, "--training.steps", "1"])
    message = refused(recipe, monkeypatch, [*tiny, "--training.steps", "2"])
    assert message.startswith("output: ")
    for part in (str(tmp_path / "run"), "'steps: 1'", "found 'steps: 2'", "choose another --output"):
        assert part in message


# ---- an interrupted training


def is_whole(checkpoint: Path) -> bool:
    """Whether its last file is there to the end."""
    try:
        return bool(json.loads((checkpoint / "trainer_state.json").read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return False


def kill_after_checkpoint(arguments: list[str], folder: Path) -> list[str]:
    """Start the recipe as a process, SIGKILL it once a folder holds a whole checkpoint; the lines that it printed.

    The pipe is small and read byte by byte, so the process waits for its reader and cannot be more than 4 kB of
    log, some 40 steps, ahead of it.
    """
    process = subprocess.Popen(
        [sys.executable, str(TRAIN), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        pipesize=4096,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    lines = []
    with process:
        assert process.stdout is not None
        while line := process.stdout.readline():
            lines.append(line.decode(errors="replace"))
            if any(is_whole(checkpoint) for checkpoint in folder.glob("checkpoint-*")):
                process.kill()
                break
    assert process.returncode == -9, "".join(lines)
    return lines


def test_interrupted_training_resumes_exactly(
    recipe: ModuleType, tiny: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    """Killed in the first stack, started again, killed in the second, started again: as if never interrupted."""
    arguments = [*tiny, "--training.steps", "70", "--training.save_steps", "10", "--training.log_steps", "1"]
    arguments += ["--training.trainer.disable_tqdm", "true"]
    recipe.main([*arguments, "--output", str(tmp_path / "whole")])
    run, whole = tmp_path / "run", tmp_path / "whole"

    kill_after_checkpoint(arguments, run / "hybrid")
    assert not (run / "hybrid" / "metrics.json").exists()
    (run / "hybrid" / "checkpoint-65").mkdir()  # as if killed while it was written
    (run / "hybrid" / "checkpoint-65" / "model.safetensors").write_bytes(b"half")

    lines = kill_after_checkpoint(arguments, run / "attention")
    logged = [line for line in lines if line.startswith("{'loss'")]
    second = next(i for i, line in enumerate(lines) if "attention: a" in line)
    assert 0 < len([line for line in lines[:second] if line in logged]) <= 60  # it went on and did not start anew
    assert (run / "hybrid" / "metrics.json").is_file()
    assert not (run / "attention" / "metrics.json").exists()
    first = {path: path.stat().st_mtime_ns for path in (run / "hybrid").rglob("*")}

    recipe.main(arguments)
    assert {path: path.stat().st_mtime_ns for path in (run / "hybrid").rglob("*")} == first
    for stack in ("hybrid", "attention"):
        files = [folder / stack / "model" / "model.safetensors" for folder in (run, whole)]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert list(losses(run / stack)) == list(range(1, 71))
        assert losses(run / stack) == losses(whole / stack)
        assert metrics(run / stack)["sample"] == metrics(whole / stack)["sample"]

    monkeypatch.setattr(recipe, "train_or_resume", None)  # a third start would fail if it trained
    (run / "loss.png").unlink()
    recipe.main(arguments)
    assert (run / "loss.png").is_file()


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_killed_after_its_last_checkpoint(recipe: ModuleType, tiny: list[str], tmp_path: Path, schedule: str) -> None:
    """Between the last checkpoint and the results: nothing is trained further, and the time is that of training."""
    arguments = [*tiny, "--stacks", "{attention: a}", "--training.schedule", schedule]
    recipe.main(arguments)
    folder = tmp_path / "run" / "attention"
    before, weights = metrics(tmp_path / "run" / "attention"), (folder / "model" / "model.safetensors").read_bytes()
    (folder / "metrics.json").unlink()
    (folder / "model" / "model.safetensors").unlink()
    recipe.main(arguments)
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-4"]
    assert (folder / "model" / "model.safetensors").read_bytes() == weights
    after = metrics(folder)
    assert after["metrics"]["bits_per_byte"] == before["metrics"]["bits_per_byte"]
    assert after["metrics"]["train_seconds"] == pytest.approx(before["metrics"]["train_seconds"], rel=0.5)
    assert after["sample"] == before["sample"]


def test_fewer_places_than_a_sample_has_tokens(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    places = ["--model.position", "learned", "--model.max_position_embeddings", "32"]
    recipe.main([*tiny, "--stacks", "{attention: a}", *places])
    sample = metrics(tmp_path / "run" / "attention")["sample"]
    assert sample.startswith("4")
    assert 1 < len(sample.encode()) <= 3 * 32


def test_bpe_baselines_are_over_tokens_too(recipe: ModuleType, tiny: list[str], tmp_path: Path, capsys: Any) -> None:
    bpe = ["--data.tokenizer", "bpe", "--data.vocab_size", "300", "--stacks", "{attention: a}"]
    recipe.main([*tiny, *bpe])
    printed = capsys.readouterr().out
    assert "bigram of tokens" in printed
    assert "6-gram of bytes" in printed


@pytest.mark.slow  # two processes that import torch
def test_two_processes_train_as_one(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    arguments = [*tiny, "--stacks", "{attention: a}", "--model.dropout", "0.0"]
    recipe.main([*arguments, "--output", str(tmp_path / "one")])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(TRAIN), *arguments]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("sample of attention") == 1  # one process reports
    one, two = (metrics(tmp_path / name / "attention")["metrics"] for name in ("one", "run"))
    assert two["bits_per_byte"] == pytest.approx(one["bits_per_byte"], abs=1e-3)


# ---- the published configs


class Vocabulary:
    """All that a model needs to know of a tokenizer."""

    bos_token_id, eos_token_id, pad_token_id = 256, 257, 258

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")  # gradient_checkpointing: the name users know
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_build(recipe: ModuleType, tmp_path: Path, path: Path) -> None:
    """Every stack of every config on the meta device, with GAM's published size."""
    config, _ = parse_config(recipe.Config, ["--config", str(path)])
    config.training.arguments(tmp_path)
    size = 259 if config.data.tokenizer == "bytes" else config.data.vocab_size
    parameters = {}
    for stack in config.stacks:
        with torch.device("meta"):
            model = recipe.build_model(config, stack, Vocabulary(size))
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
        assert len(model.stack.layers) == config.model.num_hidden_layers
        parameters[stack] = model.num_parameters()
    if path.stem == "paper_gam":
        assert parameters["gam"] == 22_599_680
    assert Path(config.output).name == path.stem
