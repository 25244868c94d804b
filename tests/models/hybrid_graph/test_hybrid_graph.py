"""HybridGraph: its layers against torch_geometric's and against loops, and what the model promises."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from tokenmix.models import HybridGraphConfig, HybridGraphModel
from tokenmix.models.hybrid_graph.layers import (
    GraphAttention,
    GraphConvolution,
    GraphEdges,
    SampleConvolution,
)
from tokenmix.models.node_norm import NodeNorm


def random_graph(nodes=12, edges=30, seed=0):
    """With duplicate edges, self loops, nodes that nobody sends to, and unequal weights."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(nodes - 2, (2, edges), generator=generator)
    found[:, 3] = found[:, 4]
    found[1, 5] = found[0, 5]
    return found, torch.rand(edges, generator=generator) + 0.1


def model_of(**changes):
    torch.manual_seed(0)
    return HybridGraphModel(HybridGraphConfig(num_features=5, hidden_size=8, num_attention_heads=2, **changes))


def inputs(nodes=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(nodes, 5, generator=generator)
    return x, torch.randint(2, (nodes,), generator=generator).float(), torch.randn(nodes, generator=generator)


# ---------------------------------------------------------------------- layers


def test_gcn_equals_its_equation():
    edges, weight = random_graph()
    layer, x = GraphConvolution(5, 4).double(), inputs()[0].double()
    adjacency = torch.zeros(12, 12, dtype=torch.float64)
    for (sender, receiver), value in zip(edges.T.tolist(), weight.double(), strict=True):
        if sender != receiver:
            adjacency[receiver, sender] += value
    for node in range(12):
        loops = [w for (s, r), w in zip(edges.T.tolist(), weight.double(), strict=True) if s == r == node]
        adjacency[node, node] = sum(loops) if loops else 1.0
    scale = adjacency.sum(1).pow(-0.5)
    expected = (scale[:, None] * adjacency * scale) @ x @ layer.linear.weight.T + layer.bias
    found = layer(x, GraphEdges.of(edges, weight, 12, torch.float64))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # the weights of edges are float32


def test_sage_equals_a_loop():
    edges, weight = random_graph()
    layer, x = SampleConvolution(5, 4).double(), inputs()[0].double()
    found = layer(x, GraphEdges.of(edges, weight, 12, torch.float64))
    for node in range(12):
        read = [x[s] for s, r in edges.T.tolist() if r == node]
        mean = torch.stack(read).mean(0) if read else torch.zeros(5, dtype=torch.float64)
        torch.testing.assert_close(found[node], layer.neighbours(mean) + layer.own(x[node]))


def test_gat_equals_a_loop():
    edges, _ = random_graph()
    layer, x = GraphAttention(5, 6, heads=3).double(), inputs()[0].double()
    found = layer(x, GraphEdges.of(edges, None, 12, torch.float64))
    h = (x @ layer.linear.weight.T).view(12, 3, 2)
    for node in range(12):
        senders = [s for s, r in edges.T.tolist() if r == node and s != node] + [node]
        for head in range(3):
            scores = torch.stack(
                [h[s, head] @ layer.sender[head] + h[node, head] @ layer.receiver[head] for s in senders]
            )
            weights = torch.where(scores > 0, scores, 0.2 * scores).softmax(0)
            expected = (weights[:, None] * h[senders, head]).sum(0) + layer.bias.view(3, 2)[head]
            torch.testing.assert_close(found[node].view(3, 2)[head], expected)


def test_layers_equal_those_of_torch_geometric():
    nn = pytest.importorskip("torch_geometric.nn", reason="the peer is not installed: pip install 'tokenmix[graphs]'")
    edges, weight = random_graph()
    kept = {(s, r) if s == r else at: at for at, (s, r) in enumerate(edges.T.tolist())}
    kept = torch.tensor(sorted(kept.values()))  # of several self loops they keep one, and we add them up
    edges, weight = edges[:, kept], weight[kept]
    assert (edges[0] == edges[1]).sum() > 1
    x = inputs()[0].requires_grad_()
    gcn, sage, gat = GraphConvolution(5, 6), SampleConvolution(5, 6), GraphAttention(5, 6, heads=3)
    for layer in (gcn, gat):
        torch.nn.init.normal_(layer.bias)
    theirs_gcn, theirs_sage, theirs_gat = nn.GCNConv(5, 6), nn.SAGEConv(5, 6), nn.GATConv(5, 2, heads=3)
    with torch.no_grad():
        theirs_gcn.lin.weight.copy_(gcn.linear.weight)
        theirs_gcn.bias.copy_(gcn.bias)
        theirs_sage.load_state_dict(
            {
                "lin_l.weight": sage.neighbours.weight,
                "lin_l.bias": sage.neighbours.bias,
                "lin_r.weight": sage.own.weight,
            }
        )
        theirs_gat.lin.weight.copy_(gat.linear.weight)
        theirs_gat.att_src.copy_(gat.sender[None])
        theirs_gat.att_dst.copy_(gat.receiver[None])
        theirs_gat.bias.copy_(gat.bias)
    graph = GraphEdges.of(edges, weight, 12, torch.float32)
    pairs = [
        (gcn(x, graph), theirs_gcn(x, edges, weight)),
        (gcn(x, GraphEdges.of(edges, None, 12, torch.float32)), theirs_gcn(x, edges)),
        (sage(x, graph), theirs_sage(x, edges)),
        (gat(x, graph), theirs_gat(x, edges)),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        grads = [torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0] for y in (ours, theirs)]
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_gradients_equal_finite_differences():
    edges, weight = random_graph(8, 16)
    graph = GraphEdges.of(edges, weight, 8, torch.float64)
    x = inputs(8)[0].double().requires_grad_()
    for layer in (GraphConvolution(5, 4), SampleConvolution(5, 4), GraphAttention(5, 4, heads=2)):
        layer = layer.double()
        for parameter in layer.parameters():
            assert torch.autograd.gradcheck(lambda _, layer=layer: layer(x.detach(), graph), (parameter,))
        assert torch.autograd.gradcheck(lambda x, layer=layer: layer(x, graph), (x,))


def test_attention_dropout():
    """Kept weights are larger, so that the mean over draws is what it is without dropout."""
    edges, _ = random_graph()
    layer, x = GraphAttention(5, 6, heads=3, dropout=0.5), inputs()[0]
    graph = GraphEdges.of(edges, None, 12, torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        mean = torch.stack([layer(x, graph) for _ in range(800)]).mean(0)
        torch.testing.assert_close(mean, layer.eval()(x, graph), rtol=0, atol=0.15)


def test_batch_norm_of_some_nodes():
    """Values, gradients and running statistics are those of torch's batch norm on the nodes alone."""
    norm, other = NodeNorm(4), torch.nn.BatchNorm1d(4)
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float32).requires_grad_()
    nodes = torch.arange(9) < 6
    with torch.no_grad():
        norm.weight.copy_(torch.rand(4) + 0.5)
        other.weight.copy_(norm.weight)
    found, expected = norm(x, nodes), other(x[:6])
    torch.testing.assert_close(found[:6], expected)
    for a, b in zip(norm.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b)
    grads = [torch.autograd.grad(y[:6].pow(3).sum(), x, retain_graph=True)[0] for y in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)
    assert norm(x, torch.arange(9) < 1).isfinite().all()
    torch.testing.assert_close(norm.eval()(x, nodes), other.eval()(x))


# ---------------------------------------------------------------------- the model


def test_nodes_in_another_order_give_the_same():
    x, labels, severity = inputs()
    edges, weight = random_graph()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    place = order.argsort()
    for model in (model_of(dropout=0.0).eval(), model_of(dropout=0.0).train()):
        found = model(x, edges, weight, labels, severity)
        moved = model(x[order], place[edges].flip(1), weight.flip(0), labels[order], severity[order])
        for name in ("logits", "severity", "last_hidden_state"):
            torch.testing.assert_close(moved[name], found[name][order], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(moved.loss, found.loss, rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_sum_of_both():
    x, labels, severity = inputs()
    edges, weight = random_graph()
    labels[7:], severity[:4] = -100, torch.nan
    model = model_of(label_weight=2.0, severity_weight=0.5).eval()
    found = model(x, edges, weight, labels, severity)
    event = [-(p.log() if y else (1 - p).log()) for p, y in zip(found.logits[:7].sigmoid(), labels[:7], strict=True)]
    distance = [(a - b) ** 2 for a, b in zip(found.severity[4:], severity[4:], strict=True)]
    torch.testing.assert_close(found.loss, 2 * torch.stack(event).mean() + 0.5 * torch.stack(distance).mean())
    alone = model(x, edges, weight, labels=labels).loss
    torch.testing.assert_close(alone, 2 * torch.stack(event).mean())
    torch.testing.assert_close(model(x, edges, weight, severity=severity).loss + alone, found.loss)
    assert model(x, edges, weight).loss is None
    none = model(x, edges, labels=torch.full((12,), -100.0), severity=torch.full((12,), torch.nan)).loss
    assert none.item() == 0.0
    none.backward()


def test_every_parameter_gets_a_gradient():
    x, labels, severity = inputs()
    model = model_of(dropout=0.0)
    model(x, *random_graph(), labels, severity).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.startswith("layers") or "bias" not in name:  # a batch norm takes the biases before it away
            assert parameter.grad.abs().max() > 0, name


def test_isolated_nodes_and_no_edges():
    """A node without edges is what it is in a graph of its own; so are all, without edges."""
    x, _, _ = inputs()
    edges, weight = random_graph()
    model = model_of().eval()
    whole = model(x, edges, weight)
    none = torch.empty(2, 0, dtype=torch.int64)
    apart = model(x, none)
    torch.testing.assert_close(whole.logits[10:], apart.logits[10:])
    assert (whole.logits[:10] - apart.logits[:10]).abs().max() > 1e-3
    for node in (0, 11):
        torch.testing.assert_close(model(x[node : node + 1], none).logits, apart.logits[node : node + 1])
    assert model(x[:0], none).logits.shape == (0,)
    loops = torch.tensor([[3], [3]])
    assert model(x, loops, torch.zeros(1)).logits.isfinite().all()  # a loop of weight 0 is its only edge


def test_a_message_goes_one_way():
    """Sender to receiver, as many hops as there are layers."""
    x, model = inputs()[0], model_of().eval()
    edges = torch.stack([torch.arange(11), torch.arange(1, 12)])
    x.requires_grad_()
    for target in (3, 9):
        (grad,) = torch.autograd.grad(model(x, edges).logits[target], x)
        read = grad.abs().sum(1).nonzero().flatten().tolist()
        assert read == list(range(max(0, target - 5), target + 1))


def test_training_statistics_leave_out_other_nodes():
    x, labels, _ = inputs()
    edges, train = torch.tensor([[0, 1], [1, 0]]), torch.arange(12) < 8
    model, other = model_of(dropout=0.0), model_of(dropout=0.0)
    model(x, edges, labels=labels, train_nodes=train)
    other(torch.cat([x[:8], 100 * x[8:]]), edges, labels=labels, train_nodes=train)
    for a, b in zip(model.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b)
    leaking = model_of(dropout=0.0)
    leaking(torch.cat([x[:8], 100 * x[8:]]), edges, labels=labels)
    assert not torch.allclose(leaking.norms[0].running_var, other.norms[0].running_var)


def test_save_and_load(tmp_path):
    x, labels, severity = inputs()
    graph = random_graph()
    model = model_of()
    model(x, *graph, labels, severity)  # moves the running statistics
    model.eval().save_pretrained(tmp_path)
    for loaded in (HybridGraphModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert isinstance(loaded, HybridGraphModel)
        for name in ("logits", "severity"):
            assert torch.equal(loaded(x, *graph)[name], model(x, *graph)[name])
    assert AutoConfig.from_pretrained(tmp_path).num_features == 5


def test_bfloat16_is_near():
    x, _, _ = inputs()
    graph, model = random_graph(), model_of().eval()
    expected = model(x, *graph).logits
    found = model.bfloat16()(x.bfloat16(), graph[0], graph[1])
    assert found.logits.dtype == torch.bfloat16
    torch.testing.assert_close(found.logits.float(), expected, rtol=0.05, atol=0.05)


def test_it_beats_logistic_regression_where_the_graph_matters():
    """The label is of a node's cluster, of which its own features say little and those of its neighbours much."""
    generator = torch.Generator().manual_seed(0)
    nodes = 240
    cluster = torch.randint(6, (nodes,), generator=generator)
    labels, severity = (cluster % 2).float(), cluster.float() / 5
    centres = torch.randn(6, 5, generator=generator)
    x = centres[cluster] + 3.0 * torch.randn(nodes, 5, generator=generator)
    same = cluster[:, None] == cluster
    joined = torch.rand(nodes, nodes, generator=generator) < torch.where(same, 0.12, 0.004)
    edges = (joined | joined.T).fill_diagonal_(False).nonzero().T
    train = torch.rand(nodes, generator=generator) < 0.5
    seen = torch.where(train, labels, -100.0)
    torch.manual_seed(0)
    model = HybridGraphModel(HybridGraphConfig(num_features=5, hidden_size=16, num_attention_heads=2, dropout=0.2))
    linear = torch.nn.Linear(5, 1)
    for network, steps in ((model, 60), (linear, 150)):
        optimiser = torch.optim.Adam(network.parameters(), lr=0.02, weight_decay=1e-3)
        for _ in range(steps):
            if network is model:
                known = torch.where(train, severity, torch.nan)
                loss = model(x, edges, None, seen, known, train_nodes=train).loss
            else:
                loss = torch.nn.functional.binary_cross_entropy_with_logits(linear(x)[train, 0], labels[train])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    output = model.eval()(x, edges)
    ours, theirs = (
        float(((logits > 0) == labels.bool())[~train].float().mean()) for logits in (output.logits, linear(x)[:, 0])
    )
    assert ours > 0.85
    assert ours > theirs + 0.15
    spread = (severity[~train] - severity[train].mean()).square().mean()
    assert (output.severity - severity)[~train].square().mean() < 0.5 * spread


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"features": torch.ones(12, 4)},
            ValueError,
            r"features: expected shape \(N, num_features=5\), found \(12, 4\)",
        ),
        ({"features": torch.ones(12, 5).long()}, TypeError, "features: expected floats, found torch.int64"),
        ({"edges": torch.ones(2, 3)}, TypeError, "edges: expected integers, found torch.float32"),
        ({"edges": torch.ones(3, 3).long()}, ValueError, r"edges: expected shape \(2, E\)"),
        ({"edges": torch.tensor([[0], [12]])}, ValueError, "edges: expected nodes from 0 to 11, found 12"),
        ({"edges": torch.tensor([[-1], [1]])}, ValueError, "edges: expected nodes from 0 to 11, found -1"),
        ({"edge_weight": torch.ones(2)}, ValueError, r"edge_weight: expected floats of shape \(3,\)"),
        (
            {"edge_weight": torch.tensor([1.0, -2.0, 1.0])},
            ValueError,
            "edge_weight: expected numbers of 0 or more, found -2.0",
        ),
        (
            {"edge_weight": torch.tensor([1.0, torch.nan, 1.0])},
            ValueError,
            "edge_weight: expected numbers of 0 or more, found nan",
        ),
        ({"labels": torch.full((12,), 2.0)}, ValueError, "labels: expected 0 to 1, or -100 for none, found 2.0"),
        ({"labels": torch.ones(3)}, ValueError, r"labels: expected shape \(12,\)"),
        ({"severity": torch.ones(3)}, ValueError, r"severity: expected shape \(12,\)"),
        ({"train_nodes": torch.ones(12)}, ValueError, "train_nodes: expected bool"),
        ({"train_nodes": [True] * 12}, ValueError, "train_nodes: expected bool .* found list"),
        ({"labels": [1.0] * 12}, ValueError, r"labels: expected shape \(12,\), found list"),
        ({"edge_weight": [1.0] * 3}, ValueError, r"edge_weight: expected floats of shape \(3,\), found list"),
        ({"severity": torch.full((12,), torch.inf)}, ValueError, "severity: expected finite numbers, or NaN for none"),
    ],
)
def test_what_is_refused(change, error, message):
    given = {"features": inputs()[0], "edges": torch.tensor([[0, 1, 2], [1, 2, 3]])} | change
    with pytest.raises(error, match=message):
        model_of()(**given)


