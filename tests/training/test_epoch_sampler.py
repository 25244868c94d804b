"""An order of rows by seed and epoch."""

import torch

from tokenmix.training.epoch_sampler import EpochSampler


def test_every_row_once_in_an_order_of_seed_and_epoch() -> None:
    told: list[int] = []
    sampler = EpochSampler(50, seed=3, on_epoch=told.append)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert told == [0, 1, 0]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[1]) == list(range(50)) == sorted(orders[0])
    assert list(EpochSampler(50, seed=4)) != list(EpochSampler(50, seed=3))
    torch.manual_seed(1)
    again = EpochSampler(50, seed=3)
    assert list(again) == orders[0]  # whatever the global generator is
