"""The speech recognition recipe on tones: what it writes, mistakes before training, bad files, and an exact resume."""

import shlex
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import image
from recipe_cases import COMPARISONS, RECIPES, load_recipe, metrics, rows_of
from transformers import pipeline

from fork_server import ForkServer
from killed_training import kill_training
from tokenmix.data.speech import build_ctc_tokenizer, read_audio
from tokenmix.training import parse_config

FOLDER = RECIPES / "asr"
RATE = 8000

TINY = """
mixers:
  b: {mixer: bidirectional, inner: {mixer: mamba2, head_dim: 16, state_size: 8, expand: 1}}
  a: {mixer: attention, heads: 2, rope: true, causal: false}
models:
  mamba: {pattern: b}
  attention: {pattern: a}
  samba: {pattern: b, decoder: true, start_from: mamba, tasks: [more], num_decoder_layers: 1,
          decoder_mixers: {m: {mixer: mamba2, head_dim: 16, state_size: 8}},
          cross_mixer: {mixer: mamba2, head_dim: 16, state_size: 8}}
tasks:
  first: {}
  more: {start_from: first, training: {steps: 3}}
model: {hidden_size: 32, num_hidden_layers: 1, sampling_rate: 8000, num_mel_bins: 20, normalise: utterance}
data: {name: fsdd}
training: {steps: 2, batch_size: 4, learning_rate: 2.0e-3, warmup_steps: 2, log_steps: 2, save_steps: 50,
           trainer: {eval_strategy: steps, eval_steps: 2, disable_tqdm: true}}
"""


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_recipe(FOLDER / "train.py")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ "Digits", each a chord of its own, in the layout of the Free Spoken Digit Dataset: 60 to train, 20 to test."""
    import soundfile

    folder = tmp_path_factory.mktemp("clips")
    noise = np.random.default_rng(0)
    for digit in range(10):
        for speaker, pitch in (("ann", 1.0), ("bob", 1.1)):
            for repetition in (4, 5, 6, 7):
                time = np.arange(int(RATE * (0.3 + 0.02 * repetition))) / RATE
                tone = sum(np.sin(2 * np.pi * pitch * f * time) for f in (200 + 90 * digit, 2000 - 110 * digit))
                samples = 0.2 * tone + 0.01 * noise.standard_normal(len(time))
                soundfile.write(folder / f"{digit}_{speaker}_{repetition}.wav", samples, RATE)
    return folder


@pytest.fixture
def tiny(clips: Path, tmp_path: Path) -> list[str]:
    """Arguments that train on the clips."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    return [
        *("--config", str(tmp_path / "tiny.yaml"), "--data.folder", str(clips)),
        *("--output", str(tmp_path / "run")),
    ]


@pytest.mark.parametrize("row", rows_of("asr"))
def test_expected(recipe: ModuleType, runs: dict[Any, Path], tmp_path: Path, row: dict[str, str]) -> None:
    """A row's metric is task/split/name, and its stack a model."""
    command = (row["config"], row["overrides"])
    if command not in runs:
        config = FOLDER / "configs" / f"{row['config']}.yaml"
        recipe.main(["--config", str(config), *shlex.split(row["overrides"]), "--output", str(tmp_path)])
        runs[command] = tmp_path
    task, metric = row["metric"].split("/", 1)
    found = metrics(runs[command] / row["stack"] / task)["metrics"][metric]
    assert COMPARISONS[row["comparison"]](found, float(row["value"])), found


def test_what_is_written(recipe: ModuleType, tiny: list[str], clips: Path, tmp_path: Path, capsys: Any) -> None:
    recipe.main(tiny)
    printed = capsys.readouterr().out
    run = tmp_path / "run"
    assert image.imread(run / "curves.png").shape[1] > 300
    for name, tasks in {"mamba": ["first", "more"], "attention": ["first", "more"], "samba": ["more"]}.items():
        assert sorted(path.parent.name for path in (run / name).glob("*/metrics.json")) == tasks
        for task in tasks:
            found = metrics(run / name / task)
            assert f"{found['metrics']['test/cer']:.3f}" in printed
            steps = [line["step"] for line in found["history"] if "eval_loss" in line]
            assert steps[0] == 2
    assert "empty" in printed
    assert "most_frequent" in printed
    assert "said:" in printed
    listener = pipeline("automatic-speech-recognition", model=str(run / "mamba" / "first" / "model"))
    samples = read_audio(clips / "3_ann_6.wav", RATE)
    assert isinstance(listener({"raw": samples, "sampling_rate": RATE})["text"], str)


