"""SpecAugment: its widths and bounds, its seed, its rate over many draws, and that it is off in eval."""

from typing import Any

import pytest
import torch
from speech_cases import noise, speech_config
from torch import Tensor

from tokenmix.models.speech import SpeechModel
from tokenmix.models.speech.spec_augment import spec_augment


def hidden_by(lengths: Tensor | None, rows: int, frames: int, **options: Any) -> Tensor:
    config = speech_config(**{"frequency_masks": 0, "time_masks": 0, **options})
    return spec_augment(torch.ones(rows, frames, 12), lengths, config) == 0


def runs(row: Tensor) -> list[int]:
    """Lengths of the runs of True in (n,)."""
    lengths, now = [], 0
    for value in [*row.tolist(), False]:
        if value:
            now += 1
        elif now:
            lengths.append(now)
            now = 0
    return lengths


def expected_rate(place: int, widest: int, within: int) -> float:
    """Chance that one run hides a place: its width uniform on 0 to widest, its start uniform on all that fit."""
    total = 0.0
    for width in range(widest + 1):
        starts = within - width + 1
        total += sum(start <= place < start + width for start in range(starts)) / starts
    return total / (widest + 1)


def test_a_run_of_frames() -> None:
    """One run a row, of 0 to its share of the row's frames, never behind its end, the same for all bands."""
    torch.manual_seed(0)
    lengths = torch.tensor([40, 10, 3, 0] * 250)
    hidden = hidden_by(lengths, 1000, 40, time_masks=1, time_mask_width=5, time_mask_share=0.2)
    assert torch.equal(hidden, hidden[:, :, :1].expand_as(hidden))
    seen: dict[int, set[int]] = {40: set(), 10: set(), 3: set(), 0: set()}
    for row, length in zip(hidden[:, :, 0], lengths.tolist(), strict=True):
        assert not row[length:].any()
        found = runs(row)
        assert len(found) <= 1
        seen[length].add(sum(found))
    assert seen == {40: {0, 1, 2, 3, 4, 5}, 10: {0, 1, 2}, 3: {0}, 0: {0}}  # width, then share, is the smaller


def test_runs_of_bands() -> None:
    torch.manual_seed(0)
    hidden = hidden_by(None, 400, 6, frequency_masks=1, frequency_mask_width=4)
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden))
    assert {sum(runs(row[0])) for row in hidden} == {0, 1, 2, 3, 4}
    assert hidden[:, 0].any(0).all()  # each band, the first and the last too
    wide = hidden_by(None, 300, 6, frequency_masks=1, frequency_mask_width=99)
    assert {int(row[0].sum()) for row in wide} == set(range(13))


@pytest.mark.parametrize("axis", ["time", "frequency"])
def test_the_rate_of_hidden_places_is_the_expected(axis: str) -> None:
    """At each place, over 40,000 rows, within four deviations of the mean of 1 - (1 - p)^2 for two runs."""
    torch.manual_seed(0)
    rows = 40_000
    if axis == "time":
        options: dict[str, Any] = {"time_masks": 2, "time_mask_width": 4, "time_mask_share": 1.0}
        found = hidden_by(torch.full((rows,), 9), rows, 11, **options)[:, :, 0].double().mean(0)
        assert not found[9:].any()
        within = 9
    else:
        found = hidden_by(None, rows, 1, frequency_masks=2, frequency_mask_width=4)[:, 0].double().mean(0)
        within = 12
    for place in range(within):
        rate = 1 - (1 - expected_rate(place, 4, within)) ** 2
        assert abs(found[place] - rate) < 4 * (rate * (1 - rate) / rows) ** 0.5, place


def test_rows_draw_their_own_runs_and_the_seed_decides() -> None:
    options: dict[str, Any] = {"time_masks": 2, "time_mask_width": 6, "time_mask_share": 0.5, "frequency_masks": 1}
    torch.manual_seed(5)
    first = hidden_by(None, 8, 30, **options)
    assert not torch.equal(first[0], first[1])
    second = hidden_by(None, 8, 30, **options)
    torch.manual_seed(5)
    assert torch.equal(hidden_by(None, 8, 30, **options), first)
    assert not torch.equal(first, second)


def test_what_is_not_hidden_is_as_it_was() -> None:
    torch.manual_seed(0)
    mel = torch.randn(4, 30, 12)
    config = speech_config(time_masks=2, time_mask_share=0.3, frequency_masks=1, frequency_mask_width=3)
    found = spec_augment(mel, None, config)
    assert torch.equal(found[found != 0], mel[found != 0])
    assert 0 < (found == 0).double().mean() < 0.6


def test_a_model_hides_in_training_only() -> None:
    torch.manual_seed(0)
    options = {"time_masks": 2, "time_mask_width": 10, "time_mask_share": 0.5, "frequency_masks": 2}
    samples = noise(1600)[None]
    model = SpeechModel(speech_config(**options)).train()
    one, other = model(samples).last_hidden_state, model(samples).last_hidden_state
    assert not torch.allclose(one, other, atol=1e-3)
    plain = SpeechModel(speech_config()).train()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(samples).last_hidden_state, plain(samples).last_hidden_state)
