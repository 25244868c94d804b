"""Packed weights: the same numbers within rounding, and nothing left behind."""

import pytest
import torch
from tiny_models import STACKS, assert_close, build, left_padded, tokens
from torch import nn

from tokenmix.models import generate
from tokenmix.models.packed import packed_linears


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("bias", [True, False])
def test_same_results(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 96, bias=bias), nn.GELU(), nn.Linear(96, 24, bias=bias))
    x = torch.randn(rows, 1, 24)
    with torch.inference_mode():
        expected = model(x)
        with packed_linears(model, rows) as count:
            found = model(x)
            assert count == (1 if rows == 1 else 2)
    assert_close(found, expected, 1e-5)
    assert all("forward" not in vars(layer) for layer in model)


def test_nothing_is_left_behind_by_an_error() -> None:
    layer = nn.Linear(4, 8)
    with pytest.raises(KeyError), packed_linears(layer, 1):
        raise KeyError
    assert "forward" not in vars(layer)
    layer.weight.data.zero_()
    assert torch.equal(layer(torch.ones(1, 4))[0], layer.bias)


def test_what_is_not_packed() -> None:
    class Own(nn.Linear):
        pass

    hooked = nn.Linear(4, 8)
    hooked.forward = forward = lambda x: x
    model = nn.ModuleList([Own(4, 8), nn.Linear(4, 8).double(), nn.Linear(4, 8, device="meta"), hooked])
    for rows in (1, 4):
        with packed_linears(model, rows) as count:
            assert count == 0
    assert hooked.forward is forward


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", STACKS)
def test_generation(name: str, rows: int) -> None:
    model = build(name)
    ids, mask, _ = left_padded([6, 3, 5][:rows])
    options = {"max_new_tokens": 12, "attention_mask": mask}
    assert torch.equal(generate(model, ids, pack_weights=True, **options), generate(model, ids, **options))


def test_weights_are_read_anew() -> None:
    """Training between two calls is seen by the second."""
    model, ids = build("attention"), tokens(2, 4)
    before = generate(model, ids, max_new_tokens=8, pack_weights=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    after = generate(model, ids, max_new_tokens=8, pack_weights=True)
    assert torch.equal(after, generate(model, ids, max_new_tokens=8))
    assert not torch.equal(after, before)
