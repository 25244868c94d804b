"""A conversion from the command line and from Python: what it writes, how it goes on, what it refuses."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_cases import build, write_model, write_text
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM

import tokenmix.hf  # noqa: F401  # registers the classes of converted models
from fork_server import ForkServer
from killed_training import kill_training
from tokenmix.cli import main
from tokenmix.conversion import ConversionConfig, Point, Report, convert, gap_table, print_report
from tokenmix.conversion.config import StageConfig
from tokenmix.conversion.measure import gap_closed
from tokenmix.data import byte_tokenizer, text_files

STAGE = StageConfig(steps=3, batch_size=2, context=32, warmup_steps=1, log_steps=1, save_steps=2)
CONFIG = ConversionConfig(
    hidden=STAGE, logits=STAGE, finetune=replace(STAGE, train="all"), eval_context=32, eval_overlap=8, eval_bytes=600,
    state_context=40, decode_tokens=4, decode_repeats=2,
)  # fmt: skip
SMALL = [
    "--context", "32", "--batch-size", "2", "--hidden-steps", "3", "--logits-steps", "3", "--finetune-steps", "2",
    "--save-steps", "2", "--eval-bytes", "600", "--state-context", "40",
]  # fmt: skip


@pytest.mark.parametrize("family", ["gpt_neox", "qwen2"])
def test_the_command_converts_any_decoder(family: str, tmp_path: Path, capsys: Any) -> None:
    model, text = write_model(tmp_path, family), write_text(tmp_path)
    command = ["convert", str(model), "--text", str(text), "--to", "mamba2", "--keep-every", "4"]
    assert main([*command, "--output", str(tmp_path / "out"), *SMALL]) == 0
    printed = capsys.readouterr().out
    report = Report.read(tmp_path / "out" / "report.json")
    assert report is not None
    assert report.layers == {"0": "mamba2", "1": "mamba2", "2": "mamba2"}
    assert report.carried == {key: ["q", "k", "v", "o"] for key in "012"}
    assert [point.name for point in report.points] == ["original", "swap", "hidden", "logits", "finetune"]
    assert f"{report.points[-1].perplexity:.3f}" in printed
    assert report.state_bytes["converted"] != report.state_bytes["original"]
    assert all(value > 0 for value in report.tokens_per_second.values())
    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    assert type(converted).__name__.startswith("Tokenmix")
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "model")("7 and 49")["input_ids"]
    assert main([*command, "--output", str(tmp_path / "out"), *SMALL]) == 0  # only prints
    assert f"{report.points[-1].perplexity:.3f}" in capsys.readouterr().out
    assert main([*command, "--output", str(tmp_path / "out"), *SMALL, "--seed", "5"]) == 2
    assert "holds a run with hidden.seed=0, found hidden.seed=5" in capsys.readouterr().err


def test_the_numbers_of_a_report(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    model, corpus = build("llama", len(tokenizer)), text_files(write_text(tmp_path))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = replace(CONFIG, output=str(tmp_path / "out"), control=True)
    report = convert(model, tokenizer, corpus, {"0-2": "mamba2"}, config)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    original, swap, hidden, logits, tuned, control = report.points
    assert control.name == "control"
    for point in (hidden, logits, tuned):
        assert point.closed_perplexity == gap_closed(swap.perplexity, point.perplexity, original.perplexity)
        assert point.closed_nats == gap_closed(swap.nats, point.nats, original.nats)
        assert point.perplexity == pytest.approx(torch.tensor(point.nats).exp().item(), rel=1e-4)
    losses = [line["loss"] for line in hidden.history if "loss" in line]
    assert losses[-1] < losses[0]
    assert {"error/0", "error/1", "error/2"} <= set(hidden.history[0])
    # keys and values of 4 layers, 2 heads, 8 features, 40 tokens, 4 bytes; and of the one layer that kept them
    assert report.state_bytes["original"] == 2 * 4 * 2 * 8 * 40 * 4
    assert report.state_bytes["converted"] > 2 * 2 * 8 * 40 * 4
    assert (tmp_path / "out" / "report.png").stat().st_size > 10_000


SCRIPT = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[i]) for i in (0, 1)]}
from test_convert import CONFIG, byte_tokenizer, build, convert, replace, text_files
import torch
torch.set_num_threads(1)
tokenizer = byte_tokenizer()
longer = {{name: replace(getattr(CONFIG, name), steps=12, save_steps=5) for name in ("hidden", "logits")}}
config = replace(CONFIG, **longer, output=sys.argv[1])
convert(build("llama", len(tokenizer)), tokenizer, text_files(sys.argv[2]), {{"0-2": "mamba2"}}, config)
"""


