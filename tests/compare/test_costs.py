import json

import pytest
import torch
from torch import nn

from tokenmix import mixer as registry
from tokenmix.blocks import Stack
from tokenmix.compare import costs as costs_module
from tokenmix.compare import memory
from tokenmix.compare.costs import CostsConfig, growth, measure_costs
from tokenmix.compare.memory import free_bytes, peak_bytes
from tokenmix.mixer import TokenMixer

DIM = 16
MIXERS = {
    "attention": {"mixer": "attention", "heads": 2},
    "mamba2": {"mixer": "mamba2", "state_size": 8, "head_dim": 8},
    "gam": {"mixer": "gam", "slots": 8},
}
TIMED = ("forward_seconds", "train_seconds", "step_seconds", "forward_bytes", "train_bytes")


def a_stack(name, layers=2, **options):
    torch.manual_seed(0)
    return Stack(DIM, {"x": MIXERS.get(name, {"mixer": name}) | options}, "x", layers=layers)


class Fails(TokenMixer):
    """Causal per token; raises on rows of 64 tokens and more."""

    causal, cost = "always", "L"

    def mix(self, x, layout, state):
        if x.shape[1] >= 64:
            raise RuntimeError("out of memory: 9 GB asked for\nat some place")
        return 2 * x


class Places(TokenMixer):
    """Adds the coordinates, which it cannot do without."""

    causal, needs, cost = "never", ("coords",), "L"

    def mix(self, x, layout, state):
        return x + layout.coords.sum(-1, keepdim=True)


@pytest.fixture
def known(monkeypatch):
    for name, cls in {"fails": Fails, "places": Places}.items():
        monkeypatch.setitem(registry._REGISTRY, name, cls)


def test_growth_over_the_upper_half_only():
    rows = [{"length": n, "flat": 7, "bent": max(n, 64), "zero": 0} for n in (16, 32, 64, 128, 256)]
    lengths = [row["length"] for row in rows]
    assert growth(rows, "bent", lengths) == 1
    assert growth(rows, "flat", lengths) == 0
    assert growth(rows, "zero", lengths) == 0
    assert growth(rows, "missing", lengths) is None
    assert growth(rows[:3], "bent", lengths) is None  # one of the upper half was measured
    assert growth(rows[:1], "bent", [16]) is None


# ---------------------------------------------------------------------- memory


def test_peak_memory_is_the_hand_count():
    def call():
        first = torch.empty(1000)  # 1000
        second = torch.empty(500, dtype=torch.float64)  # 2000 floats
        del first  # 1000
        third = torch.empty(700)  # 1700
        del second  # 700
        return torch.empty(900), third  # 1600

    assert peak_bytes(call) == 4 * 2000
    assert peak_bytes(lambda: torch.empty(10)) == 40
    assert peak_bytes(lambda: None) == 0


def test_peak_memory_counts_what_operators_make_inside_and_not_what_was_there():
    there = torch.ones(1000)
    assert peak_bytes(there.neg_) == 0
    assert peak_bytes(lambda: torch.stack([there + 1, there + 2])) == 4 * 4000
    linear = nn.Linear(8, 16, bias=False)
    x = torch.ones(5, 8)
    with torch.no_grad():
        assert peak_bytes(lambda: linear(linear.weight.new_ones(5, 8))) == 4 * 5 * (8 + 16)
    linear(x).sum().backward()
    gradient = torch.ones(5, 16)
    trained = peak_bytes(lambda: linear(x).backward(gradient))
    assert trained == 4 * (5 * 16 + 8 * 16)  # the output, and the gradient to add to the one that is there


def test_free_memory_is_that_of_the_tightest_limit(monkeypatch):
    files = {
        "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    5000 kB\n",
        "/sys/fs/cgroup/memory.max": "4000000\n",
        "/sys/fs/cgroup/memory.current": "3000000\n",
        "/sys/fs/cgroup/memory.stat": "anon 7\ninactive_file 500000\n",
    }

    def read(path):
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    monkeypatch.setattr(memory, "_read", read)
    assert free_bytes() == 4_000_000 - 3_000_000 + 500_000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert free_bytes() == 5000 * 1024
    files.clear()
    assert free_bytes() is None


