"""The vector quantiser: its equations by hand, dead codes, masks, several processes, half precision, resuming."""

from __future__ import annotations

import copy
import io
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from fork_server import ForkServer
from tokenmix.mixers import NodeCodes, VectorQuantiser
from tokenmix.mixers import vector_quantiser as module

BUFFERS = ("code", "sums", "counts", "mean", "variance", "initialised")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_two_published_updates_by_hand() -> None:
    """Every number of the equations, in loops and float64; counts keep their smoothing, as published."""
    quantiser = VectorQuantiser(3, 2, decay=0.9, eps=1e-3, init="normal", restart=None)
    code, sums = quantiser.code.double(), quantiser.sums.double()
    counts, mean, variance = torch.zeros(3).double(), torch.zeros(2).double(), torch.ones(2).double()
    for _ in range(2):
        q = torch.randn(5, 2) * 3 + 1
        found = quantiser.update(q)
        q = q.double()
        centre = q.sum(0) / 5
        squares = ((q - centre) ** 2).sum(0)
        mean, variance = 0.9 * mean + 0.1 * centre, 0.9 * variance + 0.1 * squares / 4
        z = (q - centre) / (squares / 5 + 1e-3).sqrt()
        batch_counts, batch_sums = torch.zeros(3).double(), torch.zeros(3, 2).double()
        for i in range(5):
            nearest = min(range(3), key=lambda m: float(((z[i] - code[m]) ** 2).sum()))
            assert int(found[i]) == nearest
            batch_counts[nearest] += 1
            batch_sums[nearest] += z[i]
        counts, sums = 0.9 * counts + 0.1 * batch_counts, 0.9 * sums + 0.1 * batch_sums
        total = counts.sum()
        counts = (counts + 1e-3) / (total + 3 * 1e-3) * total
        code = sums / counts[:, None]
        assert torch.allclose(quantiser.counts.double(), counts, rtol=1e-5)
        assert torch.allclose(quantiser.code.double(), code, rtol=1e-4, atol=1e-5)
        assert torch.allclose(quantiser.mean.double(), mean, rtol=1e-5)
        assert torch.allclose(quantiser.variance.double(), variance, rtol=1e-5)
        book = code * (variance + 1e-3).sqrt() + mean
        assert torch.allclose(quantiser.codebook().double(), book, rtol=1e-4, atol=1e-4)