def test_a_killed_conversion_goes_on_exactly(processes: ForkServer, tmp_path: Path) -> None:
    """Killed in stage 1, started again, killed in stage 2, started again: as if never interrupted."""
    (tmp_path / "script.py").write_text(SCRIPT)
    whole, cut, text = tmp_path / "whole", tmp_path / "cut", write_text(tmp_path)
    one, two = ([str(tmp_path / "script.py"), str(folder), str(text)] for folder in (whole, cut))
    kill_training(processes, 8, two)
    assert [path.name for path in (cut / "1_hidden").glob("checkpoint-*")] == ["checkpoint-5"]
    kill_training(processes, 7 + 8, two)
    assert [path.name for path in (cut / "2_logits").glob("checkpoint-*")] == ["checkpoint-5"]
    for arguments in (one, two):
        done = processes.run(arguments)
        assert done.returncode == 0, done.stderr
    names = ("model/model.safetensors", "model/config.json", "conversion.json")
    for name in names:
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    found, expected = (json.loads((folder / "report.json").read_text()) for folder in (cut, whole))
    assert [p["nats"] for p in found["points"]] == [p["nats"] for p in expected["points"]]


MISTAKES: list[tuple[list[str], str]] = [
    (["--to", "mamba9"], "unknown name 'mamba9'; did you mean"),
    (["--to", "mamba2", "--keep-every", "9"], "--keep-every: expected 2 to the model's 4 layers, found 9"),
    (["--layers", '{"7": "gam"}'], "layers: expected layers from 0 to 3, found '7'"),
    (["--layers", "gam"], "--layers: expected a JSON object"),
    ([], "expected either --to MIXER or --layers JSON"),
    (["--to", "gam", "--options", '{"causal": false}'], "a decoder needs causal mixers"),
    (["--to", "gam", "--context", "4000"], "expected at most the model's 256 places, found 4000"),
    (["--to", "gam", "--hidden-steps", "-1"], "hidden.steps: expected 0 or more, found -1"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=[message[:25] for _, message in MISTAKES])
def test_mistakes_before_work_is_lost(options: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    model, text = write_model(tmp_path), write_text(tmp_path)
    command = ["convert", str(model), "--text", str(text), "--output", str(tmp_path / "out")]
    short = ["--context", "32", "--state-context", "40"]
    assert main([*command, *short, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_tokenizer_hides_no_other_mistake(tmp_path: Path, capsys: Any) -> None:
    text = write_text(tmp_path)
    build("llama", 256).save_pretrained(tmp_path / "bare")
    command = ["convert", str(tmp_path / "bare"), "--text", str(text), "--output", str(tmp_path / "out")]
    short = ["--context", "32", "--state-context", "40"]
    assert main([*command, *short, "--layers", '{"9": "gam"}']) == 2
    assert "layers: expected layers from 0 to 3, found '9'" in capsys.readouterr().err
    assert main([*command, *short, "--to", "gam", "--options", '{"slot": 3}', "--tokenizer", "bytes"]) == 2
    assert "slot: not an argument of mixer 'gam'; did you mean 'slots'" in capsys.readouterr().err
    assert main([*command, *short, "--to", "gam", "--tokenizer", "bytes"]) == 2
    told = capsys.readouterr().err
    assert "tokenizer: expected at most the 256 tokens that the model knows, found 259; bytes need a vocab_size" in told
    assert main([*command, *short, "--to", "gam", "--tokenizer", "./toks"]) == 2
    assert "--tokenizer: expected a folder or a name on the hub, found no folder ./toks" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_gap_that_is_too_small_is_called_so() -> None:
    points = [
        Point("original", 10.0, 2.3026, 1.0),
        Point("swap", 10.05, 2.3076, 1.01),
        Point("hidden", 9.98, 2.3006, 0.99, closed_perplexity=gap_closed(10.05, 9.98, 10.0)),
        Point("logits", 9.0, 2.1972, 0.9, closed_perplexity=0.5, closed_nats=0.25),
    ]
    sizes = {"original": 1, "converted": 1}
    report = Report("m", "t", {}, {}, points, sizes, sizes, {"original": 1.0, "converted": 1.0}, 1, "one thread", "f")
    for show in (lambda to: print_report(report, to), lambda to: to.print(gap_table("t", {"m": report}, {}))):
        to = Console(file=io.StringIO(), width=120)
        show(to)
        printed = to.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
        assert printed.count("too small") == 4  # two cells of stage 1, and what is said below
        assert "too small: the swap lost less than 1%, a gap too small to measure" in printed
        assert "50.0%" in printed
    points[1].perplexity = points[1].nats = float("inf")
    to = Console(file=io.StringIO(), width=120)
    print_report(report, to)
    assert "too small" not in to.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def test_what_is_missing_is_named(tmp_path: Path, capsys: Any) -> None:
    model, text = write_model(tmp_path), write_text(tmp_path)
    out = ["--to", "gam", "--output", str(tmp_path / "out")]
    assert main(["convert", str(tmp_path / "nowhere"), "--text", str(text), *out]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(["convert", str(model), "--text", str(tmp_path / "no.txt"), *out]) == 2
    assert "no.txt" in capsys.readouterr().err
    for path in model.glob("token*"):
        path.unlink()
    assert main(["convert", str(model), "--text", str(text), *out]) == 2
    assert "--tokenizer: none could be loaded" in capsys.readouterr().err
    (tmp_path / "short.txt").write_text("too short")
    assert main(["convert", str(model), "--text", str(tmp_path / "short.txt"), "--tokenizer", "bytes", *out]) == 2
    assert "short" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_be_converted(tmp_path: Path) -> None:
    tokenizer, corpus = byte_tokenizer(), text_files(write_text(tmp_path))
    config = replace(CONFIG, output=str(tmp_path / "out"))
    bert = BertForMaskedLM(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32))
    with pytest.raises(ValueError, match="model: expected a decoder, found attention that reads the future"):
        convert(bert, tokenizer, corpus, {"0": "linear_attention"}, config)
    with pytest.raises(ValueError, match="model: expected float32 weights"):
        convert(build("llama", 300).to(torch.bfloat16), tokenizer, corpus, {"0": "gam"}, config)
    with pytest.raises(ValueError, match="tokenizer: expected at most the 100 tokens that the model knows"):
        convert(build("llama", 100), tokenizer, corpus, {"0": "gam"}, config)
    with pytest.raises(TypeError, match="model: expected a transformers PreTrainedModel, found str"):
        convert("model", tokenizer, corpus, {"0": "gam"}, config)  # type: ignore[arg-type]  # the mistake
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("./tinny", ["--to", "mamba2"], "MODEL: expected a folder or a name on the hub, found no folder ./tinny"),
        (
            "runs/a/tinny",
            ["--to", "gam"],
            "MODEL: expected a folder or a name on the hub, found no folder runs/a/tinny",
        ),
        ("./tinny", ["--to", "mambo2"], "mixer: unknown name 'mambo2'; did you mean 'mamba2'"),
        ("./tinny", ["--layers", '{"0": {"mixer": "gma"}}'], "mixer: unknown name 'gma'; did you mean 'gam'"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(
    model: str, options: list[str], message: str, tmp_path: Path, capsys: Any
) -> None:
    text = write_text(tmp_path)
    assert main(["convert", model, "--text", str(text), *options, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
