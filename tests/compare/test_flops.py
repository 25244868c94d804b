import pytest
import torch
from torch import nn

from tokenmix.blocks import Stack
from tokenmix.compare.costs import growth
from tokenmix.compare.flops import _count, count_flops
from tokenmix.ops import loop_scan

DIM, HEADS = 16, 2
MIXERS = {
    "attention": {"mixer": "attention", "heads": HEADS},
    "sliding_window": {"mixer": "sliding_window", "heads": HEADS, "window": 8},
    "ls_attention": {"mixer": "ls_attention", "heads": HEADS, "window": 8},
    "linear_attention": {"mixer": "linear_attention", "heads": HEADS},
    "mamba": {"mixer": "mamba", "state_size": 4},
    "mamba2": {"mixer": "mamba2", "state_size": 8, "head_dim": 8},
    "gam": {"mixer": "gam", "slots": 8},
}


def a_stack(name, layers=2, **options):
    torch.manual_seed(0)
    return Stack(DIM, {"x": MIXERS[name] | options}, "x", layers=layers)


def bare_flops(name, length, **options):
    return count_flops(a_stack(name, layers=1, **options).layers[0].mixer, torch.zeros(1, length, DIM))


def test_a_linear_layer_has_two_flops_a_weight_and_token():
    assert count_flops(nn.Linear(8, 24, bias=False), torch.zeros(3, 5, 8)) == (2 * 3 * 5 * 8 * 24, 0)


def test_products_of_attention_are_its_closed_form():
    length = 32
    projections, scores = 4 * 2 * length * DIM * DIM, 2 * 2 * length * length * DIM
    assert bare_flops("attention", length).products == projections + scores
    assert bare_flops("attention", length).others >= HEADS * length * length  # the softmax


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        (lambda x: x.exp(), 60),
        (lambda x: x.cumsum(1), 60),
        (lambda x: x.sum(1), 60),  # 10 numbers out, 60 in
        (lambda x: x[:, :, :1] * torch.ones(5), 60),  # 12 numbers in, 60 out
        (lambda x: torch.addcmul(x, x, x), 120),
        (lambda x: x.add_(1).mul_(2), 120),
        (lambda x: torch.softmax(x, 1), 60),
        (lambda x: torch.cat([x, x]).transpose(0, 1).contiguous().flip(0)[1:], 0),
        (lambda x: torch.where(x > 0, x, 0), 0),
    ],
)
def test_other_operations_count_one_a_number_and_moves_nothing(compute, expected):
    class Computes(nn.Module):
        def forward(self, x):
            return compute(x)

    with torch.no_grad():
        assert _count(Computes(), [torch.ones(2, 6, 5)]) == (0, expected)


def test_the_formula_of_the_scan_is_what_its_operations_add_up_to(monkeypatch):
    mixer, x = a_stack("mamba", layers=1).layers[0].mixer, torch.randn(2, 70, DIM)
    by_formula = count_flops(mixer, x)
    monkeypatch.setattr(loop_scan, "_scan", loop_scan._scan._init_fn)  # no operator, so that all is seen
    one_by_one = count_flops(mixer, x)
    assert by_formula.total == one_by_one.total
    assert by_formula.others < one_by_one.others  # and the formula was in use
    channels, states = 2 * DIM, 4
    monkeypatch.undo()
    more_states = a_stack("mamba", layers=1, state_size=states + 1).layers[0].mixer
    gap = count_flops(more_states, x).total - by_formula.total
    assert gap == 2 * 70 * (7 * channels + 2 * 2 * channels) + 2 * channels  # scan, x_proj for B and C, -exp(A_log)


@pytest.mark.parametrize("name", MIXERS)
def test_counting_without_running_is_counting_while_running(name):
    stack, x = a_stack(name).eval(), torch.randn(2, 48, DIM)
    with torch.no_grad():
        assert count_flops(stack, x) == _count(stack, [x])


def test_a_module_that_reads_numbers_is_run():
    class Reads(nn.Module):
        def forward(self, x):
            return x * float(x.sum())

    assert count_flops(Reads(), torch.ones(1, 4, 4)).others == 32


@pytest.mark.parametrize(("name", "expected"), [("attention", 2), ("gam", 1), ("mamba2", 1), ("mamba", 1)])
def test_growth_of_flops(name, expected):
    lengths = [2048, 4096, 8192, 16384]
    rows = [{"length": n, "flops": bare_flops(name, n).total} for n in lengths]
    assert growth(rows, "flops", lengths) == pytest.approx(expected, abs=0.03)
