"""Baselines for graphs: against dense references and torch_geometric, and what may not decide a choice."""

import dataclasses
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tokenmix.data.graphs import NodeData, load_graph
from tokenmix.ops.graph import Graph
from tokenmix.training.graph_baselines import BASELINES, run_baseline, settings_of, tune_baseline, tune_kept
from tokenmix.training.graph_baselines.matrices import adjacency, feature_matrix
from tokenmix.training.graph_baselines.network import GraphLayer, GraphNetwork, Projection
from tokenmix.training.graph_baselines.settings import FIRST, GRIDS
from tokenmix.training.graph_baselines.simple import label_propagation

CORA = Path(__file__).parents[2].parent / "shared" / "data" / "cora"
QUICK = {"hidden": 16, "epochs": 30, "dropout": 0.2}


def block_model(*, sparse: bool = False, nodes: int = 240, seed: int = 0) -> NodeData:
    """Three communities with many edges inside and few between; features say little."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, nodes)
    odds = np.where(labels[:, None] == labels[None], 0.06, 0.005)
    edges = np.argwhere(np.triu(random.random((nodes, nodes)) < odds, 1)).T
    graph = Graph.from_edges(torch.from_numpy(edges), nodes, undirected=True)
    hints = np.eye(3)[labels] * 0.8 + random.normal(size=(nodes, 3))
    features = torch.from_numpy((hints > 0.6).astype(np.float32))
    order = torch.from_numpy(random.permutation(nodes))
    return NodeData(
        "blocks",
        graph,
        features.to_sparse_csr() if sparse else features,
        torch.from_numpy(labels),
        ("a", "b", "c"),
        order[:80],
        order[80:140],
        order[140:],
        "a test",
    )


def dense_adjacency(graph: Graph) -> torch.Tensor:
    dense = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.float64)
    for sender, receiver in graph.edges().T.tolist():
        dense[receiver, sender] = dense[sender, receiver] = 1
    return dense


@pytest.mark.parametrize("normalisation", ["symmetric", "mean"])
@pytest.mark.parametrize("self_loops", [False, True])
def test_adjacency_equals_its_equation(normalisation, self_loops):
    graph = Graph.from_edges(torch.tensor([[0, 1, 2, 2, 4, 0], [1, 2, 0, 2, 4, 1]]), 6, coalesce=False)
    dense = dense_adjacency(graph)
    if self_loops:
        dense.fill_diagonal_(1)
    sums = dense.sum(1).clamp(min=1)
    right = dense / sums[:, None] if normalisation == "mean" else dense / (sums[:, None] * sums[None]).sqrt()
    found = adjacency(graph, normalisation, self_loops=self_loops)
    torch.testing.assert_close(found.matrix.to_dense(), right.float())
    torch.testing.assert_close(found.transposed.to_dense(), right.float().T)


@pytest.mark.parametrize("normalisation", ["symmetric", "mean"])
def test_label_propagation_equals_a_dense_reference(normalisation):
    data = block_model()
    dense = dense_adjacency(data.graph)
    sums = dense.sum(1).clamp(min=1)
    matrix = dense / sums[:, None] if normalisation == "mean" else dense / (sums[:, None] * sums[None]).sqrt()
    known = torch.zeros(240, 3, dtype=torch.float64)
    known[data.train] = F.one_hot(data.labels[data.train], 3).double()
    spread = known
    for _ in range(7):
        spread = 0.8 * matrix @ spread + 0.2 * known
    top = spread.topk(2, dim=1).values
    clear = top[:, 0] - top[:, 1] > 1e-5
    assert clear.float().mean() > 0.9
    found = label_propagation(data, alpha=0.8, steps=7, normalisation=normalisation)
    assert torch.equal(found[clear], spread.argmax(1)[clear])
    unlike = label_propagation(data, alpha=0.8, steps=1, normalisation=normalisation)
    assert not torch.equal(unlike, found)


def test_label_propagation_gives_the_majority_where_no_label_comes():
    graph = Graph.from_edges(torch.tensor([[0, 1], [1, 2]]), 5, undirected=True)
    ids, labels = torch.arange(5), torch.tensor([0, 1, 0, 1, 1])
    # The training nodes 0, 3 and 4 are of classes 0, 1 and 1; 3 and 4 stand alone, 1 and 2 hang on 0.
    data = NodeData("five", graph, torch.eye(5), labels, ("a", "b"), ids[[0, 3, 4]], ids[1:2], ids[2:3], "a test")
    assert label_propagation(data, steps=1).tolist() == [0, 0, 1, 1, 1]
    assert label_propagation(data, steps=2).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("name", ["majority", "label_propagation", "logistic_regression"])
def test_labels_outside_training_do_not_matter(name, split):
    data = block_model()
    labels = data.labels.clone()
    labels[getattr(data, split)] = (labels[getattr(data, split)] + 1) % 3
    before, after = (run_baseline(name, each) for each in (data, dataclasses.replace(data, labels=labels)))
    assert torch.equal(before.predictions, after.predictions)
    ids = getattr(data, split)
    for result, right in ((before, data.labels), (after, labels)):
        assert math.isclose(getattr(result, split), float((result.predictions == right)[ids].double().mean()))


@pytest.mark.parametrize("name", ["logistic_regression", "mlp", "gcn", "gat"])
def test_test_labels_do_not_choose(name):
    data = block_model()
    labels = data.labels.clone()
    labels[data.test] = (labels[data.test] + 1) % 3
    other = dataclasses.replace(data, labels=labels)
    # Full grids take long: three short settings instead.
    quick = [{"hidden": 8, "epochs": 4, "learning_rate": rate} for rate in (1e-4, 0.02, 0.1)]
    if name == "logistic_regression":
        quick = [{"l2": l2} for l2 in (1.0, 1e-3, 1e-1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FIRST, name, quick)
        before, after = (tune_baseline(name, each, trials=3, seeds=[0]) for each in (data, other))
    assert before.settings == after.settings
    assert [trial.val for trial in before.trials] == [trial.val for trial in after.trials]
    assert torch.equal(before.runs[0].predictions, after.runs[0].predictions)
    assert before.runs[0].test != after.runs[0].test
    assert before.settings == quick[max(range(3), key=lambda place: before.trials[place].val)]


@pytest.mark.parametrize("name", ["mlp", "gcn", "sage", "gat"])
def test_equal_seeds_give_equal_results(name):
    data = block_model()
    state = torch.get_rng_state()
    runs = [run_baseline(name, data, QUICK, seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(runs[0].predictions, runs[1].predictions)
    assert (runs[0].val, runs[0].epochs) == (runs[1].val, runs[1].epochs)
    assert not torch.equal(runs[0].predictions, runs[2].predictions)


def test_those_that_read_the_graph_beat_those_that_do_not():
    data = block_model(nodes=600)
    scores = {
        name: run_baseline(name, data, QUICK if name in GRIDS and "hidden" in GRIDS[name] else None).test
        for name in BASELINES
    }
    without = max(scores[name] for name in ("majority", "logistic_regression", "mlp"))
    assert scores["majority"] < scores["logistic_regression"]
    assert without < 0.7
    for name in ("label_propagation", "gcn", "sage", "gat"):
        assert scores[name] > without + 0.1, scores


@pytest.mark.parametrize("name", ["logistic_regression", "mlp", "gcn", "sage"])
def test_sparse_features_equal_dense_ones(name):
    settings = {} if name == "logistic_regression" else QUICK
    dense, sparse = (run_baseline(name, block_model(sparse=each), settings) for each in (False, True))
    assert (dense.predictions == sparse.predictions).float().mean() > 0.98
    assert dense.parameters == sparse.parameters


def test_gradients_of_a_sparse_first_layer_equal_the_dense_ones():
    torch.manual_seed(0)
    x = (torch.rand(30, 12) < 0.2).float()
    layer = Projection(12, 5)
    weights = torch.randn(30, 5)
    gradients = []
    for each in (x, feature_matrix(x.to_sparse_csr())):
        layer.zero_grad()
        (layer(each) * weights).sum().backward()
        gradients.append((layer.weight.grad.clone(), layer.bias.grad.clone()))
    torch.testing.assert_close(gradients[1][0], x.T @ weights)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_rows_of_sparse_features():
    x = (torch.rand(20, 7, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    x[4] = 0
    rows = torch.tensor([7, 4, 0, 19])
    found = feature_matrix(x.to_sparse_csr(), rows)
    assert torch.equal(found.matrix.to_dense(), x[rows])
    assert torch.equal(found.transposed.to_dense(), x[rows].T)


@pytest.mark.parametrize("kind", ["gcn", "sage"])
def test_layers_equal_those_of_torch_geometric(kind):
    nn = pytest.importorskip("torch_geometric.nn")
    torch.manual_seed(0)
    data = block_model()
    x = torch.randn(240, 6)
    ours = GraphLayer(kind, 6, 4)
    with torch.no_grad():
        ours.bias.normal_()
    graph = GraphNetwork(kind, 6, 4).prepare(data.graph)
    if kind == "gcn":
        theirs = nn.GCNConv(6, 4)
        theirs.lin.weight.data, theirs.bias.data = ours.project.weight.data.T, ours.bias.data
        weight = theirs.lin.weight
    else:
        theirs = nn.SAGEConv(6, 4)
        theirs.lin_l.weight.data, theirs.lin_l.bias.data = ours.project.weight.data.T, ours.bias.data
        theirs.lin_r.weight.data = ours.own.weight.data.T
        weight = theirs.lin_l.weight
    out, right = ours(x, graph), theirs(x, data.graph.edges())
    torch.testing.assert_close(out, right)
    out.square().sum().backward()
    right.square().sum().backward()
    torch.testing.assert_close(ours.project.weight.grad, weight.grad.T, rtol=1e-4, atol=1e-3)


def test_logistic_regression_is_at_its_minimum():
    data = block_model()
    random = np.random.default_rng(1)
    data = dataclasses.replace(data, features=torch.from_numpy(random.normal(size=(240, 4)).astype(np.float32)))
    found = run_baseline("logistic_regression", data, {"l2": 0.01, "steps": 200}).predictions
    x, labels = data.features.double(), data.labels[data.train]
    weight, bias = torch.zeros(4, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for _ in range(4000):  # plain gradient descent, of which the gradient is written out
        shares = (x[data.train] @ weight + bias).softmax(1) - F.one_hot(labels, 3)
        weight -= 0.5 * (x[data.train].T @ shares / len(labels) + 0.01 * weight)
        bias -= 0.5 * shares.mean(0)
    assert (found == (x @ weight + bias).argmax(1)).float().mean() > 0.99
    assert not torch.equal(found, run_baseline("logistic_regression", data, {"l2": 10.0}).predictions)


def test_every_setting_of_the_grids_is_understood():
    data = block_model()
    for name in BASELINES:
        for settings in settings_of(name, 8):
            short = {} if name in ("majority", "label_propagation", "logistic_regression") else {"epochs": 1}
            result = run_baseline(name, data, settings | short)
            assert 0 <= result.val <= 1
            assert len(result.predictions) == 240


def test_more_trials_go_on_where_fewer_ended():
    for name in BASELINES:
        many = settings_of(name, 12)
        assert settings_of(name, 5) == many[:5]
        assert len({str(sorted(settings.items())) for settings in many}) == len(many)
    assert settings_of("gcn", 12, seed=1) != settings_of("gcn", 12)
    assert len(settings_of("majority", 9)) == 1


def test_tuned_runs_and_what_is_kept(tmp_path):
    data = block_model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FIRST, "gcn", [QUICK | {"epochs": 1, "learning_rate": 1e-5}, QUICK])
        tuned = tune_baseline("gcn", data, trials=2, seeds=[5, 6, 7])
        assert tuned.settings == QUICK
        assert [run.seed for run in tuned.runs] == [5, 6, 7]
        assert tuned.runs[0] is tuned.trials[1]
        kept = tune_kept("gcn", data, 2, [5, 6, 7], tmp_path)
        assert math.isclose(kept.metrics["test"], sum(run.test for run in tuned.runs) / 3)
        assert kept.metrics["test_spread"] > 0
        assert (kept.metrics["seeds"], kept.metrics["trials"], len(kept.history)) == (3, 2, 2)
        stamp = os.stat(tmp_path / "gcn.json").st_mtime_ns
        assert tune_kept("gcn", data, 2, [5, 6, 7], tmp_path).metrics == kept.metrics
        assert os.stat(tmp_path / "gcn.json").st_mtime_ns == stamp
        limited = tune_baseline("gcn", data, trials=2, seeds=[5], budget=0.0)
        assert len(limited.trials) == 1
    assert len(tune_baseline("majority", data, trials=3).runs) == 1


def test_mistakes_are_named():
    data = block_model()
    none = torch.empty(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="unknown baseline 'mpl'; did you mean 'mlp'"):
        run_baseline("mpl", data)
    with pytest.raises(ValueError, match="train: expected at least one node"):
        tune_baseline("gcn", dataclasses.replace(data, train=none), trials=1)
    with pytest.raises(ValueError, match="val: expected at least one node"):
        run_baseline("gcn", dataclasses.replace(data, val=none))
    few = data.train[data.labels[data.train] != 1]
    assert run_baseline("majority", dataclasses.replace(data, train=few)).test > 0  # a class that nobody trains on
    with pytest.raises(ValueError, match="trials: expected 1 or more, found 0"):
        tune_baseline("mlp", data, trials=0)
    with pytest.raises(ValueError, match="seeds"):
        tune_baseline("mlp", data, trials=1, seeds=[])
    with pytest.raises(TypeError, match="widht"):
        run_baseline("mlp", data, {"widht": 3})
    with pytest.raises(ValueError, match="alpha"):
        run_baseline("label_propagation", data, {"alpha": 1.5})
    with pytest.raises(ValueError, match="norm: expected"):
        run_baseline("gcn", data, {"norm": "group"})


@pytest.mark.skipif(not CORA.is_dir(), reason=f"needs Cora's files in {CORA}")
def test_a_gcn_on_cora():
    settings = settings_of("gcn", 2)[1] | {"epochs": 40}
    assert run_baseline("gcn", load_graph("cora", CORA), settings).test > 0.78
