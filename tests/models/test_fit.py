"""FIT: the equations, who sees whom, loss, gradients and cost."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_fit_tools import EXACT, GROUP, LATENTS, MIXERS, build, built, check_equations, reference, settings
from tiny_models import VOCABULARY, assert_close, randomize, tokens
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tokenmix.blocks import Stack
from tokenmix.layout import Layout
from tokenmix.models.fit import FITForCausalLM, FITModel


@pytest.fixture(autouse=True)
def _no_gradients(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


def features(model: Any, ids: Tensor, **inputs: Any) -> Tensor:
    """(B, L, D) without a cache."""
    return built(model)(ids, use_cache=False, **inputs).last_hidden_state


# ---------------------------------------------------------------------- the equations


@pytest.mark.parametrize("query_norm", [True, False])
@pytest.mark.parametrize("length", [1, GROUP, 3 * GROUP - 1])
@pytest.mark.parametrize("layers", ["(1)2(1)1(1)", "(1)1(0)1", "(2)1", "(0)1(1)"])
@pytest.mark.parametrize("causal", [True, False])
def test_equals_the_equations(causal: bool, layers: str, length: int, query_norm: bool) -> None:
    check_equations(build(FITModel, causal=causal, layers=layers, cross_query_norm=query_norm), length)


def test_a_language_model_is_the_same_without_what_nobody_reads() -> None:
    model = build(layers="(1)2(1)1")
    whole = FITModel(model.config).double().eval()
    missing, unexpected = whole.load_state_dict(model.model.state_dict(), strict=False)
    assert not unexpected
    assert {name.split(".")[0] for name in missing} == {"stages", "latent_norm"}
    assert all(name.startswith(("stages.1.exchange", "latent_norm")) for name in missing)
    ids = tokens(2, 11)
    assert torch.equal(features(whole, ids), features(model, ids))
    x, _ = reference(model.model, model.model.embed_tokens(ids)[0])
    expected = x @ model.lm_head.weight.T + model.lm_head.bias
    assert_close(model(ids, use_cache=False).logits[0], expected, EXACT)


@pytest.mark.parametrize("causal", [True, False])
def test_one_group_without_latents_is_a_stack(causal: bool) -> None:
    config = settings(layers="(3)", max_groups=1, group_size=12, causal=causal)
    model = randomize(FITModel(config)).eval()
    stack = Stack(
        16,
        {"a": {"mixer": "attention", "heads": 2, "bias": True, "causal": causal}},
        "aaa",
        feed_forward="gelu",
        feed_forward_dim=20,
        feed_forward_bias=True,
        norm="layernorm",
        norm_eps=1e-6,
    )
    stack.layers.load_state_dict(model.stages[0].local.layers.state_dict())
    stack.norm.load_state_dict(model.norm.state_dict())
    ids = tokens(2, 9)
    found = model(ids)
    x = model.embed_tokens(ids) + model.embed_positions.weight[:9]
    assert_close(found.last_hidden_state, stack(x), 1e-5)
    assert found.latents is None


def test_features_go_through_the_stem() -> None:
    model = build(FITModel, causal=False, input_size=5)
    x = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0)).double()
    y = x @ model.stem.weight.T + model.stem.bias
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    y = y * model.stem_norm.weight + model.stem_norm.bias
    found = model(inputs_embeds=x)
    assert_close(found.last_hidden_state[1], reference(model, y[1])[0], EXACT)


# ---------------------------------------------------------------------- who sees whom


def changed_by(model: Any, place: int, length: int = 4 * GROUP) -> list[int]:
    """The places whose features change when one token changes."""
    ids = tokens(1, length)
    other = ids.clone()
    other[0, place] = ids[0, place] % (VOCABULARY - 1) + 1
    difference = (features(model, ids) - features(model, other)).abs().amax(-1)[0]
    return [i for i in range(length) if difference[i] > 1e-12]


@pytest.mark.parametrize("name", ["attention", "rope", "gam_mamba2", "mamba_window"])
def test_a_token_reaches_its_group_and_all_later_tokens(name: str) -> None:
    model = build(**MIXERS[name])
    for place in (0, 2, GROUP - 1, GROUP, 2 * GROUP + 1):
        reached = changed_by(model, place)
        assert min(reached) == place, "a token never changes what is before it"
        later = [i for i in range(place, 4 * GROUP) if name != "mamba_window" or i < place + GROUP]
        assert set(later) <= set(reached)


def test_without_the_shift_it_is_not_causal() -> None:
    model = build()
    for stage in built(model).stages:
        if stage.exchange is not None:
            stage.exchange.shift = 0
    assert min(changed_by(model, GROUP + 2)) == GROUP, "the tokens of its group would see it before it comes"


def test_groups_see_each_other_only_through_latents() -> None:
    model = build(layers="(2)")
    assert changed_by(model, GROUP + 1) == [GROUP + 1, GROUP + 2, GROUP + 3]
    model = build()
    assert changed_by(model, 1)[-1] == 4 * GROUP - 1, "token 1 of group 0 affects group 3"


def test_an_encoder_sees_both_ways() -> None:
    assert changed_by(build(FITModel, causal=False), 2 * GROUP + 1) == list(range(4 * GROUP))


@pytest.mark.parametrize("group", [0, 1, 2, 3])
def test_tokens_never_see_their_own_groups_latents(group: int) -> None:
    model = build(FITModel)
    ids = tokens(1, 4 * GROUP)
    before = model(ids)
    model.embed_latents.weight[group * LATENTS : (group + 1) * LATENTS].neg_()  # a constant would go in the norm
    after = model(ids)
    changed = (after.last_hidden_state - before.last_hidden_state).abs().amax(-1)[0].view(4, GROUP).amax(1) > 1e-12
    assert changed.tolist() == [k > group for k in range(4)]
    latents = (after.latents - before.latents).abs().amax((-1, -2))[0] > 1e-12
    assert latents.tolist() == [k >= group for k in range(4)]


def test_latents_of_one_group_see_each_other() -> None:
    """The global layers of a causal model are causal in whole groups, not latent by latent."""
    model = build(FITModel, layers="(1)1")
    ids = tokens(1, 2 * GROUP)
    before = model(ids).latents
    model.embed_latents.weight[LATENTS + 1].neg_()  # the second of group 1
    changed = (model(ids).latents - before).abs().amax(-1)[0] > 1e-12
    assert changed.tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize("causal", [True, False])
def test_the_last_stages_global_layers_change_the_latents_alone(causal: bool) -> None:
    model = build(FITModel, causal=causal, layers="(1)1(1)2")
    ids = tokens(1, 10)
    before = model(ids)
    randomize(model.stages[-1].exchange)
    after = model(ids)
    assert torch.equal(after.last_hidden_state, before.last_hidden_state)
    assert (after.latents - before.latents).abs().max() > 0.1


def test_permuting_groups_with_their_latents_permutes_an_encoder() -> None:
    model = build(FITModel, causal=False)
    ids, order = tokens(2, 4 * GROUP), torch.tensor([2, 0, 3, 1])
    before = model(ids)
    moved = ids.view(2, 4, GROUP)[:, order].reshape(2, -1)
    without = model(moved).last_hidden_state.view(2, 4, GROUP, -1)
    table = model.embed_latents.weight.view(8, LATENTS, -1)
    table[:4] = table[:4][order].clone()
    after = model(moved)
    expected = before.last_hidden_state.view(2, 4, GROUP, -1)[:, order]
    assert_close(after.last_hidden_state.view(2, 4, GROUP, -1), expected, EXACT)
    assert_close(after.latents, before.latents[:, order], EXACT)
    assert (without - expected).abs().max() > 0.1, "the latents' table tells groups apart"


# ---------------------------------------------------------------------- loss, gradients, cost


def test_loss_is_the_shifted_cross_entropy_and_never_crosses_documents() -> None:
    model = build()
    documents = [tokens(1, size, seed) for seed, size in enumerate([5, 4])]
    losses = []
    for ids in documents:
        logits = model(ids, use_cache=False).logits[0].log_softmax(-1)
        losses += [-logits[i, ids[0, i + 1]] for i in range(ids.shape[1] - 1)]
    expected = torch.stack(losses).mean().float()
    packed = torch.cat(documents, dim=1)
    output = model(packed, labels=packed, segment_ids=torch.tensor([[0] * 5 + [1] * 4]))
    assert_close(output.loss.float(), expected, 1e-5)
    assert output.past_key_values is None
    summed = model(packed, labels=packed, segment_ids=torch.tensor([[0] * 5 + [1] * 4]), num_items_in_batch=16).loss
    assert_close(summed.float(), expected * 8 / 16, 1e-5)  # Trainer counts 8 labels here, of which one has no term


def assert_reached(model: torch.nn.Module) -> None:
    for where, parameter in model.named_parameters():
        assert parameter.grad is not None, where
        assert torch.isfinite(parameter.grad).all(), where
        if not where.endswith("k_proj.bias"):  # softmax does not see what is added to all keys
            assert parameter.grad.abs().max() > 1e-6, where


@pytest.mark.parametrize("layers", ["(1)2(1)1(1)", "(1)1(1)2", "(2)", "(1)1(0)"])
@pytest.mark.parametrize("name", ["attention", "gam_mamba2"])
def test_gradients_reach_every_parameter_of_a_language_model(name: str, layers: str) -> None:
    model = build(layers=layers, **MIXERS[name]).float().train()
    ids = tokens(2, 3 * GROUP)
    model(ids, labels=ids).loss.backward()
    assert_reached(model)
    if layers == "(1)2(1)1(1)":
        rows = model.model.embed_latents.weight.grad.abs().amax(1).view(-1, LATENTS).amax(1) > 0
        assert rows.tolist() == [True, True] + [False] * 6, "nobody reads the last group's latents"


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_reach_every_parameter_of_a_model_with_latents(causal: bool) -> None:
    model = build(FITModel, causal=causal, layers="(1)2(1)1")
    found = model(tokens(2, 3 * GROUP))
    (found.last_hidden_state.square().sum() + (found.latents**3).sum()).backward()
    assert_reached(model)


def test_gradients_are_the_same_recomputed() -> None:
    model, ids = build().train(), tokens(2, 9)
    found = []
    for recompute in (False, True):
        if recompute:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*found, strict=True))


def flops(length: int, count: int) -> int:
    """Of a model with `count` groups of length / count tokens, on the meta device."""
    sizes = {"hidden_size": 8, "latent_size": 8, "latents": 1, "max_groups": count, "group_size": length // count}
    with torch.device("meta"):
        model = FITModel(settings(layers="(1)1(1)", causal=False, **sizes)).eval()
        ids = torch.zeros(1, length, dtype=torch.long)
    # the fused attention of the CPU is not counted by FlopCounterMode; its decomposition is
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(ids)
    return counter.get_total_flops()


def slope(counts: list[tuple[int, int]]) -> float:
    found = [flops(length, groups) for length, groups in counts]
    return math.log(found[-1] / found[0]) / math.log(counts[-1][0] / counts[0][0])


def test_flops_grow_as_length_to_four_thirds() -> None:
    """With t = T^(2/3) groups; with a fixed number of groups, or a fixed size of them, as its square."""
    assert 1.25 < slope([(2**27, 2**18), (2**30, 2**20)]) < 1.37
    assert slope([(2**27, 2**12), (2**30, 2**12)]) > 1.9
    assert slope([(2**27, 2**21), (2**30, 2**24)]) > 1.9


def test_other_words_for_the_same_call() -> None:
    """Embeddings given, a layout given, the result as a tuple."""
    model, ids = build(), tokens(2, 7)
    expected = model(ids, use_cache=False).logits
    embeds = model.model.embed_tokens(ids)
    assert torch.equal(model(inputs_embeds=embeds, use_cache=False).logits, expected)
    assert torch.equal(model(ids, use_cache=False, return_dict=False)[0], expected)
    assert_close(model(ids, use_cache=False, logits_to_keep=2).logits, expected[:, -2:], EXACT)
    assert isinstance(model, FITForCausalLM)
    layout = Layout(segments=torch.tensor([[0] * 4 + [1] * 3] * 2))
    found = model.model(ids, layout=layout).last_hidden_state
    assert torch.equal(found, model.model(ids, segment_ids=layout.segments).last_hidden_state)
