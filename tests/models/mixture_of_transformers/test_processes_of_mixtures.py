"""Mixture-of-Transformers under DistributedDataParallel, and with Trainer."""

import os
from pathlib import Path
from typing import Any

import torch
from mixtures import IMAGE, STACKS, TEXT, build, tokens

from fork_server import ForkServer
from tokenmix.models import MixtureOfTransformersForCausalLM

PROCESS = """
import sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tokenmix.models import MixtureOfTransformersForCausalLM
folder, rank = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
model = DistributedDataParallel(MixtureOfTransformersForCausalLM.from_pretrained(folder).train())
ids = torch.load(f"{folder}/ids.pt", weights_only=True)[rank : rank + 1]
for _ in range(2):  # a parameter without a gradient fails in the second forward
    model.zero_grad()
    model(ids, labels=ids).loss.backward()
torch.save({n: p.grad for n, p in model.module.named_parameters()}, f"{folder}/gradients{rank}.pt")
dist.destroy_process_group()
"""


def test_a_modality_that_one_process_lacks(processes: ForkServer, tmp_path: Path) -> None:
    """Text alone on one process, text and pictures on the other, speech on none: the gradients of one process."""
    model = build(**STACKS["hybrid"]).float().train()
    model.save_pretrained(tmp_path)
    ids = torch.cat([tokens(1, 9, vocabulary=TEXT), tokens(1, 9, seed=1, vocabulary=TEXT + IMAGE)])
    torch.save(ids, tmp_path / "ids.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [processes.start(["-c", PROCESS, str(tmp_path), str(rank)], env=environment, stderr=2) for rank in range(2)]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    model(ids, labels=ids).loss.backward()
    first, second = (torch.load(tmp_path / f"gradients{rank}.pt", weights_only=True) for rank in range(2))
    for name, parameter in model.named_parameters():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_trainer_and_gradient_checkpointing(tmp_path: Path) -> None:
    from tokenmix.training import TrainingConfig, train_or_resume

    ids = tokens(8, 10)
    rows = [{"input_ids": row, "labels": row} for row in ids]
    weights: list[dict[str, Any]] = []
    for checkpointing in (False, True):
        model: MixtureOfTransformersForCausalLM = build(**STACKS["hybrid"]).float()
        options = {"gradient_checkpointing": checkpointing, "disable_tqdm": True}
        config = TrainingConfig(steps=3, batch_size=4, accumulation=2, warmup_steps=1, log_steps=1, trainer=options)
        train_or_resume(model, config, tmp_path / str(checkpointing), train_dataset=rows)
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5)