def test_other_numbers_are_read_as_those_of_the_weights():
    model, (features, edges) = model_of().eval(), (inputs()[0], torch.tensor([[0, 1, 2], [1, 2, 3]]))
    expected = model(features, edges).logits
    assert torch.equal(model(features.double(), edges.to(torch.uint8)).logits, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_attention_heads": 3}, "num_attention_heads: expected a divisor of hidden_size=64, found 3"),
        ({"gcn_layers": 0, "sage_layers": 0, "gat_layers": 0}, "expected at least one layer, found none"),
        ({"dropout": 1.0}, "dropout: expected a probability below 1, found 1.0"),
        ({"severity_weight": -1}, "severity_weight: expected a finite number of 0 or more, found -1"),
        ({"label_weight": float("nan")}, "label_weight: expected a finite number of 0 or more, found nan"),
        ({"hiden_size": 4}, "hiden_size: not a field of HybridGraphConfig; did you mean 'hidden_size'"),
    ],
)
def test_what_a_configuration_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        HybridGraphConfig(**change)


def test_what_trainer_writes_into_configurations_loads(tmp_path):
    model = HybridGraphModel(HybridGraphConfig(num_features=3, hidden_size=8, num_attention_heads=2))
    model.config.use_cache = False  # as transformers' Trainer does
    model.save_pretrained(tmp_path)
    loaded = HybridGraphModel.from_pretrained(tmp_path)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), loaded.parameters(), strict=True))
