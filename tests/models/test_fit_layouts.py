"""FIT's layouts: padding and packing change nothing, and faults in them, or in the equations, are seen."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_fit_tools import BOTH_WAYS, EXACT, GROUP, MIXERS, build, check_equations
from tiny_models import assert_close, left_padded, tokens
from torch import Tensor

from tokenmix.layout import Layout
from tokenmix.models.fit import FITModel, grouping
from tokenmix.models.fit.exchange import ReadTokens
from tokenmix.models.fit.stages import FITStage


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


# ---------------------------------------------------------------------- padding and packing


def check_padding(model: FITModel, tolerance: float = EXACT) -> None:
    """Left, right and scattered padding change no token and no latent."""
    padded, mask, rows = left_padded([11, 8, 3])
    left = model(padded, attention_mask=mask)
    right_ids, right_mask = padded.flip(1), mask.flip(1)
    scattered = torch.tensor([0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 0])
    for i, row in enumerate(rows):
        alone, size = model(row), row.shape[1]
        assert_close(left.last_hidden_state[i, -size:], alone.last_hidden_state[0], tolerance)
        count = alone.latents.shape[1]
        assert_close(left.latents[i, :count], alone.latents[0], tolerance)
        assert not left.latents[i, count:].any()
        right = model(right_ids[i : i + 1], attention_mask=right_mask[i : i + 1])
        alone = model(right_ids[i : i + 1, :size])
        assert_close(right.last_hidden_state[0, :size], alone.last_hidden_state[0], tolerance)
        assert_close(right.latents, alone.latents, tolerance)
    assert left.latent_mask is not None
    assert left.latent_mask.sum(1).tolist() == [3, 2, 1]
    found = model(padded[:1], attention_mask=scattered[None])
    alone = model(padded[:1, scattered.bool()])
    assert_close(found.last_hidden_state[:, scattered.bool()], alone.last_hidden_state, tolerance)
    assert_close(found.latents, alone.latents, tolerance)


def check_packing(model: FITModel, tolerance: float = EXACT) -> None:
    """Documents in one row equal each alone; the second ends with a group, so that an empty one could follow."""
    documents = [tokens(1, size, seed) for seed, size in enumerate([5, 8, 1, 3])]
    apart = [model(document) for document in documents]
    packed = torch.cat(documents, dim=1)
    segment_ids = torch.tensor([[0] * 5 + [1] * 8 + [2] + [3] * 3])
    position_ids = torch.tensor([[*range(5), *range(8), 0, *range(3)]])
    for inputs in ({"segment_ids": segment_ids}, {"position_ids": position_ids}):
        found = model(packed, **inputs)
        expected = torch.cat([output.last_hidden_state for output in apart], dim=1)
        assert_close(found.last_hidden_state, expected, tolerance)
        latents = found.latents if found.latent_mask is None else found.latents[found.latent_mask][None]
        assert_close(latents, torch.cat([output.latents for output in apart], dim=1), tolerance)
    mixed = torch.cat([packed, packed.flip(1)])
    mask = torch.ones(2, 17, dtype=torch.long)
    mask[1, :4] = 0
    both = model(mixed, segment_ids=torch.cat([segment_ids, torch.zeros_like(segment_ids)]), attention_mask=mask)
    assert_close(both.last_hidden_state[:1], expected, tolerance)
    assert_close(both.last_hidden_state[1:, 4:], model(mixed[1:, 4:]).last_hidden_state, tolerance)


CASES = [(True, name) for name in MIXERS] + [(False, name) for name in BOTH_WAYS]


def encoder(causal: bool, name: str) -> tuple[FITModel, float]:
    model = build(FITModel, causal=causal, **(MIXERS if causal else BOTH_WAYS)[name])
    return model, 1e-5 if "gam" in name or "mamba" in name or "linear" in name else EXACT


@pytest.mark.parametrize(("causal", "name"), CASES)
def test_padding_changes_nothing(causal: bool, name: str) -> None:
    check_padding(*encoder(causal, name))


@pytest.mark.parametrize(("causal", "name"), CASES)
def test_packed_equals_apart(causal: bool, name: str) -> None:
    check_packing(*encoder(causal, name))


def test_positions_leave_places_empty() -> None:
    """A document that begins at place 6 of groups of 4 begins at place 2 of its first group."""
    model = build(FITModel)
    ids = tokens(1, 7)
    found = model(ids, position_ids=torch.arange(6, 13)[None], attention_mask=torch.ones(1, 7))
    assert found.latents.shape[1] == 3
    places = model.embed_positions.weight
    assert_close(places[[2, 3, 0]], places[grouping_places(ids, 6)[0, :3]], 0)
    assert (found.last_hidden_state - model(ids).last_hidden_state).abs().max() > 0.1


def grouping_places(ids: Tensor, first: int) -> Tensor:
    layout = Layout(positions=torch.arange(first, first + ids.shape[1])[None])
    return grouping.find_groups(layout, 1, ids.shape[1], GROUP).place


def test_a_row_of_padding_is_no_trouble() -> None:
    model = build(FITModel)
    mask = torch.tensor([[1] * 6, [0] * 6])
    found = model(tokens(2, 6), attention_mask=mask)
    assert torch.isfinite(found.last_hidden_state).all()
    assert found.last_hidden_state[1].abs().max() == 0
    assert found.latents[1].abs().max() == 0


# ---------------------------------------------------------------------- planted faults


def blind_gather(self: ReadTokens, grouped: Any, latents: Tensor) -> Tensor:
    return self.cross(latents, grouped.x, None)


def unmasked_local(self: FITStage, grouped: Any) -> Any:
    if self.local is None:
        return grouped
    return type(grouped)(self.local(grouped.x.flatten(0, 1)).view(grouped.x.shape), grouped.filled)


def row_index(find: Any) -> Any:
    def found(*args: Any) -> Any:
        groups = find(*args)
        return dataclasses.replace(groups, index=torch.arange(groups.tokens.count).expand_as(groups.index))

    return found


def without_layout(find: Any, field: str) -> Any:
    def found(*args: Any) -> Any:
        groups = find(*args)
        layout = dataclasses.replace(groups.tokens.layout, **{field: None})
        return dataclasses.replace(groups, tokens=dataclasses.replace(groups.tokens, layout=layout))

    return found


def plant(fault: str, patch: pytest.MonkeyPatch) -> None:
    where = "tokenmix.models.fit.model.find_groups"
    if fault == "gather sees padding":
        patch.setattr(ReadTokens, "forward", blind_gather)
    elif fault == "local layers see padding":
        patch.setattr(FITStage, "run_local", unmasked_local)
    elif fault == "latents count over documents":
        patch.setattr(where, row_index(grouping.find_groups))
    elif fault == "latents see empty groups":
        patch.setattr(where, without_layout(grouping.find_groups, "mask"))
    else:
        patch.setattr(where, without_layout(grouping.find_groups, "segments"))


@pytest.mark.parametrize(
    ("fault", "causal"),
    [
        ("gather sees padding", False),
        ("gather sees padding", True),
        ("local layers see padding", False),
        ("latents see empty groups", False),
        ("latents count over documents", True),
        ("latents see other documents", True),
        ("latents see other documents", False),
    ],
)
def test_planted_faults_are_caught(fault: str, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        check_equations(model, 3 * GROUP - 1)
        check_padding(model)
        check_packing(model)

    model = build(FITModel, causal=causal)
    check()
    plant(fault, monkeypatch)
    with pytest.raises(AssertionError):
        check()