def test_first_batch_and_a_second_update_by_hand() -> None:
    """As many codes as rows: every row becomes a code, and is nearest to itself."""
    quantiser = VectorQuantiser(4, 3, decay=0.5, restart=None)
    q = torch.randn(4, 3) * 2 + 7
    assigned = quantiser.update(q)
    assert sorted(assigned.tolist()) == [0, 1, 2, 3]
    assert torch.allclose(quantiser.mean, q.mean(0))  # not a tenth of it
    assert torch.allclose(quantiser.variance, q.var(0))
    z = (q - q.mean(0)) / (q.var(0, unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(quantiser.code[assigned], z, atol=1e-4)
    assert torch.allclose(quantiser.counts, torch.ones(4))  # 0.5 * 1 + 0.5 * 1
    quantiser.update(q[assigned == 2].expand(6, 3) + torch.tensor([[1e-3], [-1e-3]]).repeat(3, 1))
    assert torch.allclose(quantiser.counts.sum(), torch.tensor(0.5 * 4 + 0.5 * 6))
    smoothed = (quantiser.counts + 1e-5) / (5 + 4e-5) * 5
    assert torch.allclose(quantiser.code, quantiser.sums / smoothed[:, None])


def test_the_published_fault_and_its_mending() -> None:
    """After one step published codes that nothing chose are about 1e6 long; most never live."""
    data = torch.randn(5120, 4) @ torch.randn(4, 16) + 5
    published = VectorQuantiser(4096, 16, init="normal", restart=None)
    mended = VectorQuantiser(4096, 16)
    for step in range(60):
        rows = data[torch.randint(len(data), (256,))]
        published.update(rows)
        mended.update(rows)
        if step == 0:
            assert 1e5 < published.code.norm(dim=1).median() < 1e7
            assert mended.code.norm(dim=1).max() < 20
    live, published_live = (len(quantiser.assign(data).unique()) for quantiser in (mended, published))
    assert live > 1000
    assert published_live < 200
    error, published_error = (
        (quantiser.codebook()[quantiser.assign(data)] - data).square().mean() for quantiser in (mended, published)
    )
    assert error < 0.2 * published_error


def test_a_code_that_nobody_chooses_restarts_at_a_row_of_the_batch() -> None:
    left, right = torch.randn(64, 2) - 8, torch.randn(64, 2) + 8
    furthest = {}
    for restart in (0.05, None):
        quantiser = VectorQuantiser(8, 2, decay=0.5, restart=restart)
        quantiser.update(torch.cat([left, right]))
        for _ in range(12):  # the left half is seen no more; what is left spreads over the whole normalised space
            quantiser.update(right)
        z = (right - right.mean(0)) / right.std(0, unbiased=False)
        furthest[restart] = float(torch.cdist(quantiser.code, z).amin(1).max())
        if restart is not None:
            assert (quantiser.counts >= 0.999 * restart * quantiser.counts.mean()).all()
            assert len(quantiser.counts[quantiser.counts < 64 * 0.2]) > 0
    assert furthest[0.05] < 0.5
    chosen = VectorQuantiser(2, 2, decay=0.5, restart=0.05)  # a planted dead code
    chosen.update(right)
    chosen.code[1], chosen.sums[1], chosen.counts[1] = 1e6, 1e6, 1e-6
    chosen.update(right)
    z = (right - right.mean(0)) / (right.var(0, unbiased=False) + 1e-5).sqrt()
    assert torch.cdist(chosen.code[1:], z).min() < 1e-4
    assert torch.allclose(chosen.counts[1], chosen.counts[0] / 2)  # the mean, before it counted
    assert torch.allclose(chosen.sums[1], chosen.code[1] * chosen.counts[1])


@pytest.mark.parametrize("batch", [4, 4096])
def test_restarts_do_not_depend_on_the_size_of_the_batch(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With far fewer rows than codes the mean count is small, and still most codes are left where they are."""
    drawn, draw = [], module._draw
    monkeypatch.setattr(module, "_draw", lambda z, count, *rest: drawn.append(count) or draw(z, count, *rest))
    quantiser = VectorQuantiser(256, 4, decay=0.5)
    for _ in range(30):
        quantiser.update(torch.randn(batch, 4))
    assert drawn.pop(0) == 256  # the first batch
    assert sum(drawn[-16:]) < 16 * 80
    assert (quantiser.counts > 0).all()


def test_fewer_rows_than_codes_begin_apart() -> None:
    quantiser = VectorQuantiser(10, 2, restart=None)
    q = torch.tensor([[0.0, 1.0], [4.0, 2.0], [1.0, 7.0]])
    quantiser.update(q)
    assert len(quantiser.code.unique(dim=0)) == 10
    z = (q - q.mean(0)) / q.std(0, unbiased=False)
    assert torch.cdist(quantiser.code, z).amin(1).max() < 0.1


def test_eval_changes_nothing_and_carries_no_gradient() -> None:
    quantiser = VectorQuantiser(5, 3)
    quantiser.update(torch.randn(20, 3))
    before = copy.deepcopy(quantiser.state_dict())
    q = torch.randn(7, 3, requires_grad=True)
    assigned = quantiser.eval().update(q)
    assert torch.equal(assigned, quantiser.assign(q))
    assert all(torch.equal(value, before[name]) for name, value in quantiser.state_dict().items())
    assert not quantiser.codebook().requires_grad
    assert list(quantiser.parameters()) == []
    z = (q.double() - quantiser.mean) / (quantiser.variance + 1e-5).sqrt()  # distances are those of normalised vectors
    assert torch.equal(assigned, torch.cdist(z, quantiser.code.double()).argmin(1))


def test_a_codebook_in_use_is_not_written_to() -> None:
    quantiser = VectorQuantiser(5, 3)
    quantiser.update(torch.randn(20, 3))
    weight = torch.randn(3, requires_grad=True)
    y = (quantiser.codebook() * weight).square().sum()
    quantiser.update(torch.randn(20, 3))
    y.backward()  # would raise, had the update been in place
    assert weight.grad.isfinite().all()


def test_blocks_of_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    quantiser = VectorQuantiser(5, 3).eval()
    q = torch.randn(2, 11, 3)
    whole = quantiser.assign(q)
    monkeypatch.setattr(module, "BLOCK", 1)
    assert torch.equal(quantiser.assign(q), whole)
    assert whole.shape == (2, 11)
    assert quantiser.assign(q[:, :0]).shape == (2, 0)


def test_masked_vectors_change_nothing() -> None:
    plain, masked = (VectorQuantiser(4, 3) for _ in range(2))
    masked.load_state_dict(plain.state_dict())
    q = torch.randn(2, 6, 3)
    mask = torch.tensor([[True] * 4 + [False] * 2, [False] + [True] * 5])
    junk = q.masked_fill(~mask[..., None], torch.nan)
    for seed in range(3):
        torch.manual_seed(seed)
        expected = plain.update(q[mask])
        torch.manual_seed(seed)
        found = masked.update(junk, mask)
        assert torch.equal(found[mask], expected)
        assert (found[~mask] == -1).all()
    for name in BUFFERS:
        assert torch.equal(getattr(plain, name), getattr(masked, name)), name
    nothing = masked.update(junk, torch.zeros_like(mask))
    assert (nothing == -1).all()
    assert torch.equal(plain.counts, masked.counts)


def test_one_vector() -> None:
    """It has no variance, so the running one serves."""
    for init in ("first_batch", "normal"):
        quantiser = VectorQuantiser(3, 2, init=init)
        for _ in range(3):
            assert quantiser.update(torch.randn(1, 2)).shape == (1,)
        assert all(value.isfinite().all() for value in quantiser.state_dict().values())


def test_saved_and_loaded_it_goes_on_exactly() -> None:
    quantiser, fresh = VectorQuantiser(6, 3), VectorQuantiser(6, 3)
    quantiser.update(torch.randn(9, 3))
    file = io.BytesIO()
    torch.save(quantiser.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert bool(fresh.initialised)
    q = torch.randn(9, 3)
    torch.manual_seed(1)
    expected = quantiser.update(q)
    torch.manual_seed(1)
    assert torch.equal(fresh.update(q), expected)
    for name in BUFFERS:
        assert torch.equal(getattr(fresh, name), getattr(quantiser, name)), name


def test_statistics_stay_in_float32() -> None:
    wide = VectorQuantiser(6, 3)
    half = copy.deepcopy(wide).to(torch.bfloat16)
    for _ in range(3):
        q = torch.randn(50, 3).bfloat16()
        torch.manual_seed(2)
        wide.update(q.float())
        torch.manual_seed(2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half.update(q)
    for name in BUFFERS:
        assert torch.equal(getattr(wide, name), getattr(half, name)), name
    assert half.codebook().dtype == torch.float32
    assert copy.deepcopy(wide).double().codebook().dtype == torch.float64
    assert copy.deepcopy(wide).half().sums.dtype == torch.float32


def run_process(rank: int, folder: str) -> str:
    """Updates with a share of each batch, which may be empty; saves the states."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        found = {}
        for init in ("first_batch", "normal"):
            quantiser, nodes = made(init)
            torch.manual_seed(5 + rank)  # unlike on the ranks: what is drawn must come from the first
            assigned = []
            for batch, ids, cut in batches():
                share = slice(cut) if rank == 0 else slice(cut, None)
                assigned.append(quantiser.update(batch[share]))
                nodes.set(ids[share], assigned[-1])
            found[init] = {**quantiser.state_dict(), **nodes.state_dict(), "assigned": assigned}
        torch.save(found, os.path.join(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()


def made(init: str) -> tuple[VectorQuantiser, NodeCodes]:
    torch.manual_seed(0)
    restart = 0.3 if init == "first_batch" else None
    return VectorQuantiser(12, 3, decay=0.5, init=init, restart=restart), NodeCodes(15, 12)


def batches() -> list[tuple[Tensor, Tensor, int]]:
    """Batches, nodes (some on both processes), and how many rows are the first process's."""
    g = torch.Generator().manual_seed(3)
    return [
        (torch.randn(n, 3, generator=g) * 2 + 1, torch.randint(15, (n,), generator=g), cut)
        for n, cut in ((9, 4), (20, 7), (8, 0), (8, 8))
    ]


def test_two_processes_hold_the_codebook_of_one(processes: ForkServer, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parents[i]) for i in (0, 1)]}\n"
        "from test_vector_quantiser import run_process\nrun_process(int(sys.argv[1]), sys.argv[2])"
    )
    ranks = [processes.start(["-c", code, str(rank), str(tmp_path)], stderr=2) for rank in range(2)]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for init in ("first_batch", "normal"):
        alone, nodes = made(init)
        torch.manual_seed(5)
        for step, (batch, ids, _) in enumerate(batches()):
            expected = alone.update(batch)
            nodes.set(ids, expected)
            joined = torch.cat([state[init]["assigned"][step] for state in states])
            assert torch.equal(joined, expected), (init, step)
        for name, value in {**alone.state_dict(), **nodes.state_dict()}.items():
            assert torch.equal(states[0][init][name], states[1][init][name]), (init, name)
            assert torch.allclose(states[0][init][name], value, atol=1e-5, rtol=1e-5), (init, name)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"codes": 0}, ValueError, "codes: expected a positive integer, found 0"),
        ({"dim": 2.0}, TypeError, "dim: expected a positive integer, found 2.0"),
        ({"decay": 1.0}, ValueError, "decay: expected at least 0 and below 1, found 1.0"),
        ({"eps": 0.0}, ValueError, "eps: expected a positive number, found 0.0"),
        ({"init": "kmeans"}, ValueError, "init: expected 'first_batch' or 'normal', found 'kmeans'"),
        ({"restart": 2.0}, ValueError, "restart: expected None or a fraction from 0 to 1, found 2.0"),
    ],
)
def test_mistakes_are_named(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        VectorQuantiser(**{"codes": 3, "dim": 2, **options})


def test_wrong_vectors_are_refused_before_anything_changes() -> None:
    quantiser = VectorQuantiser(3, 2)
    before = copy.deepcopy(quantiser.state_dict())
    for wrong in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="q: expected finite numbers, found NaN or infinity"):
            quantiser.update(torch.tensor([[1.0, 2.0], [wrong, 0.0]]))
    with pytest.raises(ValueError, match=r"q: expected shape \(..., dim=2\), found \(4, 3\)"):
        quantiser.update(torch.zeros(4, 3))
    with pytest.raises(TypeError, match=r"q: expected floats, found torch\.int64"):
        quantiser.assign(torch.zeros(4, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"mask: expected bool of shape \(4,\), found torch.bool of \(3,\)"):
        quantiser.update(torch.zeros(4, 2), torch.ones(3, dtype=torch.bool))
    assert all(torch.equal(value, before[name]) for name, value in quantiser.state_dict().items())


def test_in_float64_it_learns_as_in_float32():
    wide, narrow = (VectorQuantiser(codes=6, dim=3) for _ in range(2))
    wide.double()
    batch = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    for quantiser, x in ((wide, batch.double()), (narrow, batch)):
        torch.manual_seed(0)
        quantiser.update(x)
        quantiser.update(x * 1.5)
    assert wide.codebook().dtype == torch.float64
    torch.testing.assert_close(wide.codebook().float(), narrow.codebook(), atol=1e-4, rtol=1e-4)


def test_a_first_batch_of_one_vector_does_not_fix_the_statistics():
    generator = torch.Generator().manual_seed(0)
    quantiser = VectorQuantiser(codes=4, dim=3)
    quantiser.update(torch.randn(1, 3, generator=generator) + 1000)
    batch = torch.randn(50, 3, generator=generator) + 1000
    quantiser.update(batch)
    assert torch.cdist(batch, quantiser.codebook()).min(1).values.mean() < 3
