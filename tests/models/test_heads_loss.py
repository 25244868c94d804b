"""What the heads learn from: losses equal hand computations, a few steps learn a batch, and mistakes are named."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import HEADS, VOCABULARY, assert_close, build, left_padded, tokens
from torch import Tensor
from transformers import Trainer, TrainingArguments
from transformers.loss.loss_utils import ForQuestionAnsweringLoss

from tokenmix import Layout
from tokenmix.models import (
    MixerConfig,
    MixerForMaskedLM,
    MixerForQuestionAnswering,
    MixerForSequenceClassification,
    MixerModel,
)

PADDED, MASK, _ = left_padded([6, 3])
FLOATS = torch.tensor([[0.5, 0.0, 1.0], [1.0, 1.0, 0.0]])


def rows(name: str = "hybrid", **options: Any) -> MixerForSequenceClassification:
    return build(name, HEADS["rows"], **{"num_labels": 3, **options})


# ---------------------------------------------------------------------- losses by hand


@pytest.mark.parametrize(
    ("options", "labels", "loss"),
    [
        ({}, torch.tensor([2, 0]), F.cross_entropy),
        ({}, FLOATS, F.binary_cross_entropy_with_logits),
        ({"num_labels": 1}, torch.tensor([0.5, -1.0]), lambda found, y: F.mse_loss(found[:, 0], y)),
        ({"num_labels": 1}, torch.tensor([[0.5], [-1.0]]), F.mse_loss),
        ({"problem_type": "regression"}, FLOATS, F.mse_loss),
        ({"problem_type": "multi_label_classification"}, FLOATS, F.binary_cross_entropy_with_logits),
        ({"problem_type": "single_label_classification"}, torch.tensor([1, 1]), F.cross_entropy),
    ],
)
def test_loss_of_rows(options: dict[str, Any], labels: Tensor, loss: Any) -> None:
    model = rows(**options)
    output = model(PADDED, attention_mask=MASK, labels=labels)
    assert_close(output.loss, loss(output.logits, labels), 1e-6)
    assert model(PADDED, attention_mask=MASK).loss is None


@pytest.mark.parametrize(("head", "classes"), [("tokens", 3), ("masked_lm", VOCABULARY)])
def test_loss_of_tokens(head: str, classes: int) -> None:
    """Not shifted; -100 and padding are left out; `num_items_in_batch` divides the sum."""
    model = build("bi_hybrid", HEADS[head], num_labels=3)
    labels = torch.randint(classes, (2, 6), generator=torch.Generator().manual_seed(3))
    labels[0, 2:4] = -100
    output = model(PADDED, attention_mask=MASK, labels=labels)
    counted = (MASK == 1) & (labels != -100)
    assert int(counted.sum()) == 7
    expected = F.cross_entropy(output.logits[counted], labels[counted], reduction="sum")
    assert_close(output.loss, expected / 7, 1e-6)
    found = model(PADDED, attention_mask=MASK, labels=labels, num_items_in_batch=torch.tensor(20)).loss
    assert_close(found, expected / 20, 1e-6)


def test_loss_of_spans() -> None:
    """The second answer is not in its row."""
    model = build("bi_hybrid", MixerForQuestionAnswering)
    output = model(
        PADDED, attention_mask=MASK, start_positions=torch.tensor([1, 9]), end_positions=torch.tensor([4, 6])
    )
    start, end = (logits[0].log_softmax(0) for logits in (output.start_logits, output.end_logits))
    assert_close(output.loss, -(start[1] + end[4]) / 2, 1e-6)
    starts = torch.tensor([[1], [3]])
    output = model(PADDED, attention_mask=MASK, start_positions=starts, end_positions=starts[:, 0] + 1)
    start, end = (logits.log_softmax(1) for logits in (output.start_logits, output.end_logits))
    expected = -(start[0, 1] + start[1, 3] + end[0, 2] + end[1, 4]) / 4
    assert_close(output.loss, expected, 1e-6)
    outside = model(PADDED, attention_mask=MASK, start_positions=torch.tensor([6, 9]), end_positions=starts[:, 0])
    assert_close(outside.loss, -(outside.end_logits.log_softmax(1)[[0, 1], [1, 3]]).mean() / 2, 1e-6)
    theirs = ForQuestionAnsweringLoss(output.start_logits, output.end_logits, starts, starts[:, 0] + 1)
    assert_close(output.loss, theirs, 1e-6)


# ---------------------------------------------------------------------- learning

TARGETS: dict[str, dict[str, Tensor]] = {
    "rows": {"labels": torch.tensor([2, 0, 1, 2])},
    "tokens": {"labels": tokens(4, 8, seed=4) % 3},
    "masked_lm": {"labels": tokens(4, 8, seed=4)},
    "spans": {"start_positions": torch.tensor([3, 1, 6, 0]), "end_positions": torch.tensor([4, 7, 6, 2])},
}


@pytest.mark.parametrize(("head", "name"), [(head, "bi_hybrid") for head in TARGETS] + [("rows", "hybrid")])
def test_a_few_steps_learn_a_batch(head: str, name: str) -> None:
    """From the published start, not from the large weights of the other tests."""
    config = build(name, MixerModel).config
    config.num_labels = 3
    torch.manual_seed(0)
    model = HEADS[head](config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    inputs = {"input_ids": tokens(4, 8), **TARGETS[head]}
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("head", list(TARGETS))
def test_gradient_accumulation_is_exact(head: str, tmp_path: Path) -> None:
    """Trainer trusts a model that takes `num_items_in_batch` to divide by it, and must not where it does not."""
    data = [{"input_ids": tokens(4, 8)[i], **{key: value[i] for key, value in TARGETS[head].items()}} for i in range(4)]
    weights = []
    for accumulation in (1, 2):
        torch.manual_seed(0)
        model = HEADS[head](build("bi_hybrid", MixerModel, num_labels=3).config)
        arguments = TrainingArguments(
            str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        Trainer(model, arguments, train_dataset=data).train()
        weights.append([parameter.detach() for parameter in model.parameters()])
    torch.manual_seed(0)
    start = HEADS[head](build("bi_hybrid", MixerModel, num_labels=3).config)
    assert max((a - b).abs().max() for a, b in zip(weights[0], start.parameters(), strict=True)) > 1e-2
    for whole, parts in zip(*weights, strict=True):
        assert_close(parts, whole, 1e-5)


# ---------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("head", "inputs", "error", "message"),
    [
        ("rows", {"input_ids": None}, ValueError, "expected either input_ids or inputs_embeds, found both or neither"),
        ("rows", {"labels": torch.tensor([3, 0])}, ValueError, "expected 0 to num_labels - 1 = 2 .* found 3"),
        ("rows", {"labels": torch.tensor([-100, 0])}, ValueError, "labels: expected 0 to .* found -100"),
        ("rows", {"labels": torch.tensor([0])}, ValueError, r"expected shape \(2,\) for single_label.* found \(1,\)"),
        ("rows", {"labels": torch.ones(2)}, ValueError, r"expected shape \(2, 3\) for multi_label.* found \(2,\)"),
        ("rows", {"labels": [0, 1]}, TypeError, "labels: expected a tensor, found list"),
        ("rows", {"segment_ids": MASK}, ValueError, "segment_ids: expected one document a row, .* packed"),
        ("rows", {"position_ids": MASK}, ValueError, "position_ids: expected one document a row, .* not go up by one"),
        ("spans", {"segment_ids": MASK}, ValueError, "segment_ids: expected one document a row, since MixerForQuest"),
        ("spans", {"start_positions": torch.tensor([1, 1])}, ValueError, "together with end_positions, found one"),
        ("tokens", {"labels": torch.full((2, 6), 3)}, ValueError, "labels: expected -100 or 0 to num_labels - 1 = 2"),
        ("tokens", {"labels": torch.full((2, 6), -1)}, ValueError, "labels: expected -100 or 0 .* found -1"),
        ("tokens", {"labels": tokens(2, 5) % 3}, ValueError, r"labels: expected shape \(2, 6\), found \(2, 5\)"),
        ("tokens", {"labels": torch.ones(2, 6)}, TypeError, "labels: expected int64 tokens, found torch.float32"),
        ("masked_lm", {"labels": torch.full((2, 6), VOCABULARY)}, ValueError, "0 to vocab_size - 1 = 60, found 61"),
        ("masked_lm", {"input_ids": PADDED + VOCABULARY}, ValueError, "input_ids: expected 0 to vocab_size - 1"),
        ("masked_lm", {"input_ids": PADDED[0]}, ValueError, r"input_ids: expected shape \(B, L\), found \(6,\)"),
        ("masked_lm", {"label": PADDED}, TypeError, "label: not an argument of MixerForMaskedLM.* mean 'labels'"),
        ("masked_lm", {"use_cache": True}, TypeError, "use_cache: not an argument of MixerForMaskedLM.forward$"),
        ("rows", {"start_positions": torch.ones(2)}, TypeError, "start_positions: not an argument of MixerForSeq"),
        ("causal_lm", {"labels": torch.full((2, 6), -7)}, ValueError, "labels: expected -100 or 0 .* found -7"),
        ("causal_lm", {"layout": 1}, TypeError, "layout: not an argument of MixerForCausalLM.forward"),
    ],
)
def test_mistakes_in_a_call(head: str, inputs: dict[str, Any], error: Any, message: str) -> None:
    name = "hybrid" if head == "causal_lm" else "bi_hybrid"
    with pytest.raises(error, match=message):
        build(name, HEADS[head], num_labels=3)(**{"input_ids": PADDED, **inputs})


@pytest.mark.parametrize(
    ("starts", "error", "message"),
    [
        (torch.tensor([1, 1]), ValueError, "start_positions: expected a real token, found padding, column 1 of row 1"),
        (torch.tensor([1, -1]), ValueError, "start_positions: expected columns from 0, found -1"),
        (torch.tensor([1.0, 4.0]), TypeError, "start_positions: expected int64, found torch.float32"),
        (torch.tensor([1]), ValueError, r"start_positions: expected shape \(2,\), found \(1,\)"),
    ],
)
def test_answers_that_cannot_be(starts: Tensor, error: Any, message: str) -> None:
    model = build("bi_hybrid", MixerForQuestionAnswering)
    with pytest.raises(error, match=message):
        model(PADDED, attention_mask=MASK, start_positions=starts, end_positions=torch.tensor([5, 5]))


@pytest.mark.parametrize(
    ("options", "labels", "message"),
    [
        ({"problem_type": "regression"}, torch.tensor([1, 2]), "expected floats for regression of num_labels=3"),
        ({"problem_type": "multi_label_classification"}, torch.ones(2, 3).long(), "expected floats for multi_label"),
        ({"problem_type": "single_label_classification"}, FLOATS, "expected integers for single_label"),
        ({"num_labels": 1}, torch.tensor([1, 0]), "expected floats for regression of num_labels=1, found torch.int64"),
    ],
)
def test_labels_of_another_problem(options: dict[str, Any], labels: Tensor, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        rows(**options)(PADDED, labels=labels)


def test_mixers_that_do_not_fit_the_head() -> None:
    half = build("half_causal", MixerModel).config
    with pytest.raises(
        ValueError, match=r"a masked language model needs mixers that read both ways, found 'm': .*mamba2"
    ):
        MixerForMaskedLM(half)
    causal = MixerConfig(hidden_size=32, mixers={"a": {"mixer": "attention", "heads": 4}})
    with pytest.raises(ValueError, match=r"found 'a': .*, which reads only the past \(set \"causal\": False\)"):
        MixerForMaskedLM(causal)
    causal.pooling = "first"
    with pytest.raises(ValueError, match="pooling: expected 'last' or 'mean', since all mixers are causal"):
        MixerForSequenceClassification(causal)
    with pytest.raises(ValueError, match=r"pooling: expected one of \('last', 'mean', 'first'\) or None, found 'max'"):
        MixerConfig(pooling="max")
    with pytest.raises(ValueError, match="classifier_dropout: expected at least 0 and below 1"):
        MixerConfig(classifier_dropout=1.5)


def test_only_causal_stacks_have_a_cache() -> None:
    model, ids = build("half_causal", MixerModel), tokens(1, 4)
    assert model(ids).past_key_values is None
    with pytest.raises(ValueError, match=r"use_cache: expected none, found one for mixer 'a': .* reads the future"):
        model(ids, use_cache=True)
    causal = build("hybrid", MixerModel)
    cache = causal(ids).past_key_values
    with pytest.raises(ValueError, match="expected none, found one for mixer 'a'"):
        model(ids, past_key_values=cache)
    whole = causal(torch.cat([ids, ids], dim=1), use_cache=False).last_hidden_state
    assert_close(causal(ids, past_key_values=cache).last_hidden_state, whole[:, 4:])
    with pytest.raises(ValueError, match="layout: expected it without attention_mask"):
        causal(ids, layout=Layout(), attention_mask=ids > 0)
