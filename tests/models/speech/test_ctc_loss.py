"""CTC: the loss is the sum over all alignments; rows that no alignment fits; labels that are refused."""

from typing import Any

import pytest
import torch
from speech_cases import assert_close, batch_of, ctc_model, noise
from speech_ctc import check_ctc_loss, naive_loss, padded

from tokenmix.models.speech.ctc import ctc_loss


@pytest.mark.parametrize("blank", [0, 2, 3])
def test_equals_the_sum_over_all_alignments(blank: int) -> None:
    check_ctc_loss(ctc_loss, blank)


def test_gradients_are_finite_differences_and_stop_at_the_end() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 3, requires_grad=True)
    lengths, labels = torch.tensor([4, 2, 1]), torch.tensor([[1, 2], [1, -100], [2, 2]])  # the last fits nowhere
    (gradient,) = torch.autograd.grad(ctc_loss(logits, lengths, labels, 0), logits)
    assert gradient.isfinite().all()
    assert not gradient[1, 2:].any()
    assert not gradient[2].any()
    texts = [[1, 2], [1], [2, 2]]
    for row, t, symbol in ((0, 0, 1), (0, 3, 0), (1, 1, 2)):
        values = []
        for step in (1e-4, -1e-4):
            moved = logits.detach().double()
            moved[row, t, symbol] += step
            values.append(naive_loss(moved[row], int(lengths[row]), texts[row], 0) / 3)
        assert gradient[row, t, symbol].item() == pytest.approx((values[0] - values[1]) / 2e-4, abs=1e-5)


def test_a_model_with_rows_that_fit_nowhere_still_learns() -> None:
    """A row without audio, one with more characters than tokens, one of no characters: no NaN in any gradient."""
    model = ctc_model().train()
    audio = batch_of([noise(1600, 1), noise(0), noise(170, 2), noise(800, 3)])
    labels = padded([[3, 4, 4], [5], [1, 1, 1, 1], []])
    loss = model(**audio, labels=labels).loss
    loss.backward()
    assert loss > 0
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert any(parameter.grad.any() for parameter in model.parameters())
    alone = [
        model(clip[None], labels=row[None]).loss
        for clip, row in ((noise(1600, 1), labels[0]), (noise(800, 3), labels[3]))
    ]
    assert loss.item() == pytest.approx(sum(value.item() for value in alone) / 4, rel=1e-4)


def test_only_rows_that_fit_nowhere() -> None:
    model = ctc_model().train()
    loss = model(noise(170)[None], labels=torch.tensor([[1, 1, 1]])).loss
    loss.backward()
    assert loss == 0
    assert all(not parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


def test_labels_of_no_columns() -> None:
    logits = torch.randn(2, 3, 4)
    loss = ctc_loss(logits, torch.tensor([3, 2]), torch.zeros(2, 0, dtype=torch.long), 0)
    alone = logits.log_softmax(-1)[..., 0]
    assert_close(loss, -(alone[0].sum() + alone[1, :2].sum()) / 2)


def test_logits_of_16_bits_are_summed_in_32() -> None:
    torch.manual_seed(0)
    logits, lengths, labels = 5 * torch.randn(2, 30, 9), torch.tensor([30, 20]), torch.randint(1, 9, (2, 8))
    for half in (torch.float16, torch.bfloat16):
        found = ctc_loss(logits.to(half), lengths, labels, 0)
        assert found.dtype == torch.float32
        assert torch.equal(found, ctc_loss(logits.to(half).float(), lengths, labels, 0))


@pytest.mark.parametrize(("labels", "error", "message"), [
    (torch.tensor([[1.0, 2.0]]), TypeError, "labels: expected integers, found torch.float32"),
    (torch.tensor([[True, False]]), TypeError, "labels: expected integers, found torch.bool"),
    ([[1, 2]], TypeError, "labels: expected integers, found list"),
    (torch.tensor([1, 2]), ValueError, r"labels: expected shape \(B=1, S\), found \(2,\)"),
    (torch.tensor([[1], [2]]), ValueError, r"labels: expected shape \(B=1, S\), found \(2, 1\)"),
    (torch.tensor([[1, 11]]), ValueError, "labels: expected -100 or 0 to vocab_size - 1 = 10, found 11"),
    (torch.tensor([[1, -1]]), ValueError, "labels: expected -100 or 0 to vocab_size - 1 = 10, found -1"),
    (torch.tensor([[1, 0, 2]]), ValueError, "labels: expected -100 as padding, found the blank, pad_token_id=0"),
    (torch.tensor([[1, -100, 2]]), ValueError, "labels: expected -100 behind the labels of each row only"),
    (torch.tensor([[-100, 2]]), ValueError, "labels: expected -100 behind the labels of each row only"),
])  # fmt: skip
def test_labels_that_are_refused(labels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ctc_model()(noise(800)[None], labels=labels)
