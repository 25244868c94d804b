"""Sampling against loops written from its definition; the same bits on every path, in every batch and worker."""

import random

import pytest
import torch
from torch.utils.data import DataLoader

from tokenmix import kernels
from tokenmix.ops import neighbours, plain_sampling
from tokenmix.ops.graph import Graph, power_law_graph
from tokenmix.ops.neighbours import sample_fan_out, sample_two_hop

BITS = 2**64 - 1


def mix(x):
    x = (x + 0x9E3779B97F4A7C15) & BITS
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & BITS
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & BITS
    return x ^ (x >> 31)


def draw(seed, hop, node, turn, count):
    stream = mix(mix(mix(seed & BITS) ^ hop) ^ node)
    return mix((stream + turn * 0x9E3779B97F4A7C15) & BITS) * count >> 64


def row(graph, node):
    return graph.indices[graph.indptr[node] : graph.indptr[node + 1]].tolist()


def candidates(graph, node):
    near = row(graph, node)
    return near + list(dict.fromkeys(far for sender in near for far in row(graph, sender)))


def naive_two_hop(graph, nodes, size, seed):
    found = []
    for node in nodes:
        listed, wanted = candidates(graph, node), size - 1
        if not listed:
            chosen = [draw(seed, 0, node, turn, graph.num_nodes) for turn in range(wanted)]
        elif len(listed) < wanted:
            chosen = (listed * wanted)[:wanted]
        else:
            for turn in range(wanted):
                place = turn + draw(seed, 0, node, turn, len(listed) - turn)
                listed[turn], listed[place] = listed[place], listed[turn]
            chosen = listed[:wanted]
        found.append([node, *chosen])
    return found


def naive_fan_out(graph, nodes, sizes, seed, replace):
    known, edges, counts, frontier = list(dict.fromkeys(nodes)), [], [], 0
    counts.append(len(known))
    for hop, size in enumerate(sizes):
        asking, frontier = known[frontier:], len(known)
        for node in asking:
            senders, picked = row(graph, node), []
            if size < 0 or (not replace and size >= len(senders)):
                picked = list(range(len(senders)))
            elif replace:
                picked = [draw(seed, hop, node, turn, len(senders)) for turn in range(size if senders else 0)]
            else:
                for turn in range(size):
                    newest = len(senders) - size + turn
                    place = draw(seed, hop, node, turn, newest + 1)
                    picked.append(newest if place in picked else place)
            for place in picked:
                if senders[place] not in known:
                    known.append(senders[place])
                edges.append((known.index(senders[place]), known.index(node)))
        counts.append(len(known) - frontier)
    return known, edges, counts


def graph_with_everything():
    """Directed, with self loops, duplicates and isolated nodes."""
    source = random.Random(0)
    pairs = [(source.randrange(40), source.randrange(25)) for _ in range(90)] + [(3, 3), (3, 3), (7, 7)]
    return Graph.from_edges(torch.tensor(pairs).t(), 45, coalesce=False)


@pytest.fixture(params=["auto", "torch"])
def path(request):
    with kernels.use(request.param):
        yield request.param


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(("size", "seed"), [(1, 0), (2, 5), (6, 0), (6, -1), (15, 2**70 + 3), (60, 1)])
def test_two_hop_sets_are_those_of_a_loop(path, size, seed, wide):
    graph = graph_with_everything()
    if wide:
        graph = Graph(graph.indptr, graph.indices.long())
    nodes = [*range(45), 3, 3, 0]
    found = sample_two_hop(graph, torch.tensor(nodes), size, seed=seed)
    assert found.dtype == torch.int64
    assert found.tolist() == naive_two_hop(graph, nodes, size, seed)


def test_the_loop_has_all_cases():
    graph = graph_with_everything()
    lengths = [len(candidates(graph, node)) for node in range(45)]
    assert 0 in lengths
    assert 0 < min(length for length in lengths if length) < 14 < max(lengths)


@pytest.mark.parametrize("walks", [1, 50])
def test_two_hop_in_small_parts(monkeypatch, walks):
    """The plain path goes by stretches of nodes, and by stretches of the rows of a hub."""
    monkeypatch.setattr(plain_sampling, "WALKS", walks)
    graph = graph_with_everything()
    with kernels.use("torch"):
        found = sample_two_hop(graph, torch.arange(45), 9, seed=1)
    assert found.tolist() == naive_two_hop(graph, range(45), 9, 1)


def test_no_place_of_a_list_is_drawn_twice(path):
    graph = power_law_graph(300, 900, seed=0)
    found = sample_two_hop(graph, torch.arange(300), 12, seed=4)
    for node, *drawn in found.tolist():
        listed = candidates(graph, node)
        if len(listed) >= 11:
            assert all(drawn.count(other) <= listed.count(other) for other in drawn)