# ---------------------------------------------------------------------- measure_costs


@pytest.fixture(scope="module")
def measured():
    stacks = {name: a_stack(name) for name in ("attention", "mamba2", "gam")}
    stacks["both ways"] = a_stack("attention", causal=False)
    lengths = [32, 64, 128]
    said = []
    found = measure_costs(stacks, CostsConfig(lengths=lengths, rounds=1, batch_size=2), "attention", said.append)
    assert [text for text in said if text.startswith("gam")] == [f"gam at {length} tokens" for length in lengths]
    return found, {(row["stack"], row["length"]): row for row in found["rows"]}


def test_rows_hold_what_was_asked_for(measured):
    found, rows = measured
    assert (found["reference"], found["threads"], found["rounds"]) == ("attention", torch.get_num_threads(), 1)
    assert len(rows) == len(found["rows"]) == 4 * 3
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for (name, length), row in rows.items():
        assert row["parameters"] == sum(p.numel() for p in a_stack(name).parameters()) if name in MIXERS else True
        for key in TIMED:
            ratio = key.replace("_seconds", "_ratio").replace("bytes", "bytes_ratio")
            if name == "both ways" and key == "step_seconds":
                assert row[key] is None
                assert row[ratio] is None
            else:
                assert row[key] > 0
                assert row[ratio] == pytest.approx(row[key] / rows["attention", length][key])
        assert row["warmup_seconds"] > 0
        assert row["train_bytes"] > row["forward_bytes"]


def test_state_bytes_are_their_closed_forms(measured):
    found, rows = measured
    inner, states, taps = 2 * DIM, 8, 4
    for length in (32, 64, 128):
        assert (
            rows["attention", length]["state_bytes"] == 2 * 4 * 2 * 2 * length * DIM
        )  # rows, float32, layers, k and v
        fixed = inner * states + (taps - 1) * (inner + 2 * states)  # the recurrence, and the convolution's last inputs
        assert rows["mamba2", length]["state_bytes"] == 2 * 4 * 2 * fixed
        assert rows["both ways", length]["state_bytes"] is None
    assert {name: slopes["state_bytes"] for name, slopes in found["growth"].items()} == {
        "attention": 1.0,
        "mamba2": 0.0,
        "gam": 0.0,
        "both ways": None,
    }


def test_flops_and_memory_do_not_depend_on_the_run(measured):
    _, rows = measured
    again = measure_costs({"gam": a_stack("gam")}, CostsConfig(lengths=[32], rounds=2, batch_size=2), "gam")["rows"][0]
    for key in ("flops", "forward_bytes", "train_bytes", "state_bytes"):
        assert again[key] == rows["gam", 32][key]
    one = measure_costs({"gam": a_stack("gam")}, CostsConfig(lengths=[32], rounds=1), "gam")["rows"][0]
    assert again["flops"] == 2 * one["flops"]


def test_ratios_are_of_the_same_round(monkeypatch):
    told = {"slow": [2.0, 20.0, 2.0], "fast": [1.0, 10.0, 2.0]}
    order = []

    def scripted(self, key):
        if self.said is None or key != "forward_seconds":
            return None
        order.append(self.said)
        return told[self.said][order.count(self.said) - 1]

    def prepared(self, length):
        self.said = {DIM: "fast", 2 * DIM: "slow"}[self.stack.dim]
        return {"forward_bytes": 30 if self.said == "slow" else 10, "train_bytes": None}

    monkeypatch.setattr(costs_module._Contestant, "seconds", scripted)
    monkeypatch.setattr(costs_module._Contestant, "prepare", prepared)
    stacks = {"fast": Stack(DIM, {"x": MIXERS["gam"]}, "x"), "slow": Stack(2 * DIM, {"x": MIXERS["gam"]}, "x")}
    fast, slow = measure_costs(stacks, CostsConfig(lengths=[8], rounds=3), "fast")["rows"]
    assert order == ["fast", "slow", "slow", "fast", "fast", "slow"]  # in turns, each first in its turn
    assert (fast["forward_seconds"], slow["forward_seconds"]) == (2, 2)
    assert (fast["forward_ratio"], slow["forward_ratio"]) == (1, 2)  # medians of 1, 1, 1 and of 2, 2, 1
    assert slow["forward_bytes_ratio"] == 3
    assert slow["train_bytes_ratio"] is slow["step_ratio"] is None


