"""LargeGT against its equations written with loops, its receptive field, and bad input."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from large_gt_cases import FEATURES, NODES, build, inputs, path_graph, random_graph, some_batch
from torch import Tensor

from tokenmix.data.node_batches import NodeCollator
from tokenmix.models.large_gt import LargeGTConfig, LargeGTForNodeClassification, LargeGTModel


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return some_batch()


def naive_local(model: LargeGTModel, batch: dict[str, Tensor]) -> Tensor:
    """The local half by loops in float64, with the paper's readout, whose score of the target is added to all."""
    half, first, dim = model.local_half, model.first, model.config.hidden_size
    weight = {name: value.double() for name, value in half.state_dict().items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weight[f"{name}.weight"].t() + weight.get(f"{name}.bias", torch.zeros((), dtype=torch.float64))

    def norm(x: Tensor, name: str) -> Tensor:
        spread = (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return (x - x.mean(-1, keepdim=True)) / spread * weight[f"{name}.weight"] + weight[f"{name}.bias"]

    results = []
    for row in batch["places"]:
        raw = torch.stack([batch["features"][place, hop] for place in row for hop in range(3)]).double()
        z = raw @ first.token_in.weight.double().t() + first.token_in.bias.double()
        x = linear(linear(z.relu(), "token_out"), "local_in")
        q, k, v = linear(norm(x, "norm"), "qkv_proj").chunk(3, dim=1)
        heads = []
        for head in range(model.config.num_attention_heads):
            own = slice(head * dim, (head + 1) * dim)
            heads.append((q[:, own] @ k[:, own].t() / dim**0.5).softmax(1) @ v[:, own])
        y = norm(linear(x, "residual") + linear(torch.cat(heads, 1), "o_proj"), "out_norm")
        scores = torch.stack([weight["readout.weight"][0] @ y[j] + 5.0 * y[0].sum() for j in range(1, len(y))])
        results.append(y[0] + sum(a * y[j] for j, a in enumerate(scores.softmax(0), start=1)))
    return torch.stack(results)


def test_the_local_half_is_its_equation(batch: dict[str, Tensor]) -> None:
    model = build("local").model.eval()
    found = model(**{key: batch[key] for key in ("places", "nodes", "features")}).last_hidden_state
    torch.testing.assert_close(found.double(), naive_local(model, batch), atol=2e-5, rtol=1e-4)


def test_sampled_nodes_have_no_order_and_the_target_is_not_one_of_them(batch: dict[str, Tensor]) -> None:
    model = build("local").eval()
    kept = {key: batch[key] for key in ("nodes", "features")}
    whole = model(batch["places"], **kept).logits
    order = torch.tensor([0, 5, 3, 1, 6, 2, 4])
    torch.testing.assert_close(model(batch["places"][:, order], **kept).logits, whole, atol=1e-5, rtol=1e-5)
    other = model(batch["places"][:, [1, 0, 2, 3, 4, 5, 6]], **kept).logits
    assert (other - whole).abs().max() > 1e-3


def test_kinds_tell_near_nodes_others_and_hops_apart(batch: dict[str, Tensor]) -> None:
    kept = {key: batch[key] for key in ("nodes", "features")}
    plain, told = build("local").eval(), build("local", token_kinds=True, near_nodes=2).eval()
    told.load_state_dict({**plain.state_dict(), "model.local_half.kinds": torch.zeros(3, 3, 8)})
    whole = plain(batch["places"], **kept).logits
    assert torch.equal(told(batch["places"], **kept).logits, whole)  # at the start it is the published model
    with torch.no_grad():
        torch.nn.init.normal_(told.model.local_half.kinds)
    whole = told(batch["places"], **kept).logits
    for order, same in (([0, 2, 1, 5, 6, 4, 3], True), ([0, 3, 2, 1, 4, 5, 6], False)):
        gap = (told(batch["places"][:, order], **kept).logits - whole).abs().max()
        assert bool(gap < 1e-5) == same


@pytest.mark.parametrize("mode", ["local", "full"])
def test_a_node_reaches_exactly_four_hops(mode: str) -> None:
    """On a path, with a sample that holds all of both hops: features four hops away change the output, five never."""
    nodes, target = 13, 6
    graph, size = path_graph(nodes), 40
    model = build(mode, num_nodes=nodes, sample_size=size, position_size=0).eval()
    with torch.no_grad():  # codes that read features: as trained, but for the numbers
        model.train()
        model(**inputs(graph, torch.randn(nodes, FEATURES), None, torch.arange(nodes), size))
        model.eval()
    features = torch.randn(nodes, FEATURES)
    before = model(**inputs(graph, features, None, torch.tensor([target]), size)).logits
    for node in range(nodes):
        changed = features.clone()
        changed[node] += 1.0
        after = model(**inputs(graph, changed, None, torch.tensor([target]), size)).logits
        if abs(node - target) <= 4:
            assert not torch.equal(before, after), f"{abs(node - target)} hops away"
        else:
            assert torch.equal(before, after), f"{abs(node - target)} hops away"


@pytest.mark.parametrize("sparse", [False, True])
def test_a_graph_in_memory_gives_what_stored_hop_features_give(sparse: bool) -> None:
    graph = random_graph()
    features = (torch.rand(NODES, FEATURES, generator=torch.Generator().manual_seed(2)) > 0.6).float()
    positions, nodes = torch.randn(NODES, 4), torch.tensor([4, 9, 23, 0])
    stored, attached = build(dropout=0.0, local_dropout=0.0), build(dropout=0.0, local_dropout=0.0)
    attached.attach(graph, features.to_sparse_csr() if sparse else features)
    for model in (stored, attached):
        torch.manual_seed(5)  # of the first codes
        model.train()(**inputs(graph, features, positions, torch.arange(NODES)))
        model.eval()
    labels = torch.tensor([0, 2, -100, 1])
    first = stored(**inputs(graph, features, positions, nodes), labels=labels)
    second = attached(**NodeCollator(graph, 7, positions=positions).sample(nodes), labels=labels)
    torch.testing.assert_close(first.logits, second.logits, atol=2e-5, rtol=1e-4)
    first.loss.backward(), second.loss.backward()
    for (name, one), two in zip(stored.named_parameters(), attached.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=2e-5, rtol=1e-3, msg=name)


def test_kept_products_follow_the_weights_and_the_graph() -> None:
    graph, features = random_graph(), torch.randn(NODES, FEATURES)
    model, nodes = build("full", position_size=0).eval(), torch.tensor([1, 2])
    batch = NodeCollator(graph, 7).sample(nodes)

    def both() -> tuple[Tensor, Tensor]:
        found = model(**batch).logits
        model.model.first._kept = None
        return found, model(**batch).logits

    with torch.no_grad():
        model.attach(graph, features)
        before = model(**batch).logits
        assert torch.equal(model(**batch).logits, before)
        model.model.first.token_in.weight.mul_(2.0)
        after = both()
        assert torch.equal(*after)
        assert not torch.equal(before, after[0])
        model.model.first.token_in.weight.data.mul_(0.5)  # no version tells
        assert torch.equal(*both())
        for seed in range(5):  # a new graph may lie where an old one lay
            model.attach(None)
            model.attach(random_graph(seed=seed), torch.randn(NODES, FEATURES))
            assert torch.equal(*both())
        other = copy.deepcopy(model)
        assert torch.equal(other(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("way", ["cast", "autocast"])
def test_half_precision_with_a_graph_in_memory(way: str) -> None:
    graph, features = random_graph(), (torch.rand(NODES, FEATURES) > 0.5).float().to_sparse_csr()
    model = build(position_size=0, dropout=0.0, local_dropout=0.0)
    model.attach(graph, features)
    batch = NodeCollator(graph, 7).sample(torch.arange(NODES))
    model.train()(**batch)
    expected = model.eval()(**batch).logits
    if way == "cast":
        found = model.bfloat16()(**batch).logits
    else:
        with torch.autocast("cpu", torch.bfloat16):
            found = model(**batch).logits
            model.train()(**batch, labels=torch.zeros(NODES, dtype=torch.int64)).loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    assert (found.float() - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("mode", ["full", "local", "global"])
def test_every_parameter_that_trains_gets_a_gradient(mode: str, batch: dict[str, Tensor]) -> None:
    model = build(mode).train()
    if mode == "local":
        batch.pop("positions")
    model(**batch, labels=torch.tensor([0, 1, 2, 0, 1])).loss.backward()
    model.zero_grad()  # the second step: in the first one, every code is a node of the batch
    model(**batch, labels=torch.tensor([0, 1, 2, 0, 1])).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("bias"):
            assert parameter.grad.abs().max() > 0, name


def test_a_batch_of_one_and_labels_that_are_missing(batch: dict[str, Tensor]) -> None:
    model = build().train()
    one = {key: value[:1] if key != "features" else value for key, value in batch.items()}
    output = model(**one, labels=torch.tensor([-100]))
    assert output.logits.shape == (1, 3)
    assert output.loss == 0
    assert output.logits.isfinite().all()
    whole = model.eval()(**batch, labels=torch.tensor([0, -100, 2, -100, 1]))
    expected = torch.nn.functional.cross_entropy(whole.logits[[0, 2, 4]], torch.tensor([0, 2, 1]))
    torch.testing.assert_close(whole.loss, expected)


def test_saved_and_loaded_it_is_the_same_with_its_codes(batch: dict[str, Tensor], tmp_path: Path) -> None:
    model = build().train()
    model(**batch)
    model.eval().save_pretrained(tmp_path)
    other = LargeGTForNodeClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(model(**batch).logits, other(**batch).logits)
    for (name, one), two in zip(model.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(one, two), name


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"places": torch.zeros(5, 7)}, "places: expected integers"),
        ({"places": torch.full((5, 7), 99)}, "places: expected numbers from 0 to"),
        ({"places": torch.zeros(4, 7, dtype=torch.int64)}, r"places: expected shape \(B, K\) with B=5"),
        ({"nodes": torch.full((5,), NODES)}, f"nodes: expected numbers from 0 to {NODES - 1}, found {NODES}"),
        ({"nodes": torch.tensor([0, 1, 2, 3, -1])}, "nodes: expected numbers from 0 .* found -1"),
        ({"features": torch.zeros(9, 2, FEATURES)}, "features: expected shape"),
        ({"features": None}, "features: expected hop features, or a graph"),
        (
            {"features": torch.full((24, 3, FEATURES), torch.nan)},
            "features: expected finite numbers, found NaN .* row 0",
        ),
        ({"features": torch.zeros(24, 3, FEATURES).numpy()}, "features: expected a dense tensor, found ndarray"),
        ({"positions": torch.eye(5, 4) / 0}, "positions: expected finite numbers, found NaN or infinity in row 0"),
        ({"positions": None}, "positions: expected shape"),
        ({"positions": torch.zeros(5, 3)}, "positions: expected shape"),
        ({"labels": torch.tensor([0, 1, 2, 3, 0])}, "labels: expected -100, or 0 to 2, found 3"),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, "labels: expected int64 of shape"),
    ],
)
def test_bad_input_is_named(batch: dict[str, Tensor], change: dict[str, Tensor | None], expected: str) -> None:
    with pytest.raises((ValueError, TypeError), match=expected):
        build()(**{**batch, **change})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"mode": "both"}, "mode: expected one of full, local, global"),
        ({"vq_init": "zeros"}, "vq_init: expected"),
        ({"hidden_size": 0}, "hidden_size: expected a positive integer"),
        ({"hops": -1}, "hops: expected 0 or more"),
        ({"dropout": 1.0}, "dropout: expected a probability"),
        ({"vq_normalised": "no"}, "vq_normalised: expected True or False"),
        ({"vq_decay": 1.0}, "vq_decay: expected a number between"),
        ({"hiden_size": 4}, "hiden_size: not a field"),
        ({"sample_size": 1, "hops": 0}, "sample_size, hops: expected more than one token"),
    ],
)
def test_bad_settings_are_named(fields: dict[str, object], expected: str) -> None:
    with pytest.raises((ValueError, TypeError), match=expected):
        LargeGTConfig(**fields)


