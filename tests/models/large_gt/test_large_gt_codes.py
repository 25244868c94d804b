"""The global half of LargeGT: attention over all nodes by a codebook that training moves."""

from __future__ import annotations

import copy

import pytest
import torch
from large_gt_cases import FEATURES, NODES, build, inputs, random_graph, some_batch
from torch import Tensor

from tokenmix.models.large_gt.codes import GlobalHalf


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return some_batch()


def test_a_code_may_stand_for_more_nodes_than_half_precision_counts() -> None:
    half = build("global", num_nodes=200_000, codes=2, position_size=0).model.global_half
    half.node_codes.set(torch.arange(200_000), torch.arange(200_000) % 2)
    with torch.autocast("cpu", torch.float16):
        assert half.read(torch.randn(3, 6)).isfinite().all()


def trained_half(normalised: bool) -> tuple[GlobalHalf, Tensor]:
    """A global half in which every node has its code, and the nodes' (N, code_size + position_size) queries."""
    half = build("global", vq_normalised=normalised).model.global_half
    generator = torch.Generator().manual_seed(3)
    z = 3 * torch.randn(NODES, 8, generator=generator) + 5
    positions = torch.randn(NODES, 4, generator=generator)
    half.train()
    half(z, torch.arange(NODES), positions)
    half.eval()
    assert (half.node_codes.codes >= 0).all()
    return half, half.query(z, positions).detach()


@pytest.mark.parametrize("normalised", [True, False])
def test_the_global_half_is_attention_over_all_nodes_each_replaced_by_its_code(normalised: bool) -> None:
    half, q = trained_half(normalised)
    replaced = half.quantiser.codebook()[half.node_codes.codes.long()]  # (N, code_size + position_size)
    asked = q
    if normalised:
        mean, spread = half.quantiser.mean, (half.quantiser.variance + half.quantiser.eps).sqrt()
        asked, replaced = (q - mean) / spread, (replaced - mean) / spread
    keys, values = half.k_proj(replaced), half.v_proj(replaced[:, :6])
    heads = []
    for head in range(2):
        own = slice(8 * head, 8 * head + 8)
        heads.append((half.q_proj(asked)[:, own] @ keys[:, own].t() / 8**0.5).softmax(1) @ values[:, own])
    expected = torch.cat(heads, 1) - (values.mean(0) if normalised else 0)
    torch.testing.assert_close(half.read(q), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_normalised_codes_are_the_published_ones_with_other_weights_but_for_what_nodes_share() -> None:
    ours, q = trained_half(True)
    published = copy.deepcopy(ours)
    published.normalised = False
    mean, spread = ours.quantiser.mean, (ours.quantiser.variance + ours.quantiser.eps).sqrt()
    for name, width in (("q_proj", 10), ("k_proj", 10), ("v_proj", 6)):
        layer = getattr(published, name)
        layer.weight.div_(spread[:width])
        layer.bias.sub_(layer.weight @ mean[:width])
    gap = published.read(q) - ours.read(q)
    torch.testing.assert_close(gap, gap[:1].expand_as(gap), atol=1e-5, rtol=1e-5)
    assert gap.abs().max() > 0.01
    ours.v_proj.bias.add_(100.0)  # the batch norm behind it could not see this in training, and could in evaluation
    torch.testing.assert_close(published.read(q) - ours.read(q), gap, atol=1e-4, rtol=1e-4)


def test_training_moves_codes_and_codes_of_the_batch_alone_and_eval_none(batch: dict[str, Tensor]) -> None:
    model = build().train()
    model(**batch)
    half = model.model.global_half
    assigned = set((half.node_codes.codes >= 0).nonzero().flatten().tolist())
    assert assigned == {3, 8, 17, 21}
    assert int(half.node_codes.counts().sum()) == 4
    before = {name: value.clone() for name, value in half.named_buffers()}
    model(**batch)
    assert not torch.equal(half.quantiser.codebook(), before_book(before, half))
    model.eval()
    still = {name: value.clone() for name, value in half.named_buffers()}
    model(**batch)
    for name, value in half.named_buffers():
        assert torch.equal(value, still[name]), name


def before_book(before: dict[str, Tensor], half: torch.nn.Module) -> Tensor:
    other = copy.deepcopy(half)
    other.load_state_dict({**other.state_dict(), **before})
    return other.quantiser.codebook()


def test_nodes_that_were_no_targets_get_codes_when_asked(batch: dict[str, Tensor]) -> None:
    model = build().train()
    model(**batch)
    model.eval()
    graph, features = random_graph(), torch.randn(NODES, FEATURES)
    book = model.model.global_half.quantiser.codebook().clone()
    model.model.assign_codes(**inputs(graph, features, torch.randn(NODES, 4), torch.arange(NODES)))
    assert int(model.model.global_half.node_codes.counts().sum()) == NODES
    assert torch.equal(model.model.global_half.quantiser.codebook(), book)


def test_the_published_start_gives_every_node_a_random_code_and_lets_codes_die(batch: dict[str, Tensor]) -> None:
    faithful, ours = build(vq_init="normal", codes=64), build(codes=64)
    assert faithful.config.vq_restart is None
    assert ours.config.vq_restart == 0.01
    assert int(faithful.model.global_half.node_codes.counts().sum()) == NODES
    assert int(ours.model.global_half.node_codes.counts().sum()) == 0
    faithful.train()(**batch), ours.train()(**batch)
    assert float(faithful.model.global_half.quantiser.counts.sum()) == pytest.approx(0.01 * 5, rel=0.02)  # one step
    longest = [model.model.global_half.quantiser.codebook().norm(dim=1).max() for model in (faithful, ours)]
    assert longest[0] > 1e4
    assert longest[1] < 100


@pytest.mark.parametrize("normalised", [True, False])
def test_training_compiles(normalised: bool, batch: dict[str, Tensor]) -> None:
    """Codes that moved after they were read are no longer those that the backward needs."""
    plain = build(vq_normalised=normalised, dropout=0.0, local_dropout=0.0).train()
    plain(**batch)
    compiled, gradients = copy.deepcopy(plain), []
    for model, call in ((plain, plain), (compiled, torch.compile(compiled, backend="aot_eager"))):
        call(**batch).logits.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for eager, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, eager, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        compiled.model.global_half.quantiser.code, plain.model.global_half.quantiser.code, atol=1e-5, rtol=1e-5
    )
