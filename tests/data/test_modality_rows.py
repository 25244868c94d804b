"""Pairs as rows of tokens of one vocabulary."""

import pytest
import torch

from tokenmix.data.modality_rows import (
    IMAGE,
    IMAGE_END,
    SPEECH,
    SPEECH_END,
    START,
    TEXT,
    TEXT_END,
    TEXT_TOKENS,
    ModalityRows,
    PairTokens,
    collate_modalities,
)
from tokenmix.models import MixtureOfTransformersConfig


def pairs() -> PairTokens:
    images = torch.tensor([[0, 3], [1, 1], [2, 0]])
    return PairTokens(["ab", "é", "c"], images, 4, [torch.tensor([5, 0]), None, torch.tensor([1])], 6)


def test_spans_are_of_their_modality() -> None:
    tokens = pairs()
    config = MixtureOfTransformersConfig(modalities=tokens.modalities)
    assert config.names == ["text", "image", "speech"]
    row = tokens.row(0, ["speech", "text", "image"])
    assert row.tolist() == [
        *(START, SPEECH, TEXT_TOKENS + 4 + 5, TEXT_TOKENS + 4, SPEECH_END),
        *(TEXT, *b"ab", TEXT_END, IMAGE, TEXT_TOKENS, TEXT_TOKENS + 3, IMAGE_END),
    ]
    assert config.modality_of(row).tolist() == [0, 0, 2, 2, 0, 0, 0, 0, 0, 0, 1, 1, 0]
    assert tokens.span("text", 1).tolist() == [TEXT, *"é".encode(), TEXT_END]
    assert len(tokens.span("speech", 1)) == 0  # nothing is said
    assert config.specs["image"] == {"name": "image", "vocab_size": 4, "begin": IMAGE, "end": IMAGE_END, "length": 2}


def test_orders_depend_on_seed_epoch_and_pair_alone() -> None:
    rows = ModalityRows(pairs(), torch.tensor([2, 0]), seed=1)
    again = ModalityRows(pairs(), torch.tensor([0]), seed=1)
    assert torch.equal(rows[1]["input_ids"], again[0]["input_ids"])
    many = ModalityRows(pairs(), torch.tensor([0]), seed=1)
    seen = set()
    for epoch in range(60):
        many.set_epoch(epoch)
        seen.add(tuple(many.order(0)))
    assert len(seen) == 6  # every order comes
    assert {tuple(ModalityRows(pairs(), torch.tensor([0]), seed=s).order(0)) for s in range(60)} == seen


def test_batches_are_padded_and_labelled() -> None:
    rows = ModalityRows(pairs(), torch.tensor([0, 1]))
    batch = collate_modalities([rows[0], rows[1]])
    lengths = batch["attention_mask"].sum(1).tolist()
    assert lengths == [len(rows[0]["input_ids"]), len(rows[1]["input_ids"])]
    for row, length, labels in zip(batch["input_ids"], lengths, batch["labels"], strict=True):
        assert torch.equal(labels[:length], row[:length])
        assert (labels[length:] == -100).all()


def test_patches_come_where_their_tokens_are() -> None:
    images = torch.randn(3, 2, 5)
    tokens = PairTokens(["ab", "c", "def"], images, 1)
    rows = ModalityRows(tokens, torch.arange(3))
    batch = collate_modalities([rows[i] for i in range(3)])
    assert batch["features"].shape == (*batch["input_ids"].shape, 5)
    for i in range(3):
        here = (batch["input_ids"][i] == TEXT_TOKENS) & (batch["attention_mask"][i] == 1)
        assert torch.equal(batch["features"][i][here], images[i])
        assert (batch["features"][i][~here] == 0).all()
    assert tokens.modalities["image"]["objective"] == "diffusion"
    levels = {True: [], False: []}
    for epoch in range(200):
        rows.set_epoch(epoch)
        order = rows.order(0)
        level = rows[0]["noise_level"]
        levels[order.index("image") < order.index("text")].append(level)
        assert rows[0]["noise_level"] == level
    assert 0.4 < max(levels[True]) <= 0.5
    assert 0.9 < max(levels[False]) <= 1.0


def test_a_long_text_and_an_empty_one() -> None:
    tokens = PairTokens(["", "x" * 300], torch.zeros(2, 1, dtype=torch.int64), 1)
    assert tokens.span("text", 0).tolist() == [TEXT, TEXT_END]
    assert len(tokens.span("text", 1)) == 302
    with pytest.raises(KeyError):
        tokens.span("taste", 0)
