"""Tokens sorted by modality, and products whose weights a token's modality chooses."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tokenmix.ops import route as route_module
from tokenmix.ops.route import Route, route_tokens, routed_linear

MODALITIES = 3


def case(tokens: int, ids: Tensor | None = None, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(MODALITIES, (tokens,), generator=generator) if ids is None else ids
    x = torch.randn(tokens, 5, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(MODALITIES, 4, 5, generator=generator, dtype=dtype, requires_grad=True)
    bias = torch.randn(MODALITIES, 4, generator=generator, dtype=dtype, requires_grad=True)
    return ids, x, weight, bias


def masked(ids: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The authors' way: a boolean mask for each modality."""
    y = x.new_zeros(len(x), weight.shape[1])
    for m in range(MODALITIES):
        y = y.index_put((ids == m,), F.linear(x[ids == m], weight[m], bias[m]))
    return y


def ours(ids: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    route = route_tokens(ids, MODALITIES)
    return route.put(routed_linear(route.take(x), weight, bias, route), x)


@pytest.mark.parametrize("tokens", [0, 1, 2, 17, 64])
def test_equals_masks_in_values_and_gradients(tokens: int) -> None:
    results = []
    for form in (masked, ours):
        inputs = case(tokens)
        y = form(*inputs)
        y.sin().sum().backward()
        results.append([y, *(x.grad for x in inputs[1:])])
    for expected, found in zip(*results, strict=True):
        assert found is not None
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("absent", range(MODALITIES))
def test_an_absent_modality_gets_zero_gradients(absent: int) -> None:
    ids = torch.tensor([m for m in range(MODALITIES) if m != absent] * 4)
    inputs = case(len(ids), ids)
    ours(*inputs).sum().backward()
    for parameter in inputs[2:]:
        assert parameter.grad is not None
        assert (parameter.grad[absent] == 0).all()
        assert (parameter.grad[(absent + 1) % MODALITIES] != 0).any()


def test_sorting_is_stable_and_undone() -> None:
    ids = torch.tensor([[2, 0, 1], [0, 2, 0]])
    route = route_tokens(ids, 4)
    assert route.order is not None
    assert route.order.tolist() == [1, 3, 5, 2, 0, 4]
    assert route.sizes == [3, 1, 2, 0]
    x = torch.arange(12.0).view(2, 3, 2)
    assert torch.equal(route.put(route.take(x), x), x)
    assert torch.equal(route.sorted().take(route.take(x)), route.take(x))


def test_one_modality_moves_nothing() -> None:
    route = route_tokens(torch.zeros(2, 3, dtype=torch.int64), 1)
    x = torch.randn(2, 3, 4)
    assert route.order is None
    assert route.take(x).data_ptr() == x.data_ptr()


def test_gradients_of_gradients() -> None:
    ids, x, weight, bias = case(6)
    assert torch.autograd.gradgradcheck(lambda *inputs: ours(ids, *inputs), (x, weight, bias))


class Transfers(TorchDispatchMode):
    """Counts what would wait for a GPU: values brought to the host, and sizes that depend on values."""

    names = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.name().split("::")[1].split(".")[0]
        boolean = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if boolean or any(name.startswith(n) for n in self.names):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_nothing_is_transferred_in_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    whole = route_module._sizes
    monkeypatch.setattr(route_module, "_sizes", lambda ends: counted.append(1) or whole(ends))
    ids, x, weight, bias = case(32)
    route = route_tokens(ids, MODALITIES)
    assert len(route.sizes) == MODALITIES  # the one transfer of a forward
    with Transfers() as transfers:
        y = route.put(routed_linear(route.take(x), weight, bias, route), x)
        y.sum().backward()
        routed_linear(route.take(x), weight, bias, route.sorted())
    assert transfers.found == []
    assert counted == [1]
    with Transfers() as transfers:
        masked(ids, x, weight, bias)
    assert "index" in transfers.found  # the fault that is looked for is one that would be found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiles_whole_and_equals_eager(dtype: torch.dtype) -> None:
    torch.compiler.reset()
    compiled = torch.compile(ours, fullgraph=True, dynamic=True)
    tolerance = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 0.1}
    for ids in (torch.tensor([0, 2, 1, 0, 2, 2, 0]), torch.tensor([1, 1, 1, 1, 1])):  # other groups, same graph
        results = []
        for form in (ours, compiled):
            _, *inputs = case(len(ids), ids, dtype)
            y = form(ids, *inputs)
            y.float().sin().sum().backward()
            results.append([y, *(x.grad for x in inputs)])
        for expected, found in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, **tolerance)


def test_autocast_gives_its_dtype() -> None:
    ids, x, weight, bias = case(8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(ids, x, weight, bias).dtype == torch.bfloat16


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="modality: expected 0 to 1, found 2"):
        route_tokens(torch.tensor([0, 2]), 2)
    with pytest.raises(ValueError, match="modality: expected 0 to 1, found -1"):
        route_tokens(torch.tensor([0, -1]), 2)
    with pytest.raises(TypeError, match=r"modality: expected integers, found torch\.float32"):
        route_tokens(torch.zeros(2), 2)
    with pytest.raises(ValueError, match="count: expected a positive integer, found 0"):
        route_tokens(torch.tensor([0]), 0)
    route: Route = route_tokens(torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match=r"weight: expected \(2, out, in=3\)"):
        routed_linear(torch.zeros(2, 3), torch.zeros(3, 4, 3), None, route)
