"""Parameters for each modality in any module."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tokenmix.block import MixerBlock
from tokenmix.blocks import Stack
from tokenmix.feed_forward import GELU, SwiGLU
from tokenmix.layout import Layout
from tokenmix.mixer import build_mixer, list_mixers
from tokenmix.mixers import Attention
from tokenmix.ops import route as route_module
from tokenmix.routed import Routed, RoutedLinear, RoutedModule, RoutedNorm, per_token, together, untie

DIM, MODALITIES = 16, 3


def draw(module: nn.Module, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return module


def modality(rows: int = 2, length: int = 9, seed: int = 1) -> Tensor:
    return torch.randint(MODALITIES, (rows, length), generator=torch.Generator().manual_seed(seed))


def options(name: str) -> dict[str, Any]:
    wide = (
        "attention",
        "sliding_window",
        "ls_attention",
        "linear_attention",
        "span_attention",
        "neighbourhood_attention",
    )
    return (
        {"mixer": name, "heads": 4}
        if name in wide
        else {"mixer": name, "head_dim": 8}
        if name == "mamba2"
        else {"mixer": name}
    )


@pytest.mark.parametrize("name", sorted(list_mixers()))
def test_an_untied_mixer_is_the_mixer(name: str) -> None:
    """Equal parameters for all modalities: the dense mixer, whatever the pattern of modalities."""
    torch.manual_seed(0)
    mixer = draw(build_mixer(options(name), DIM).double().eval())
    untied = untie(copy.deepcopy(mixer), MODALITIES)
    routed = [part for part in untied.modules() if isinstance(part, RoutedModule)]
    assert routed, "nothing was untied"
    ids = modality()
    edges = torch.randint(9, (2, 20), generator=torch.Generator().manual_seed(3)) if "edges" in mixer.needs else None
    layout = Layout(
        modality=ids, edges=edges, mask=torch.arange(9) < torch.tensor([[9], [9 if edges is not None else 5]])
    )
    x = torch.randn(2, 9, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(untied(x, layout), mixer(x, layout), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["attention", "mamba", "mamba2", "gam", "linear_attention", "mossformer"])
def test_modalities_have_parameters_of_their_own(name: str) -> None:
    """A change of one modality's projections changes what its tokens say, and a planted shared weight would show."""
    torch.manual_seed(0)
    untied = untie(draw(build_mixer(options(name), DIM).double().eval()), 2)
    first = next(part for part in untied.modules() if isinstance(part, RoutedLinear))
    x = torch.randn(1, 6, DIM, dtype=torch.float64)
    ids = torch.tensor([[0, 0, 0, 1, 1, 1]])
    with torch.no_grad():
        before = untied(x, Layout(modality=ids))
        alone = untied(x, Layout(modality=torch.zeros_like(ids)))
        first.weight[1] += 1.0
        after = untied(x, Layout(modality=ids))
    assert not torch.allclose(before, after)
    torch.testing.assert_close(untied(x, Layout(modality=torch.zeros_like(ids))), alone)


def test_a_mixer_without_modalities_told_says_so() -> None:
    untied = untie(Attention(DIM, heads=4), 2)
    with pytest.raises(ValueError, match=r"layout: expected Layout\(modality=...\), .* found no field"):
        untied(torch.zeros(1, 3, DIM), Layout())
    with pytest.raises(ValueError, match="modality: expected 0 to 1, found 2"):
        untied(torch.zeros(1, 3, DIM), Layout(modality=torch.tensor([[0, 1, 2]])))
    with pytest.raises(ValueError, match="that say of which modality each token is, found None"):
        per_token(RoutedLinear(2, 4, 4), torch.zeros(1, 2, 4), None)