@pytest.mark.usefixtures("known")
def test_a_stack_that_fails_at_a_length_has_an_error_there_and_the_rest_goes_on():
    stacks = {"gam": a_stack("gam"), "fails": a_stack("fails")}
    config = CostsConfig(lengths=[32, 64, 128], rounds=1, backward=False)
    found = measure_costs(stacks, config, "fails")
    rows = {(row["stack"], row["length"]): row for row in found["rows"]}
    assert rows["fails", 32]["forward_ratio"] == 1
    for length in (64, 128):
        assert rows["fails", length]["error"] == "RuntimeError: out of memory: 9 GB asked for"
        assert "forward_seconds" not in rows["fails", length]
        assert rows["gam", length]["forward_seconds"] > 0
        assert rows["gam", length]["forward_ratio"] is rows["gam", length]["forward_bytes_ratio"] is None
    assert found["growth"]["fails"]["flops"] is None
    assert rows["gam", 32]["train_seconds"] is rows["gam", 32]["train_bytes"] is None  # backward=False


def test_a_stack_that_would_take_more_memory_than_is_free_is_not_run(monkeypatch):
    stacks = {name: a_stack(name, layers=1) for name in ("attention", "gam")}
    config = CostsConfig(lengths=[16, 32, 64], rounds=1)
    rows = measure_costs(stacks, config, "gam")["rows"]
    most = {row["stack"]: row["train_bytes"] for row in rows if row["length"] == 64}
    low, high = sorted(most.values())
    monkeypatch.setattr(costs_module, "free_bytes", lambda device: (low + high) // 2)
    rows = measure_costs(stacks, config, "gam")["rows"]
    refused = [(row["stack"], row["length"]) for row in rows if "error" in row]
    assert refused == [(max(most, key=most.get), 64)]
    assert next(row["error"] for row in rows if "error" in row).startswith("MemoryError: not run: about")


@pytest.mark.usefixtures("known")
def test_mixers_that_need_a_layout_get_one():
    row = measure_costs({"places": a_stack("places")}, CostsConfig(lengths=[32], rounds=1), "places")["rows"][0]
    assert "error" not in row
    assert row["forward_seconds"] > 0
    assert row["state_bytes"] is None


def test_stacks_and_random_numbers_are_left_as_they_were():
    stack = Stack(DIM, {"x": MIXERS["gam"]}, "x", dropout=0.5)
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    torch.manual_seed(3)
    measure_costs({"gam": stack}, CostsConfig(lengths=[16], rounds=1), "gam")
    left = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(left, torch.rand(1))
    assert stack.training
    assert all(parameter.grad is None for parameter in stack.parameters())
    assert all(torch.equal(before[name], value) for name, value in stack.state_dict().items())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lengths": []}, "lengths: expected at least one"),
        ({"lengths": [64, 32]}, "lengths: expected them rising"),
        ({"lengths": [64, 64]}, "lengths: expected them rising"),
        ({"lengths": [0]}, "lengths: expected a positive integer, found 0"),
        ({"rounds": 0}, "rounds: expected a positive integer"),
        ({"batch_size": -1}, "batch_size: expected a positive integer"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        CostsConfig(**options)


def test_a_reference_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="reference: expected one of gam, found 'gan'"):
        measure_costs({"gam": a_stack("gam")}, CostsConfig(), "gan")
