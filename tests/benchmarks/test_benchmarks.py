"""The benchmarks' own arithmetic, on made-up numbers and on tiny sizes; nothing here asserts a time."""

import importlib.util
import json
import sys
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch
from benchmarks.measure import alternate, paired, peak_bytes
from benchmarks.rows import Pair, Row

from benchmarks import __main__ as command
from benchmarks import attention, block_decoding, catalogue, decoding, modules, readme, report, scan, ssd, trained_pair
from tokenmix.models import BlockTransformerConfig, BlockTransformerForCausalLM, MixerConfig, MixerForCausalLM

ROOT = Path(__file__).parents[2]
needs_peers = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("mambapy", "local_attention")),
    reason="the peers of the benchmarks are not installed: pip install 'tokenmix[bench]'",
)


def test_runs_alternate_and_the_first_warms_up():
    order, ticks = [], count()
    pair = Pair(lambda: order.append("ours"), lambda: order.append("theirs"))
    ours, theirs = alternate(pair, 3, lambda: float(next(ticks)))
    assert order == ["ours", "theirs"] * 4
    assert ours == theirs == [1.0] * 3


def test_ratios_are_taken_in_a_round():
    """A machine that is three times slower in one round changes nothing; a ratio of medians would."""
    ratio = paired([1.0, 3.0, 1.0, 1.0, 1.0], [2.0, 6.0, 2.0, 2.0, 2.0])
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 2.0, 2.0)
    ratio = paired([1.0, 1.0, 10.0], [5.0, 4.0, 10.0])
    assert (ratio.median, ratio.ours, ratio.theirs) == (4.0, 1.0, 5.0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_is_that_of_the_call():
    kept = []
    few = peak_bytes(lambda: None)
    peak = peak_bytes(lambda: kept.append(float(torch.ones(25_000_000).sum())))  # 100 MB, freed before the call ends
    assert few < 20e6
    assert 90e6 < peak < 140e6


def result(**changes):
    base = {
        "name": "scan/forward", "what": "scan", "peer": "theirs", "length": 8, "target": 2.0, "stretch": 4.0,
        "memory": False, "ours": 1e-3, "theirs": 3e-3, "ratio": 3.0, "low": 2.9, "high": 3.1, "rounds": 5,
    }  # fmt: skip
    return base | changes


def test_verdicts():
    assert report.verdict(result()) == "met"
    assert report.verdict(result(ratio=1.9)) == "missed"
    assert report.verdict(result(ratio=4.0)) == "stretch met"
    assert report.verdict(result(target=None)) == ""
    skipped = {key: value for key, value in result().items() if key != "ratio"} | {"skipped": "pip install x"}
    assert report.verdict(skipped) == "pip install x"
    assert report.cells(skipped)[-1] == "pip install x"


def test_memory_is_shown_in_megabytes():
    row = report.cells(result(memory=True, ours=2e6, theirs=6e6))
    assert row[3:6] == ["6.0 MB", "2.0 MB", "3 x"]


def test_readme_holds_what_was_measured():
    """README's table is that of benchmarks/results.json, and the JSON has every row of the catalogue."""
    measured = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    text = (ROOT / "README.md").read_text()
    assert readme.with_table(text, report.markdown(measured)) == text
    found = {(r["name"], r["peer"], r["length"]) for r in measured["results"]}
    assert found == {(row.name, row.peer, row.length) for row in catalogue.ROWS}
    assert measured["schema"] == report.SCHEMA
    assert not [r["name"] for r in measured["results"] if "ratio" not in r]


def test_readme_without_marks():
    with pytest.raises(ValueError, match="README: expected the marks"):
        readme.with_table("no marks", "table")


def test_rows_measured_anew_take_the_place_of_the_old():
    measured = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    order = [(row.name, row.peer, row.length) for row in catalogue.ROWS]
    again = {**measured, "results": [measured["results"][3] | {"ratio": 1.5}]}
    merged = report.merged(measured, again, order)
    assert [r["name"] for r in merged["results"]] == [r["name"] for r in measured["results"]]
    assert merged["results"][3]["ratio"] == 1.5
    other = {**again, "machine": measured["machine"] | {"threads": 2}}
    with pytest.raises(ValueError, match="into: expected a report of the same machine and settings"):
        report.merged(measured, other, order)


def test_block_contenders_give_the_tokens_of_a_full_forward(monkeypatch):
    """As many new tokens a row as asked, again and again from one state; a state that is not forked is noticed."""
    pair = block_decoding.batch_pair(16, rows=3, peer=block_decoding.OURS, steps=6)
    none = {"ours tokens that differ": 0.0, "theirs tokens that differ": 0.0}
    assert pair.errors() == none
    assert torch.equal(pair.ours(), pair.ours())
    assert pair.ours().shape == pair.theirs().shape == (3, 7)
    prompt = block_decoding.prompt_pair(16, block_decoding.PEER)
    assert prompt.errors() == none
    assert prompt.ours().shape == prompt.theirs().shape == (1, 17)
    whole = block_decoding.whole_pair(8, 2, new=6, peer=block_decoding.OURS)
    assert whole.errors() == none
    assert whole.work == len(whole.ours()) / len(whole.theirs()) == 3.5
    monkeypatch.setattr(block_decoding, "forked", lambda state: state)
    pair.ours()
    assert pair.errors()["ours tokens that differ"] > 0.3


def test_budgets_hold_as_many_rows_as_they_say():
    block, (vanilla, _) = block_decoding.block_model(), decoding.models()
    for model, rows in ((block, 62), (vanilla, 8)):
        assert block_decoding.rows_within(model, 1024, 256 * 2**20) == rows
        assert rows * model.state_bytes(1024) <= 256 * 2**20 < (rows + 1) * model.state_bytes(1024)


def test_trained_pair(tmp_path, capsys):
    """Two folders of the recipe: sizes, speeds, and what the report says of them."""
    block = {
        "block_mixers": {"a": {"mixer": "attention", "heads": 2}},
        "token_mixers": {"a": {"mixer": "attention", "heads": 2}},
    }
    models = {
        "block": BlockTransformerForCausalLM(BlockTransformerConfig(hidden_size=16, **block)),
        "vanilla": MixerForCausalLM(MixerConfig(hidden_size=16, mixers=block["block_mixers"])),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name / "model")
        (tmp_path / name / "metrics.json").write_text('{"metrics": {"bits_per_byte": 2.5}}')
    (tmp_path / "results.json").write_text('{"results": []}')
    folders = [str(tmp_path / "vanilla"), str(tmp_path / "block")]
    sizes = ["--context", "16", "--mib", "1", "--steps", "4", "--rounds", "1"]
    for _ in range(2):
        assert trained_pair.main([*folders, *sizes, "--into", str(tmp_path / "results.json")]) == 0
    assert "2.500" in capsys.readouterr().out
    (pair,) = json.loads((tmp_path / "results.json").read_text())["trained pairs"]
    assert pair["ours"]["rows"] == 2**20 // models["block"].state_bytes(16)
    assert "block (0.0" in report.trained(pair)
    with pytest.raises(ValueError, match="mib: expected room for a row of 100000 tokens"):
        trained_pair.main([*folders, "--context", "100000", "--mib", "1"])


def test_names_and_lengths_of_rows_are_distinct():
    keys = [(row.name, row.peer, row.length) for row in catalogue.ROWS]
    assert len(set(keys)) == len(keys)
    assert all(catalogue.find(row.name, row.peer).build for row in catalogue.ROWS)


TINY = {
    "scan": partial(scan.scan_pair, 24),
    "scan/train": partial(scan.scan_pair, 24, train=True),
    "scan/plain": partial(scan.scan_pair, 24, function=scan.plain, train=True),
    "ssd": partial(ssd.pair, 40),
    "ssd/train": partial(ssd.pair, 40, train=True),
    "window": partial(attention.window_pair, 96, 32, train=True),
    "mamba": partial(scan.model_pair, 12),
    "mamba2": partial(scan.mamba2_pair, 12),
    "accelerated": partial(scan.accelerated_pair, 12),
}


@pytest.mark.parametrize("name", TINY)
def test_contenders_compute_the_same(name):
    pair = TINY[name]()
    errors = pair.errors()
    assert errors
    assert all(error <= 1e-4 for error in errors.values()), errors
    pair.ours()
    pair.theirs()


@needs_peers
@pytest.mark.parametrize("pair", [
    partial(scan.scan_pair, 24, mambapy=True, train=True),
    partial(scan.block_pair, 16, width=32, tokens=32),
    partial(scan.layer_pair, 16, width=32),
    partial(attention.window_pair, 96, 32, train=True, peer="local"),
])  # fmt: skip
def test_peers_from_pypi_compute_the_same(pair):
    assert all(error <= 1e-4 for error in pair().errors().values())


def test_layers_of_equal_size_run():
    for pair in (attention.layer_pair(128), attention.layer_pair(64, train=True)):
        pair.ours()
        pair.theirs()
        assert pair.notes == "1.05 M parameters against 1.05 M"
        assert all(error <= pair.limit for error in pair.errors().values())
    assert {"ours d q_proj.weight", "theirs d q_proj.weight", "ours y", "theirs y"} <= set(pair.errors())


class Faulty(torch.nn.Module):
    """Right in float64, and in float32 only forward: its weight has twice its gradient."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, x):
        y = x * self.weight
        return y if x.dtype == torch.float64 else 2 * y - y.detach()


def test_a_wrong_gradient_of_a_module_is_found():
    x = torch.arange(1.0, 7.0).view(1, 2, 3)
    right = modules.module_pair(torch.nn.RMSNorm(3), torch.nn.RMSNorm(3), x, same=torch.nn.RMSNorm(3))
    assert set(right.errors()) == {"ours y", "ours d weight", "theirs y", "theirs d weight"}
    errors = modules.module_pair(Faulty(), torch.nn.RMSNorm(3), x).errors()
    assert errors.pop("ours d weight") == pytest.approx(1.0)
    assert all(error < 1e-6 for error in errors.values())
    other = torch.nn.Sequential(OrderedDict(norm=torch.nn.RMSNorm(3)))  # names of norms differ between libraries
    with pytest.raises(ValueError, match="expected parameters named as in Sequential, found none"):
        modules.module_pair(other, other, x, same=other).errors()


def test_decoding_begins_at_the_same_context_every_time():
    """Both caches are cut back between calls, so that a later call gives the first one's tokens."""
    pair = decoding.pair(12, rows=2, steps=3)
    first = [pair.ours().tolist(), pair.theirs().tolist()]
    assert first[0] == first[1]
    assert len(first[0]) == 2
    assert [pair.ours().tolist(), pair.theirs().tolist()] == first
    assert decoding.prompt_pair(12).errors() == {"ours tokens that differ": 0.0}


def test_a_band_has_so_many_flops():
    pairs = int(attention.band_mask(24, 7).sum())
    assert attention.band_flops(24, 7, heads=2, products=2) == 2 * 2 * 2 * attention.WIDTH * pairs


def test_remarks():
    curve = {"4": {"ours": 1e6, "theirs": 9e6}, "8": {"ours": 2e6, "theirs": 9e6}}
    results = [result(**{"GFLOP/s": 30.0}), result(memory=True, ours=2e6, curve=curve), result(curve=curve)]
    assert report.remarks({"machine": {"GEMM GFLOP/s": 60.0}, "results": results}) == [
        "scan, L 8: 30 GFLOP/s, 50 % of the rate of matrix products.",
        "scan, L 8: 2.0 MB, which grows as L to the power of 1.00.",
    ]


def test_other_lengths_have_no_targets():
    found = catalogue.at_lengths(catalogue.select(["scan/train"]), [8, 16])
    assert [(row.length, row.target, row.lengths) for row in found] == [(8, None, ()), (16, None, ())]


def test_a_fast_wrong_answer_has_no_time(monkeypatch, tmp_path, capsys):
    """A planted fault: attention to a window that is one key too short."""
    fault = partial(attention.window_pair, window=16)
    right = attention.ours
    monkeypatch.setattr(attention, "ours", lambda q, k, v, window: right(q, k, v, window - 1))
    row = Row("window/fault", "a fault", "SDPA", fault, 64, 1.0)
    monkeypatch.setattr(command, "select", lambda names: [row])
    assert command.main(["--quick", "--out", str(tmp_path)]) == 1
    (found,) = json.loads((tmp_path / "results.json").read_text())["results"]
    assert found["failed"].startswith("wrong: ours y")
    assert "ratio" not in found


def test_the_command(monkeypatch, tmp_path, capsys):
    """A run with curves, a missing peer, and a gate that is missed, from the command line to the files."""
    row = Row("scan/tiny", "tiny", "loop", scan.scan_pair, 16, 1e9, lengths=(8, 16))
    missing = replace(row, name="scan/missing", needs=("no_such_package",))
    monkeypatch.setattr(command, "select", lambda names: [row, missing])
    assert command.main(["--rounds", "2", "--out", str(tmp_path)]) == 0
    assert command.main(["--quick", "--gate", "--out", str(tmp_path / "gate")]) == 1
    measured = json.loads((tmp_path / "results.json").read_text())
    tiny, skipped = measured["results"]
    assert tiny["ratio"] > 0
    assert tiny["rounds"] == 2
    assert set(tiny["curve"]) == {"8", "16"}
    assert skipped["skipped"] == "pip install no_such_package"
    assert measured["machine"]["threads"] == 1
    assert measured["machine"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert "pip install no_such_package" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "names: no row begins with 'nothing'; known: block/1"),
        (["--rounds", "0"], "--rounds: expected at"),
        (["--lengths", "8", "0"], "--lengths: expected at"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        command.parse(arguments)
    assert message in capsys.readouterr().err