@pytest.mark.parametrize("make", [SwiGLU, GELU])
def test_a_feed_forward_is_sorted_once(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = draw(make(DIM, 24).double())
    routed = untie(copy.deepcopy(dense), MODALITIES)
    moves = []
    apply = route_module._Permute.apply
    monkeypatch.setattr(route_module._Permute, "apply", lambda *a: moves.append(1) or apply(*a))
    x = torch.randn(2, 9, DIM, dtype=torch.float64)
    y = together(routed, x, Layout(modality=modality()))
    assert len(moves) == 2  # there and back, for two or three projections
    torch.testing.assert_close(y, dense(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["rmsnorm", "layernorm"])
def test_norms_equal_a_loop(kind: str) -> None:
    norm = draw(RoutedNorm(MODALITIES, DIM, kind=kind).double())
    ids = modality()
    x = torch.randn(2, 9, 4, DIM, dtype=torch.float64)  # heads beside
    expected = torch.empty_like(x)
    for row in range(2):
        for token in range(9):
            m, z = ids[row, token], x[row, token]
            if norm.bias is not None:
                z = z - z.mean(-1, keepdim=True)
            z = z / (z.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight[m]
            expected[row, token] = z if norm.bias is None else z + norm.bias[m]
    torch.testing.assert_close(norm(x, Layout(modality=ids)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("placement", ["pre", "post_branch"])
@pytest.mark.parametrize("count", [1, 3])
def test_tied_experts_are_the_dense_block(count: int, placement: str) -> None:
    """n = 1, and n = 3 with copies: the dense block within 1e-6, also in its gradients."""
    torch.manual_seed(0)
    make = {"feed_forward_dim": 24, "norm_placement": placement}
    dense = draw(MixerBlock(Attention(DIM, heads=4, rope=True, qk_norm=True), **make))
    routed = MixerBlock(Attention(DIM, heads=4, rope=True, qk_norm=True), **make, modalities=count)
    with torch.no_grad():
        for parameter, value in zip(routed.parameters(), dense.parameters(), strict=True):
            parameter.copy_(value.expand_as(parameter))
    ids = modality() % count
    x = torch.randn(2, 9, DIM)
    results = []
    for block in (dense, routed):
        leaf = x.clone().requires_grad_()
        y = block(leaf, Layout(modality=ids))
        y.square().sum().backward()
        results.append((y, leaf.grad, [p.grad for p in block.parameters()]))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=0, atol=1e-6)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=0, atol=1e-5)
    for tied, whole in zip(results[1][2], results[0][2], strict=True):
        torch.testing.assert_close(tied.sum(0), whole, rtol=1e-4, atol=1e-4)


def test_rows_do_not_depend_on_their_batch() -> None:
    torch.manual_seed(0)
    block = draw(MixerBlock(Attention(DIM, heads=4), feed_forward_dim=24, modalities=MODALITIES).double())
    x, ids = torch.randn(4, 9, DIM, dtype=torch.float64), modality(4)
    together_ = block(x, Layout(modality=ids))
    for row in range(4):
        alone = block(x[row : row + 1], Layout(modality=ids[row : row + 1]))
        torch.testing.assert_close(alone[0], together_[row], rtol=0, atol=1e-12)


def stack(**options: Any) -> Stack:
    torch.manual_seed(0)
    mixers = {
        "a": {"mixer": "attention", "heads": 4, "rope": True},
        "m": {"mixer": "mamba2", "head_dim": 8, "state_size": 8},
    }
    return draw(Stack(DIM, mixers, "am", layers=4, feed_forward_dim=24, modalities=MODALITIES, **options))


def test_a_stack_sorts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sorts = []
    original = route_module.route_tokens
    monkeypatch.setattr("tokenmix.routed.base.route_tokens", lambda *a: sorts.append(1) or original(*a))
    stack()(torch.randn(2, 9, DIM), Layout(modality=modality(), mask=torch.arange(9) < torch.tensor([[9], [4]])))
    assert len(sorts) == 1


def test_a_compiled_stack_is_one_graph_that_sorts_once() -> None:
    torch.compiler.reset()
    targets: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    module, layout = stack().eval(), Layout(modality=modality())
    x = torch.randn(2, 9, DIM)
    with torch.no_grad():
        expected = module(x, layout)
        found = torch.compile(lambda x, ids: module(x, Layout(modality=ids)), fullgraph=True, backend=backend)(
            x, layout.modality
        )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert [target for target in targets if target in ("sort", "argsort")] == ["sort"]
    assert not {"nonzero", "item", "tolist"} & set(targets)


def test_chunks_that_change_modality_equal_one_call() -> None:
    module = stack().double().eval()
    x, ids = torch.randn(2, 9, DIM, dtype=torch.float64), modality()
    whole = module(x, Layout(modality=ids))
    state, parts = module.init_state(2), []
    for low, high in ((0, 4), (4, 5), (5, 6), (6, 9)):
        parts.append(module(x[:, low:high], Layout(modality=ids[:, low:high]), state))
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-10)
    last = module(x, Layout(modality=ids), last_only=True)
    torch.testing.assert_close(last, whole[:, -1:], rtol=0, atol=1e-10)


def test_any_modules_one_a_modality() -> None:
    torch.manual_seed(0)
    experts = [nn.Linear(DIM, DIM), nn.Sequential(nn.Linear(DIM, 4), nn.GELU(), nn.Linear(4, DIM)), nn.Identity()]
    routed = Routed(experts).double()
    x, ids = torch.randn(2, 9, DIM, dtype=torch.float64), modality()
    y = routed(x, Layout(modality=ids))
    for row in range(2):
        for token in range(9):
            torch.testing.assert_close(y[row, token], experts[ids[row, token]](x[row, token]))
    for parameter in routed.parameters():
        parameter.grad = None
    routed(x, Layout(modality=torch.zeros_like(ids))).sum().backward()
    assert all(p.grad is not None for p in routed.parameters())
    assert all((p.grad == 0).all() for expert in experts[1:] for p in expert.parameters())
    assert all((p.grad != 0).any() for p in experts[0].parameters())


def test_whole_mixers_one_a_modality() -> None:
    torch.manual_seed(0)
    mixers = [Attention(DIM, heads=2).double(), build_mixer({"mixer": "gam", "slots": 4}, DIM).double()]
    ids = torch.tensor([[0, 1, 0, 1, 1, 0]])
    x = torch.randn(1, 6, DIM, dtype=torch.float64)
    y = Routed(mixers)(x, Layout(modality=ids))
    for m, mixer in enumerate(mixers):
        places = (ids[0] == m).nonzero()[:, 0]
        torch.testing.assert_close(y[:, places], mixer(x[:, places]), rtol=0, atol=1e-12)


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="experts: expected one module a modality, found none"):
        Routed([])
    with pytest.raises(ValueError, match=r"experts: expected mixers alone or none, found \['Attention', 'Linear'\]"):
        Routed([Attention(DIM, heads=4), nn.Linear(DIM, DIM)])
    with pytest.raises(ValueError, match="modalities: expected a positive integer, found 0"):
        untie(nn.Linear(2, 2), 0)
    with pytest.raises(ValueError, match="norm_placement: expected one of"):
        MixerBlock(Attention(DIM, heads=4), norm_placement="after")
    with pytest.raises(ValueError, match="kind: expected 'rmsnorm' or 'layernorm', found 'batch'"):
        RoutedNorm(2, 4, kind="batch")
    with pytest.raises(ValueError, match="norm: expected one with weights over one axis"):
        untie(nn.RMSNorm(4, elementwise_affine=False), 2)
