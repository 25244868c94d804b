"""Several processes compute the loss of the joined batch, with its gradients."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from tokenmix.losses import LateInteraction
from tokenmix.losses.gather import gather_tokens, processes
from tokenmix.processes import in_processes

CUT = 3  # rows of the first process; the second has the other 4
CASES = ("plain", "groups", "no masks", "bfloat16")


def batch(case: str):
    g = torch.Generator().manual_seed(2)
    text, image = torch.randn(7, 4, 6, generator=g), torch.randn(7, 5, 6, generator=g)
    text_mask, image_mask = torch.rand(7, 4, generator=g) < 0.5, torch.rand(7, 5, generator=g) < 0.5
    text_mask[:, 0], image_mask[:, 0] = True, True
    text_mask[:CUT, 2:] = False  # so that the first process may hold shorter rows
    groups = torch.tensor([5, 1, 2, 5, 2, 2, 9]) if case == "groups" else None  # twins in one process, and across
    if case == "no masks":
        text_mask, image_mask = torch.arange(4).lt(torch.tensor([2] * CUT + [4] * 4)[:, None]), torch.ones(7, 5).bool()
    return text, image, text_mask, image_mask, groups


class Towers(nn.Module):
    def __init__(self, gather: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.text, self.image, self.loss = nn.Linear(6, 4), nn.Linear(6, 4), LateInteraction(0.3, gather=gather)

    def forward(self, text, image, text_mask, image_mask, groups, dtype):
        return self.loss(self.text(text).to(dtype), self.image(image).to(dtype), text_mask, image_mask, groups=groups)


def run_process(rank: int, folder: str) -> str:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        found = {}
        for case in CASES:
            text, image, text_mask, image_mask, groups = (
                x if x is None else x[:CUT] if rank == 0 else x[CUT:] for x in batch(case)
            )
            if rank == 0:
                text, text_mask = text[:, :2], text_mask[:, :2]
            if case == "no masks":
                text_mask = image_mask = None
            model = Towers(gather=True)
            loss = model(text, image, text_mask, image_mask, groups, dtype_of(case))
            loss.backward()
            grads = {name: weight.grad for name, weight in model.named_parameters()}
            for grad in grads.values():  # the mean, as DistributedDataParallel takes it
                dist.all_reduce(grad)
                grad /= 2
            found[case] = {"loss": loss.detach(), "grads": grads}
        tokens = torch.full((2 - rank, 1 + rank, 3), float(rank), requires_grad=True)
        joined = gather_tokens(tokens, None)
        (joined.tokens * (rank + 1)).sum().backward()
        found["gathered"] = {
            "tokens": joined.tokens.detach(),
            "mask": joined.mask,
            "grad": tokens.grad,
            "processes": processes(),
        }
        path = os.path.join(folder, f"{rank}.pt")
        torch.save(found, path)
        return path
    finally:
        dist.destroy_process_group()


def dtype_of(case: str) -> torch.dtype:
    return torch.bfloat16 if case == "bfloat16" else torch.float32


def test_two_processes_have_the_loss_of_one(tmp_path: Path) -> None:
    folder = str(tmp_path)
    states = [torch.load(path) for path in in_processes(run_process, [(0, folder), (1, folder)], workers=2)]
    for case in CASES:
        alone = Towers(gather=False)
        loss = alone(*batch(case), dtype_of(case))
        loss.backward()
        # of bfloat16 each process rounds its own share of the gradient, not the sum
        tolerance = 2e-3 if case == "bfloat16" else 1e-6
        for rank, state in enumerate(states):
            torch.testing.assert_close(state[case]["loss"], loss.detach(), atol=1e-6, rtol=1e-6)
            for name, weight in alone.named_parameters():
                got = state[case]["grads"][name]
                torch.testing.assert_close(got, weight.grad, atol=tolerance, rtol=1e-5, msg=f"{case} {rank} {name}")
                assert weight.grad.abs().max() > 1e-3, name  # there is something to compare
    for rank, state in enumerate(states):
        gathered = state["gathered"]
        assert gathered["processes"] == 2
        assert gathered["mask"].tolist() == [[True, False], [True, False], [True, True]]
        assert gathered["tokens"][gathered["mask"]].mean(1).tolist() == [0.0, 0.0, 1.0, 1.0]
        assert gathered["grad"].eq(1 + 2).all(), rank  # of both processes


def test_a_share_of_the_batch_alone_has_another_loss() -> None:
    """What the test above would find if nothing were gathered."""
    text, image, *masks, _ = batch("plain")
    model = Towers(gather=False)
    whole = model(text, image, *masks, None, torch.float32)
    parts = [
        model(*(x[rows] for x in (text, image, *masks)), None, torch.float32) for rows in (slice(CUT), slice(CUT, 7))
    ]
    assert (torch.stack(parts).mean() - whole).abs() > 1e-2