def test_learns(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    longer = ["--training.steps", "120", "--training.batch_size", "16", "--training.learning_rate", "0.01"]
    longer += ["--training.trainer.eval_steps", "60", "--models.mamba.num_hidden_layers", "2"]
    recipe.main([*tiny, *longer, "--only", "[first]"])
    for name in ("mamba", "attention"):
        found = metrics(tmp_path / "run" / name / "first")["metrics"]
        assert found["test/cer"] < 0.8, found  # measured: 0.6; of an empty answer: 1


def test_a_task_starts_from_the_one_before(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    """With a learning rate of nearly nothing, the second task ends with the weights of the first."""
    recipe.main([*tiny, "--tasks.more.training.learning_rate", "1.0e-12", "--models", "{mamba: {pattern: b}}"])
    first, more = (_weights(tmp_path / "run" / "mamba" / task) for task in ("first", "more"))
    assert all(torch.allclose(first[name], more[name], atol=1e-6) for name in first)


def test_tasks_one_after_the_other_are_tasks_at_once(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    """`only` is no other run: the second task goes on in the folder of the first, with the weights of both at once."""
    one = [*tiny, "--models", "{mamba: {pattern: b}}"]
    recipe.main([*one, "--only", "[first]"])
    recipe.main([*one, "--only", "[more]"])
    recipe.main([*one, "--output", str(tmp_path / "both")])
    ours, theirs = (_weights(tmp_path / run / "mamba" / "more") for run in ("run", "both"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_model_does_not_depend_on_those_before_it(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    """In one process models share the data: the second one's normaliser hears the speeds of the first epoch again."""
    long = [*tiny, "--only", "[first]", "--training.steps", "31", "--model.normalise", "global"]
    long += ["--training.trainer.eval_steps", "16"]
    recipe.main(long)
    recipe.main([*long, "--models", "{attention: {pattern: a}}", "--output", str(tmp_path / "alone")])
    ours, theirs = (_weights(tmp_path / run / "attention" / "first") for run in ("run", "alone"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_decoder_starts_from_the_encoder(recipe: ModuleType, tiny: list[str], tmp_path: Path) -> None:
    models = "{mamba: {pattern: b}, samba: {pattern: b, decoder: true, start_from: mamba, tasks: [more], "
    models += "num_decoder_layers: 1, label_smoothing: 0.0, decoder_mixers: {m: {mixer: mamba2, head_dim: 16}}, "
    models += "cross_mixer: {mixer: mamba2, head_dim: 16}}}"
    recipe.main([*tiny, "--models", models, "--tasks.more.training.learning_rate", "1.0e-12"])
    mamba, samba = (_weights(tmp_path / "run" / name / "more") for name in ("mamba", "samba"))
    assert all(torch.allclose(mamba[name], samba[name], atol=1e-6) for name in mamba)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--only", "[frist]"], "only.frist: not a key here; did you mean 'first'"),
        (["--models", "{mamba: {pattern: x}}"], "pattern: expected letters of mixers"),
        (["--models", "{mamba: {pattern: b, hiden_size: 3}}"], "hiden_size: not a field of SpeechConfig"),
        (["--models", "{mamba: {pattern: b, start_from: nobody}}"], "models.mamba.start_from.nobody: not a key here"),
        (["--models", "{m: {pattern: b, sampling_rate: 16000}}"], "models.m.sampling_rate: expected under model"),
        (
            ["--models", "{m: {pattern: b, tasks: [more]}}"],
            "models.m.tasks: expected 'first' too, which more starts from",
        ),
        (
            ["--models.attention.tasks", "[first]", "--models.samba.start_from", "attention"],
            "models.samba.start_from: expected a model trained on more, found 'attention'",
        ),
        (["--models.mamba.decoder", "true"], "models.samba.start_from: expected a model without a decoder"),
        (["--alphabet", "abc"], "alphabet: expected all letters of the training texts, found 'abc' without"),
        (["--data.train_clips", "-3"], "train_clips: expected at least 1, found -3"),
        (["--models.samba.tasks", "[mroe]"], "models.samba.tasks.mroe: not a key here; did you mean 'more'"),
        (["--training.steps", "0"], "steps: expected at least 1, found 0"),
        (["--only", "[more]"], "only: mamba starts more from mamba/first, and"),
    ],
)
def test_mistakes_come_before_training(
    recipe: ModuleType, tiny: list[str], tmp_path: Path, change: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        recipe.main([*tiny, *change])
    assert not list((tmp_path / "run").glob("*/*/checkpoint-*"))


def test_bad_files_are_named_and_left_out_or_end_it(
    recipe: ModuleType, tiny: list[str], clips: Path, tmp_path: Path, capfd: Any
) -> None:
    clips = shutil.copytree(clips, tmp_path / "clips")
    (clips / "4_ann_6.wav").write_bytes(b"this is no audio")
    (clips / "7_bob_7.wav").write_bytes(b"")
    only = ["--models", "{mamba: {pattern: b}}", "--only", "[first]", "--data.folder", str(clips)]
    with pytest.raises(ValueError, match=r"4_ann_6.wav|7_bob_7.wav"):
        recipe.main([*tiny, *only, "--data.strict", "true"])
    assert not (tmp_path / "run" / "mamba").exists()
    recipe.main([*tiny, *only])
    told = "".join(capfd.readouterr())
    assert "4_ann_6.wav" in told
    assert "7_bob_7.wav" in told
    assert metrics(tmp_path / "run" / "mamba" / "first")["metrics"]["test/cer"] > 0


def test_two_processes_give_what_one_gives(
    processes: ForkServer, recipe: ModuleType, tiny: list[str], tmp_path: Path
) -> None:
    """Run as a script, with a worker a model: the losses are those of one process."""
    short = ["--only", "[first]", "--training.steps", "2"]
    recipe.main([*tiny, *short])
    there = [*tiny, *short, "--workers", "2", "--output", str(tmp_path / "both")]
    done = processes.run([str(FOLDER / "train.py"), *there])
    assert done.returncode == 0, done.stderr
    for name in ("mamba", "attention"):
        one, two = (metrics(tmp_path / run / name / "first") for run in ("run", "both"))
        losses = [[line["loss"] for line in found["history"] if "loss" in line] for found in (one, two)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_killed_training_resumes_exactly(
    processes: ForkServer, recipe: ModuleType, tiny: list[str], tmp_path: Path
) -> None:
    """SIGKILL in the second epoch, of 14 updates; speeds are drawn anew every epoch and must be the same."""
    arguments = [*tiny, "--models", "{mamba: {pattern: b}}", "--only", "[first]", "--training.steps", "30"]
    arguments += ["--training.save_steps", "16", "--training.log_steps", "1", "--training.trainer.eval_steps", "100"]
    recipe.main([*arguments, "--output", str(tmp_path / "whole")])
    run, whole = (tmp_path / name / "mamba" / "first" for name in ("run", "whole"))
    kill_training(processes, 18, [str(FOLDER / "train.py"), *arguments])
    assert [path.name for path in run.iterdir() if path.is_dir()] == ["checkpoint-16"]
    assert not (run / "metrics.json").exists()
    recipe.main(arguments)
    losses = [
        {line["step"]: line["loss"] for line in metrics(folder)["history"] if "loss" in line} for folder in (run, whole)
    ]
    assert losses[0] == losses[1]
    ours, theirs = _weights(run), _weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("name", ["smoke", "streaming", "small", "paper"])
def test_configs_build(recipe: ModuleType, name: str) -> None:
    """Every model of every config, at its real size, without memory for its weights."""
    config, _ = parse_config(recipe.Config, ["--config", str(FOLDER / "configs" / f"{name}.yaml")])
    tokenizer = build_ctc_tokenizer(["abcdefghijklmnopqrstuvwxyz '"])
    with torch.device("meta"):
        sizes = {model: recipe.build_model(config, model, tokenizer).num_parameters() for model in config.models}
    assert config.plan().chosen
    if name != "streaming":
        first, second = list(sizes)[:2]
        assert sizes[first] == pytest.approx(sizes[second], rel=0.01)  # a fair baseline