def chi_square(counts):
    """Over its degrees of freedom, if all are as likely."""
    expected = counts.double().mean()
    return float(((counts - expected) ** 2 / expected).sum() / (len(counts) - 1))


def test_every_candidate_is_as_likely():
    """6,000 nodes that all read one hub, which reads 20: 21 candidates; a draw that never takes the last is found."""
    near, far = torch.arange(6000), torch.arange(6001, 6021)
    hub = torch.tensor(6000)
    edges = torch.cat([torch.stack([hub.expand(6000), near]), torch.stack([far, hub.expand(20)])], dim=1)
    graph = Graph.from_edges(edges, 6021)
    for seed in (0, 1):
        drawn = sample_two_hop(graph, near, 6, seed=seed)[:, 1:]
        assert chi_square((drawn - 6000).flatten().bincount(minlength=21)) < 2
        for column in range(5):
            assert chi_square((drawn[:, column] - 6000).bincount(minlength=21)) < 2.2
        pairs = drawn[:, 0].sub(6000) * 21 + drawn[:, 1].sub(6000)
        assert chi_square(pairs.bincount(minlength=441)[pairs.bincount(minlength=441) > 0]) < 1.4
    biased = torch.randint(0, 20, (30_000,), generator=torch.Generator().manual_seed(0))
    assert chi_square(biased.bincount(minlength=21)) > 2


def test_isolated_nodes_get_random_ones(path):
    graph = Graph.from_edges(torch.tensor([[0], [1]]), 1000)
    found = sample_two_hop(graph, torch.tensor([5, 6]), 400)
    assert found[:, 0].tolist() == [5, 6]
    assert not torch.equal(found[0, 1:], found[1, 1:])
    assert len(found[0].unique()) > 250
    assert found.min() >= 0
    assert found.max() < 1000
    assert 400 < found[:, 1:].double().mean() < 600


def test_a_hub(path, monkeypatch):
    monkeypatch.setattr(plain_sampling, "WALKS", 5000)
    leaves = torch.arange(1, 20_001)
    graph = Graph.from_edges(torch.stack([leaves, torch.zeros_like(leaves)]), 20_002, undirected=True)
    found = sample_two_hop(graph, torch.tensor([0, 9, 20_001]), 50, seed=2)
    assert found.tolist() == naive_two_hop(graph, [0, 9, 20_001], 50, 2)
    part = sample_fan_out(graph, torch.tensor([0]), [300, 2], seed=2)
    assert part.counts == (1, 300, 0)
    assert part.edges.shape == (2, 600)


def test_a_path_graph_gives_all_within_two_edges(path):
    ends = torch.arange(9)
    graph = Graph.from_edges(torch.stack([ends, ends + 1]), 10, undirected=True)
    found = sample_two_hop(graph, torch.tensor([5]), 6)
    assert sorted(found.unique().tolist()) == [3, 4, 5, 6, 7]


@pytest.mark.skipif(not kernels.available(), reason="no native kernels")
def test_paths_agree_on_a_large_graph():
    graph = power_law_graph(20_000, 80_000, seed=5)
    nodes = torch.randperm(20_000, generator=torch.Generator().manual_seed(0))[:5000]
    found = sample_two_hop(graph, nodes, 30, seed=8), sample_fan_out(graph, nodes[:500], [8, -1, 3], seed=8)
    with kernels.use("torch"):
        again = sample_two_hop(graph, nodes, 30, seed=8), sample_fan_out(graph, nodes[:500], [8, -1, 3], seed=8)
    assert torch.equal(found[0], again[0])
    assert torch.equal(found[1].nodes, again[1].nodes)
    assert torch.equal(found[1].edges, again[1].edges)


def test_threads_batches_and_order_change_nothing():
    graph = power_law_graph(3000, 12_000, seed=5)
    whole = sample_two_hop(graph, torch.arange(3000), 20, seed=1)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            nodes = torch.randperm(3000, generator=torch.Generator().manual_seed(threads))
            parts = [sample_two_hop(graph, part, 20, seed=1) for part in nodes.split(700 * threads)]
            assert torch.equal(torch.cat(parts), whole[nodes])
    finally:
        torch.set_num_threads(before)
    assert not torch.equal(sample_two_hop(graph, torch.arange(3000), 20, seed=2), whole)


class Sampling:
    """A collator, with its graph on disk or in memory."""

    def __init__(self, graph):
        self.graph = graph

    def __call__(self, items):
        return sample_two_hop(self.graph, torch.tensor(items), 8, seed=3)


