"""SI-SDR against its formula in float64, and the best order against all orders."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenmix.models.separation import best_order, ideal_ratio_mask, score_ideal_masks, score_separator, si_sdr


def naive(estimate: Tensor, target: Tensor) -> float:
    """One pair of (N,) waveforms."""
    e, s = (x.double().numpy() - x.double().numpy().mean() for x in (estimate, target))
    along = np.dot(e, s) / np.dot(s, s) * s
    return float(10 * np.log10(np.dot(along, along) / np.dot(e - along, e - along)))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("level", [0.01, 0.3, 5.0])
def test_it_equals_the_formula_with_and_without_a_mask(level: float) -> None:
    target = noise(3, 700)
    estimate = 0.2 * target + level * noise(3, 700, seed=1) + 0.7  # the offset is taken out
    lengths = [700, 333, 512]
    mask = torch.arange(700) < torch.tensor(lengths)[:, None]
    for row, length in enumerate(lengths):
        assert si_sdr(estimate, target)[row].item() == pytest.approx(naive(estimate[row], target[row]), abs=1e-3)
        wanted = naive(estimate[row, :length], target[row, :length])
        found = si_sdr(estimate.masked_fill(~mask, 1e3), target.masked_fill(~mask, -7.0), mask)[row].item()
        assert found == pytest.approx(wanted, abs=1e-3)
        assert abs(wanted - naive(estimate[row], target[row])) > 1e-3 or length == 700


def test_loudness_and_sign_of_the_estimate_change_nothing() -> None:
    target = noise(1000)
    estimate = target + noise(1000, seed=1)
    exact = si_sdr(estimate, target)
    for factor in (1e-4, 1e4, -3.0):
        torch.testing.assert_close(si_sdr(factor * estimate, target), exact, rtol=0, atol=1e-3)
        torch.testing.assert_close(si_sdr(estimate, factor * target), exact, rtol=0, atol=1e-3)


def test_perfection_and_silence_are_finite() -> None:
    target = noise(1000)
    assert si_sdr(target, target).item() == pytest.approx(80, abs=0.5)
    silence = torch.zeros(1000, requires_grad=True)
    assert si_sdr(silence, target).item() == pytest.approx(-80, abs=0.5)
    assert si_sdr(target, silence).item() == pytest.approx(-80, abs=0.5)
    si_sdr(silence, target).backward()
    assert silence.grad is not None
    assert silence.grad.isfinite().all()


@pytest.mark.parametrize("speakers", [2, 3])
def test_the_best_order_is_the_best_of_all(speakers: int) -> None:
    targets, mask = noise(6, speakers, 400), torch.arange(400) < torch.tensor([400, 200, 399, 17, 400, 250])[:, None]
    estimates = targets[:, torch.randperm(speakers, generator=torch.Generator().manual_seed(2))]
    estimates = estimates + 1.5 * noise(6, speakers, 400, seed=1)
    ratios, order = best_order(estimates, targets, mask)
    for row in range(6):
        n = int(mask[row].sum())
        scores = {
            chosen: [naive(estimates[row, e, :n], targets[row, s, :n]) for s, e in enumerate(chosen)]
            for chosen in permutations(range(speakers))
        }
        best = max(scores, key=lambda chosen: sum(scores[chosen]))
        assert order[row].tolist() == list(best)
        np.testing.assert_allclose(ratios[row].numpy(), scores[best], atol=1e-3)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"expected one shape \(B, S, N\), found \(1, 2, 5\) and \(1, 3, 5\)"):
        best_order(noise(1, 2, 5), noise(1, 3, 5))
    with pytest.raises(ValueError, match="targets: expected at most 8 speakers, found 9"):
        best_order(noise(1, 9, 5), noise(1, 9, 5))
    with pytest.raises(ValueError, match="expected shapes that broadcast"):
        si_sdr(noise(5), noise(6))
    with pytest.raises(ValueError, match="batches: expected at least one, found none"):
        score_separator(None, [])


def test_the_mixture_is_the_zero_and_ideal_masks_are_far_above() -> None:
    """Two tones in each other's pauses and pitches: masks of the spectrogram part them."""
    time = torch.arange(8000) / 8000
    tones = [torch.sin(2 * torch.pi * hertz * time) * (torch.sin(2 * torch.pi * rate * time) > 0) for hertz, rate in
             ((300, 3), (1100, 5))]  # fmt: skip
    labels = torch.stack(tones)[None]
    batch = {"input_values": labels.sum(1), "attention_mask": torch.ones(1, 8000), "labels": labels}
    assert score_separator(None, [batch]).improvements.abs().max() == 0
    scores = score_ideal_masks([batch])
    assert scores.metrics["si_sdr_improvement"] > 15
    assert scores.samples == 8000
    torch.testing.assert_close(
        ideal_ratio_mask(batch["input_values"], labels).sum(1), batch["input_values"], rtol=0, atol=1e-3
    )
