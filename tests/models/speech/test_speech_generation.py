"""generate: greedy and beams, with and without a cache, in a batch and alone; beams against all texts there are."""

import math
from typing import Any

import pytest
import torch
from speech_cases import BRIDGES, MAMBA, batch_of, noise, randomize, samba_config, samba_model
from speech_checks import exhaustive_best

from tokenmix.models import MixerCache
from tokenmix.models.speech import SambaASRForConditionalGeneration

CLIPS = [noise(2000, 1), noise(1210, 2), noise(730, 3)]


def texts(ids: Any, end: int = 2, pad: int = 0) -> list[list[int]]:
    """Without the start, cut behind the end."""
    rows = []
    for row in ids[:, 1:].tolist():
        rows.append(row[: row.index(end) + 1] if end in row else row)
    return rows


@pytest.mark.parametrize("cross", BRIDGES)
def test_greedy_is_the_likeliest_token_each_time(cross: str) -> None:
    """By logits without a cache; in a batch and alone; with a cache and without."""
    model = samba_model(cross).double()
    batch = texts(model.generate(**batch_of(CLIPS), max_new_tokens=8))
    assert len({tuple(row) for row in batch}) > 1
    for clip, text in zip(CLIPS, batch, strict=True):
        assert texts(model.generate(clip[None], max_new_tokens=8)) == [text]
        inputs = torch.tensor([[1, *text[:-1]]])
        assert model(clip[None], decoder_input_ids=inputs, use_cache=False).logits[0].argmax(-1).tolist() == text
    assert texts(model.generate(**batch_of(CLIPS), max_new_tokens=8, use_cache=False)) == batch
    assert (
        texts(model.generate(**batch_of(CLIPS), max_new_tokens=8, num_beams=1, return_dict_in_generate=True).sequences)
        == batch
    )


def small(cross: str, seed: int) -> Any:
    """Six symbols, logits far apart, and beginnings that promise more than they keep."""
    options: dict[str, Any] = {"vocab_size": 6, "initializer_range": 1.0, "pattern": "x"}
    torch.manual_seed(seed)
    config = samba_config(cross, **options, decoder_mixers={"m": MAMBA}, decoder_pattern="m")
    model = randomize(SambaASRForConditionalGeneration(config)).double()
    with torch.no_grad():
        model.lm_head.weight.normal_(0, 0.4)
        model.decoder.embed_tokens.weight.normal_(0, 1.5)
    return model


@pytest.mark.parametrize("cross", BRIDGES)
def test_enough_beams_find_the_best_of_all_texts(cross: str) -> None:
    """Three tokens of six symbols, 156 texts; their order and their scores, over several models."""
    greedy_is_beaten = 0
    for seed in range(6):
        model, audio = small(cross, seed), batch_of([noise(900, seed)])
        best = exhaustive_best(model, audio, 3)
        assert math.fsum(math.exp(score) for score, _ in best) == pytest.approx(1, abs=1e-9)  # all texts, once
        options = {"max_new_tokens": 3, "length_penalty": 0.0, "early_stopping": False}
        found = model.generate(
            **audio, num_beams=40, num_return_sequences=5, output_scores=True, return_dict_in_generate=True, **options
        )
        assert texts(found.sequences) == [text for _, text in best[:5]]
        for score, (expected, _) in zip(found.sequences_scores.tolist(), best, strict=False):
            assert score == pytest.approx(expected, abs=1e-5)
        greedy_is_beaten += texts(model.generate(**audio, max_new_tokens=3)) != [best[0][1]]
    assert greedy_is_beaten > 0  # else beams would not have been needed


@pytest.mark.parametrize("cross", BRIDGES)
def test_beams_reorder_the_cache(cross: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cache as without, in a batch as alone; rows do change places, and a cache that kept them would differ."""
    orders = []
    original = MixerCache.reorder_cache

    def noted(self: MixerCache, order: Any) -> None:
        orders.append(order.tolist())
        original(self, order)

    options: dict[str, Any] = {"max_new_tokens": 8, "num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.0}
    models = [small(cross, seed) for seed in range(3)]
    bare = [texts(model.generate(**batch_of(CLIPS), use_cache=False, **options)) for model in models]
    monkeypatch.setattr(MixerCache, "reorder_cache", noted)
    found = [texts(model.generate(**batch_of(CLIPS), **options)) for model in models]
    assert found == bare
    assert any(order != sorted(set(order)) for order in orders)  # some rows repeat, and others are lost
    for model, rows in zip(models, found, strict=True):
        assert len(rows) == 9
        assert [row for clip in CLIPS for row in texts(model.generate(clip[None], **options))] == rows
    monkeypatch.setattr(MixerCache, "reorder_cache", lambda self, order: None)
    assert [texts(model.generate(**batch_of(CLIPS), **options)) for model in models] != bare


def test_the_encoder_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = samba_model(), []
    original = model.encoder.forward
    monkeypatch.setattr(model.encoder, "forward", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
    model.generate(**batch_of(CLIPS), max_new_tokens=5, num_beams=3)
    assert len(calls) == 1


def test_length_ends_and_padding() -> None:
    """No text is longer than told, or than `max_target_length` if nothing is; rows that end are padded."""
    model = samba_model(max_target_length=7)
    with torch.no_grad():
        model.lm_head.weight[2] = 0
        model.lm_head.weight[0] = 0
    assert model.generate(CLIPS[0][None]).shape[1] <= 8
    assert model.generate(CLIPS[0][None], max_new_tokens=3).shape[1] <= 4
    ids = small("mamba", 1).generate(**batch_of(CLIPS), max_new_tokens=30)
    for row in ids.tolist():
        if 2 in row[1:]:
            end = row.index(2, 1)
            assert not any(row[end + 1 :])


def test_sampling_is_seeded_and_batched() -> None:
    model, options = samba_model(), {"max_new_tokens": 6, "do_sample": True, "num_return_sequences": 4}
    rows = []
    for _ in range(2):
        torch.manual_seed(0)
        rows.append(texts(model.generate(**batch_of(CLIPS), **options)))
    assert rows[0] == rows[1]
    assert len(rows[0]) == 12
    assert len({tuple(row) for row in rows[0][:4]}) > 1


def test_what_is_missing_is_named() -> None:
    model = samba_model()
    with pytest.raises(ValueError, match="input_values: expected audio or encoder_outputs, found neither"):
        model(decoder_input_ids=torch.tensor([[1]]))
    with pytest.raises(ValueError, match="decoder_input_ids: expected tokens of the text or labels, found neither"):
        model(CLIPS[0][None])
    with pytest.raises(ValueError, match="decoder_input_ids: expected 0 to vocab_size - 1 = 10, found 1 to 11"):
        model(CLIPS[0][None], decoder_input_ids=torch.tensor([[1, 11]]))
    with pytest.raises(ValueError, match="cache_implementation: expected None"):
        model.generate(CLIPS[0][None], cache_implementation="static", max_new_tokens=2)
    with pytest.raises(ValueError, match="ctc_weight: expected a model with a CTC head, found ctc_weight=0"):
        samba_model(ctc_weight=0).ctc(CLIPS[0][None])