@pytest.mark.parametrize("mapped", [False, True])
def test_workers_and_batch_sizes_change_nothing(tmp_path, mapped):
    graph = power_law_graph(2000, 9000, seed=5)
    whole = sample_two_hop(graph, torch.arange(200), 8, seed=3)
    graph.save(tmp_path)
    collate = Sampling(Graph.open(tmp_path) if mapped else graph)
    for workers, size in ((0, 64), (1, 33), (2, 10)):
        loader = DataLoader(range(200), size, num_workers=workers, collate_fn=collate)
        assert torch.equal(torch.cat(list(loader)), whole)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("sizes", [[], [0], [3], [-1], [2, 4], [-1, 1, 2], [100]])
def test_fan_out_is_that_of_a_loop(path, sizes, replace):
    graph, nodes = graph_with_everything(), [7, 3, 7, 44, 12]
    found = sample_fan_out(graph, torch.tensor(nodes), sizes, seed=9, replace=replace)
    known, edges, counts = naive_fan_out(graph, nodes, sizes, 9, replace)
    assert found.nodes.tolist() == known
    assert found.edges.t().tolist() == [list(edge) for edge in edges]
    assert list(found.counts) == counts
    assert found.edges.shape[0] == 2


def test_fan_out_edges_are_edges_of_the_graph(path):
    graph = power_law_graph(400, 1500, seed=2)
    part = sample_fan_out(graph, torch.arange(10), [4, 4], seed=1)
    true = {*map(tuple, graph.edges().t().tolist())}
    found = [*map(tuple, part.nodes[part.edges].t().tolist())]
    assert {*found} <= true
    assert len({*found}) == len(found)  # without replacement none comes twice


def test_every_neighbour_is_as_likely():
    """3,000 nodes with the same row of ten."""
    graph = Graph.from_edges(
        torch.stack([torch.arange(10).repeat(3000), 10 + torch.arange(3000).repeat_interleave(10)]), 3010
    )
    for replace in (False, True):
        part = sample_fan_out(graph, 10 + torch.arange(3000), [4], seed=1, replace=replace)
        senders = part.nodes[part.edges[0]].view(3000, 4)
        assert chi_square(senders.flatten().bincount(minlength=10)) < 2.4
        for other in range(1, 4):  # also of pairs
            pairs = senders.sort(dim=1).values
            same = (pairs[:, other] == pairs[:, other - 1]).float().mean()
            assert (same > 0.05) == replace


def test_without_nodes(path):
    none, graph = torch.empty(0, dtype=torch.int64), Graph.from_edges(torch.empty(2, 0, dtype=torch.int64), 0)
    assert sample_two_hop(graph, none, 3).shape == (0, 3)
    part = sample_fan_out(graph, none, [2, -1])
    assert (part.nodes.shape, part.edges.shape, part.counts) == ((0,), (2, 0), (0, 0, 0))
    assert sample_two_hop(graph_with_everything(), none, 3).shape == (0, 3)


def test_other_integers(path):
    graph = graph_with_everything()
    nodes = torch.tensor([3, 9, 1, 4], dtype=torch.int16)[::2]
    assert torch.equal(sample_two_hop(graph, nodes, 5), sample_two_hop(graph, torch.tensor([3, 1]), 5))


@pytest.mark.parametrize("sample", [sample_two_hop, lambda g, n, s: sample_fan_out(g, n, [s])])
@pytest.mark.parametrize(
    ("nodes", "size", "error", "message"),
    [
        (torch.tensor([0, 45]), 3, ValueError, r"nodes: expected ids from 0 to 44, found 45 in nodes\[1\]"),
        (torch.tensor([0, 3, -2]), 3, ValueError, r"nodes: expected ids from 0 to 44, found -2 in nodes\[2\]"),
        (torch.tensor([[0]]), 3, ValueError, r"nodes: expected shape \(S,\), found \(1, 1\)"),
        (torch.tensor([0.0]), 3, TypeError, r"nodes: expected a tensor of integers, found torch\.float32"),
        ([0], 3, TypeError, "nodes: expected a tensor of integers, found list"),
        (torch.tensor([0]), -2, ValueError, r"size.*: expected at least"),
        (torch.tensor([0]), 2.0, TypeError, r"size.*: expected a whole number, found 2\.0"),
    ],
)
def test_refused(sample, nodes, size, error, message):
    with pytest.raises(error, match=message):
        sample(graph_with_everything(), nodes, size)


def test_refused_graph_and_empty_graph():
    with pytest.raises(TypeError, match="graph: expected a Graph, found Tensor"):
        sample_two_hop(torch.ones(2), torch.tensor([0]), 3)
    with pytest.raises(ValueError, match="nodes: expected none without nodes, found 0"):
        sample_two_hop(Graph(torch.tensor([0]), torch.empty(0, dtype=torch.int32)), torch.tensor([0]), 3)


