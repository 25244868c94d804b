"""The language modelling recipe, run as a user runs it: expected results, outputs, mistakes, and exact resume."""

import json
import math
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from matplotlib import image
from recipe_cases import COMPARISONS, CONFIGS, TINY, TRAIN, losses, metrics, rows_of
from transformers import AutoModelForCausalLM, AutoTokenizer

import tokenmix.models  # registers the Auto classes
from tokenmix.data import TokenBlocks, text_files
from tokenmix.layout import Layout
from tokenmix.training import parse_config, score_text

# ---- expected results


@pytest.mark.parametrize(
    "row",
    rows_of("language_modeling"),
)
def test_expected(recipe: ModuleType, runs: dict[tuple[str, str], Path], tmp_path: Path, row: dict[str, str]) -> None:
    """A row's value is a number, the name of an n-gram baseline or of another model; the stack `*` is every stack."""
    command = (row["config"], row["overrides"])
    if command not in runs:
        config = TRAIN.parent / "configs" / f"{row['config']}.yaml"
        recipe.main(["--config", str(config), *shlex.split(row["overrides"]), "--output", str(tmp_path)])
        runs[command] = tmp_path
    run = runs[command]
    (baselines,) = (json.loads(path.read_text()) for path in run.glob("baselines-*.json"))
    value = row["value"]
    bound = (
        metrics(run / value)["metrics"][row["metric"]] if (run / value).is_dir() else float(baselines.get(value, value))
    )
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
    """Trained with autocast; scored, sampled and saved in float32, so the saved model gives the score to 1e-6.

    The weights are far enough from those at the start for bfloat16 to show.
    """
    tiny += ["--stacks", "{hybrid: ma}", "--training.steps", "20", "--training.learning_rate", "0.02"]
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


def test_blocks(recipe: ModuleType, tiny: list[str], tmp_path: Path, capsys: Any) -> None:
    """Block Transformers beside a stack: trained, scored, saved; one starts from the stack, for steps of its own."""
    blocks = "{block: {block_pattern: m, token_pattern: a}, up: {start_from: hybrid, training: {steps: 2}}}"
    tiny += ["--data.overlap", "4"]
    recipe.main([*tiny, "--stacks", "{hybrid: ma}", "--blocks", blocks])
    run = tmp_path / "run"
    assert "up: {'start_from': 'hybrid'" in capsys.readouterr().out
    models = {name: AutoModelForCausalLM.from_pretrained(run / name / "model") for name in ("block", "up")}
    config, _ = parse_config(recipe.Config, [*tiny, "--blocks", blocks])
    test = recipe.build_data(config.data).test
    for name, model in models.items():
        assert type(model) is tokenmix.models.BlockTransformerForCausalLM
        found = metrics(run / name)["metrics"]
        assert score_text(model, test, batch_size=3)["bits_per_byte"] == pytest.approx(found["bits_per_byte"], rel=1e-5)
        state = model.init_state(1)
        model.read_last(torch.zeros(1, 32, dtype=torch.int64), Layout(), state)
        assert state.nbytes <= found["state_bytes"] == model.state_bytes(32)
    assert list(losses(run / "up")) == [2]
    kinds = [
        type(stack.mixers[0]).__name__ for stack in (models["block"].model.block_stack, models["up"].model.block_stack)
    ]
    assert kinds == ["Mamba2", "Mamba2"]
    assert type(models["up"].model.token_decoder.stack.mixers[0]).__name__ == "Attention"


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
        (["--blocks", "{b: {block_lenght: 2}}"], ["block_lenght: not a field", "did you mean 'block_length'"]),
        (["--blocks", "{b: {block_length: 0}}"], ["block_length: expected a positive integer, found 0"]),
        (["--blocks", "{b: {token_pattern: x}}"], ["token_pattern: expected letters of mixers", "found ['x']"]),
        (
            ["--blocks", "{b: {start_from: c}}"],
            ["start_from: expected one of stacks ['attention', 'hybrid'], found 'c'"],
        ),
        (["--blocks", "{b: {training: {step: 1}}}"], ["training: expected keys of the training config", "['step']"]),
        (["--blocks", "{b: {paper: 7B}}"], ["size: expected one of 5M", "found '7B'"]),
        (["--sizes", "{attention: {width: 8}}"], ["sizes: expected keys of model for attention, found ['width']"]),
        (["--sizes", "{small: {hidden_size: 8}}"], ["sizes: expected names among stacks", "found ['small']"]),
        (["--blocks", "{b: {}}"], ["data.overlap: expected at least block_length=4 of b, found 1"]),
        (["--blocks", "{hybrid: {}}"], ["blocks: expected other names than those of stacks, found ['hybrid']"]),
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
    for name in [*config.stacks, *config.blocks]:
        with torch.device("meta"):
            model = recipe.build_model(config, name, Vocabulary(size))
        recipe.training_of(config, name).arguments(tmp_path)
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
        if "paper" not in config.blocks.get(name, {}):
            assert model.config.num_hidden_layers == config.model.num_hidden_layers
        parameters[name] = model.num_parameters()
    if path.stem == "block_small":
        assert parameters["block"] == pytest.approx(parameters["vanilla"], rel=0.1)
        assert parameters["vanilla_third"] == pytest.approx(parameters["vanilla"] / 3, rel=0.05)
    if path.stem == "paper_gam":
        assert parameters["gam"] == 22_599_680
    assert Path(config.output).name == path.stem