def test_a_partial_checkpoint_keeps_the_statistics_that_it_has(batch: dict[str, Tensor], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = build().train()
    model(**batch)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name in ("fusion.0.norm.num_batches_tracked", "model.global_half.node_codes.nodes_per_code"):
        del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    other = LargeGTForNodeClassification.from_pretrained(tmp_path)
    assert torch.equal(other.fusion[0].norm.running_mean, model.fusion[0].norm.running_mean)
    assert torch.equal(other.model.global_half.node_codes.counts(), model.model.global_half.node_codes.counts())


def test_codes_for_another_graph_are_forgotten_with_their_counts(batch: dict[str, Tensor], tmp_path: Path) -> None:
    model = build().train()
    model(**batch)
    model.save_pretrained(tmp_path)
    other = LargeGTForNodeClassification.from_pretrained(tmp_path, num_nodes=9, ignore_mismatched_sizes=True)
    codes = other.model.global_half.node_codes
    assert torch.equal(other.model.global_half.quantiser.code, model.model.global_half.quantiser.code)
    assert codes.codes.tolist() == [-1] * 9
    assert codes.counts().tolist() == [0] * 5


def test_small_integers_name_nodes_too(batch: dict[str, Tensor]) -> None:
    model = build().eval()
    small = {name: batch[name].to(torch.uint8) for name in ("places", "nodes")}
    assert torch.equal(model(**{**batch, **small}).logits, model(**batch).logits)


def test_features_that_are_no_numbers_are_refused() -> None:
    features = torch.zeros(NODES, FEATURES)
    features[3, 1] = torch.nan
    with pytest.raises(ValueError, match="features: expected finite numbers"):
        build().attach(random_graph(), features)


def test_a_graph_of_another_size_is_refused() -> None:
    model = build()
    with pytest.raises(ValueError, match="graph: expected num_features=5, found 4"):
        model.attach(random_graph(), torch.zeros(NODES, 4))
    with pytest.raises(ValueError, match=r"features: expected shape \(24, F\), found \(23, 5\)"):
        model.attach(random_graph(), torch.zeros(23, 5))
    with pytest.raises(
        TypeError, match=r"features: expected a dense tensor or torch\.sparse_csr, found torch.sparse_coo"
    ):
        model.attach(random_graph(), torch.zeros(NODES, FEATURES).to_sparse())