@pytest.mark.parametrize("wrong", [5000, -1, 2**31 - 1, 2**40])
def test_a_damaged_row_is_an_error_and_never_a_crash(path, wrong):
    """`Graph.open` does not read the rows; who reads them must look."""
    graph = Graph.from_edges(torch.tensor([[1, 2, 3], [0, 1, 2]]), 5)
    indices = graph.indices.long() if wrong > 2**31 else graph.indices.clone()
    indices[1] = wrong
    damaged = Graph(graph.indptr, indices, check_indices=False)
    for call in (
        lambda: sample_two_hop(damaged, torch.tensor([0]), 3),  # in the second hop
        lambda: sample_two_hop(damaged, torch.tensor([1]), 3),
        lambda: sample_fan_out(damaged, torch.tensor([1]), [-1]),
    ):
        with pytest.raises(ValueError, match="graph: its files are damaged"):
            call()


def test_no_memory_is_said(monkeypatch):
    if not kernels.available():
        pytest.skip("no native kernels")

    def full(_):
        return 1

    monkeypatch.setattr(kernels, "library", lambda: type("Library", (), {"tm_two_hop": full}))
    with pytest.raises(MemoryError, match="no memory"):
        neighbours.sample_two_hop(graph_with_everything(), torch.tensor([0]), 3)


def test_many_picks_of_a_long_row_are_those_of_floyd():
    """More picks than are looked up one by one: different, of the row, and the same with and without kernels."""
    degree = 5000
    graph = Graph.from_edges(
        torch.stack([torch.arange(1, degree + 1), torch.zeros(degree, dtype=torch.int64)]), degree + 1
    )
    for count in (64, 65, 1000, degree - 1):
        native = sample_fan_out(graph, torch.tensor([0]), [count], seed=3)
        with kernels.use("torch"):
            plain = sample_fan_out(graph, torch.tensor([0]), [count], seed=3)
        assert torch.equal(native.nodes, plain.nodes)
        assert len(native.nodes) == count + 1


@pytest.mark.parametrize("near", [1, 4, 9])
def test_places_for_the_row_hold_nodes_of_the_row(near):
    """A star with a far end: without such places, candidates are mostly the hub's."""
    spokes = torch.stack([torch.zeros(500, dtype=torch.int64), torch.arange(1, 501)])
    graph = Graph.from_edges(torch.cat([spokes, torch.tensor([[1, 1, 2], [2, 3, 501]])], dim=1), 503, undirected=True)
    nodes = torch.tensor([1, 0, 501, 502])
    found = sample_two_hop(graph, nodes, 10, near=near, seed=5)
    rows = [set(graph.indices[graph.indptr[i] : graph.indptr[i + 1]].tolist()) for i in nodes.tolist()]
    for node, row, own in zip(nodes.tolist(), found.tolist(), rows, strict=True):
        assert row[0] == node
        if own:
            assert set(row[1 : near + 1]) <= own
            assert len(set(row[1 : near + 1])) == min(near, len(own))
            assert row[1 + len(own) : near + 1] == row[1 : near + 1][: max(0, near - len(own))]  # repeated in order
    assert torch.equal(found[:, near + 1 :], sample_two_hop(graph, nodes, 10, seed=5)[:, 1 : 10 - near])
    with kernels.use("torch"):
        assert torch.equal(sample_two_hop(graph, nodes, 10, near=near, seed=5), found)
    alone = torch.cat([sample_two_hop(graph, nodes[i : i + 1], 10, near=near, seed=5) for i in (3, 1, 0, 2)])
    assert torch.equal(alone, found[[3, 1, 0, 2]])


def test_places_for_the_row_are_fewer_than_all():
    graph = Graph.from_edges(torch.tensor([[0], [1]]), 2)
    with pytest.raises(ValueError, match="near: expected fewer than size=3, found 3"):
        sample_two_hop(graph, torch.tensor([0]), 3, near=3)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.uint16, torch.uint32, torch.uint64])
def test_integers_that_cannot_count_all_nodes_name_some(dtype):
    edges = torch.tensor([[0, 7, 100], [7, 100, 0]])
    graph = Graph.from_edges(edges.to(dtype), 1000)
    assert torch.equal(graph.edges(), Graph.from_edges(edges, 1000).edges())
    nodes = torch.tensor([7, 100])
    assert torch.equal(sample_two_hop(graph, nodes.to(dtype), 4), sample_two_hop(graph, nodes, 4))
    with pytest.raises(ValueError, match="nodes: expected ids from 0 to 99, found 100"):
        sample_two_hop(Graph.from_edges(edges[:, :0], 100), nodes.to(dtype), 4)


def test_one_size_is_no_sequence():
    with pytest.raises(TypeError, match="sizes: expected a sequence, one size a hop, found int"):
        sample_fan_out(Graph.from_edges(torch.tensor([[0], [1]]), 2), torch.tensor([0]), 10)
