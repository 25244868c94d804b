"""The heads: their logits are those of the features below, and padding, packing and precision change nothing."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers.modeling_utils
from tiny_models import BOTH_WAYS, HEADS, MIXED, STACKS, VOCABULARY, assert_close, build, left_padded, tokens
from torch import Tensor

from tokenmix import Layout
from tokenmix.models import MixerModel
from tokenmix.models.pooling import pool

ALL = [*STACKS, *BOTH_WAYS, *MIXED]
CASES = [
    *(("rows", name) for name in ALL),
    *(("tokens", name) for name in ALL),
    *(("spans", name) for name in ALL),
    *(("masked_lm", name) for name in BOTH_WAYS),
]
SHORT = [
    ("rows", "hybrid"),
    ("rows", "bi_hybrid"),
    ("tokens", "half_causal"),
    ("spans", "bi_ls"),
    ("masked_lm", "bi_ls"),
]


def make(head: str, name: str, **options: Any) -> Any:
    return build(name, HEADS[head], **{"num_labels": 3, **options})


def logits_of(model: Any, *args: Any, **inputs: Any) -> Tensor:
    """(B, 3) logits of rows, or (B, L, n) logits of tokens."""
    with torch.no_grad():
        output = model(*args, **inputs)
    return output.logits if "logits" in output else torch.stack([output.start_logits, output.end_logits], dim=-1)


# ---------------------------------------------------------------------- what the logits are


@pytest.mark.parametrize(("head", "name"), CASES)
def test_logits_are_a_linear_layer_on_the_features(head: str, name: str) -> None:
    model, ids = make(head, name), tokens(2, 6)
    x = model.model(ids, use_cache=False).last_hidden_state
    if head == "rows":
        x = x[:, -1] if name in STACKS else x.mean(1)
    linear = {"rows": "classifier", "tokens": "classifier", "spans": "qa_outputs", "masked_lm": "lm_head"}[head]
    linear = model.get_submodule(linear)
    assert linear.out_features == {"spans": 2, "masked_lm": VOCABULARY}.get(head, 3)
    assert_close(logits_of(model, ids), F.linear(x, linear.weight, linear.bias), 1e-5)


@pytest.mark.parametrize("name", list(BOTH_WAYS))
def test_both_ways_reads_the_future(name: str) -> None:
    """The last token reaches the first logits: the stack is not causal by accident."""
    model, ids = make("masked_lm", name), tokens(1, 5)
    changed = torch.cat([ids[:, :-1], ids[:, -1:] % (VOCABULARY - 1) + 1], dim=1)
    assert (logits_of(model, ids) - logits_of(model, changed))[:, 2].abs().max() > 1e-2


def test_features_of_each_layer() -> None:
    model, ids = make("tokens", "bi_hybrid"), tokens(2, 5)
    states = model(ids, output_hidden_states=True).hidden_states
    assert [tuple(state.shape) for state in states] == [(2, 5, 32)] * 3
    assert torch.equal(states[0], model.model.embed_tokens(ids))
    assert torch.equal(model.classifier(states[-1]), model(ids).logits)
    assert model(ids).hidden_states is None
    model.config.output_hidden_states = True
    assert len(model(ids).hidden_states) == 3


@pytest.mark.parametrize(("head", "name"), SHORT)
def test_features_instead_of_tokens(head: str, name: str) -> None:
    model, (padded, mask, _) = make(head, name), left_padded([6, 2])
    found = logits_of(model, inputs_embeds=model.model.embed_tokens(padded), attention_mask=mask)
    assert torch.equal(found, logits_of(model, padded, attention_mask=mask))
    assert torch.equal(model(padded, attention_mask=mask, return_dict=False)[0], model(padded, attention_mask=mask)[0])


# ---------------------------------------------------------------------- padding and packing


@pytest.mark.parametrize("position", ["none", "learned"])
@pytest.mark.parametrize(("head", "name"), CASES)
def test_padding_changes_nothing(head: str, name: str, position: str) -> None:
    """Left, right, and none; junk tokens and junk document numbers under it."""
    model = make(head, name, position=position, max_position_embeddings=9 if position == "learned" else None)
    padded, mask, rows = left_padded([9, 4, 1])
    left = logits_of(model, padded, attention_mask=mask)
    for i, row in enumerate(rows):
        alone, size = logits_of(model, row)[0], row.shape[1]
        right = torch.cat([row, tokens(1, 9 - size, seed=7)], dim=1)
        right_found = logits_of(model, right, attention_mask=mask.flip(1)[i : i + 1].bool())[0]
        if head == "rows":
            assert_close(left[i], alone)
            assert_close(right_found, alone)
        else:
            assert_close(left[i, -size:], alone)
            assert_close(right_found[:size], alone)


def test_padding_counts_without_a_mask() -> None:
    """The test above can fail."""
    model, (padded, mask, _) = make("rows", "bi_hybrid"), left_padded([9, 4])
    assert (logits_of(model, padded, attention_mask=mask) - logits_of(model, padded))[1].abs().max() > 0.05


@pytest.mark.parametrize("name", ["hybrid", "bi_attention", "bi_ls"])
def test_padding_is_never_an_answer(name: str) -> None:
    model, (padded, mask, _) = make("spans", name), left_padded([6, 2])
    output = model(padded, attention_mask=mask)
    for logits in (output.start_logits, output.end_logits):
        assert (logits[mask == 0] == torch.finfo(torch.float32).min).all()
        assert (logits.softmax(-1)[mask == 0] == 0).all()
        assert logits[mask == 1].abs().max() < 100


@pytest.mark.parametrize("position", ["none", "learned"])
@pytest.mark.parametrize(("head", "name"), [case for case in CASES if case[0] in ("tokens", "masked_lm")])
def test_packed_equals_apart(head: str, name: str, position: str) -> None:
    model = make(head, name, position=position, max_position_embeddings=5 if position == "learned" else None)
    documents = [tokens(1, size, seed) for seed, size in enumerate([5, 1, 4])]
    packed = torch.cat(documents, dim=1).expand(2, -1)
    segment_ids = torch.tensor([[0] * 5 + [1] + [2] * 4]).expand(2, -1)
    position_ids = torch.tensor([[0, 1, 2, 3, 4, 0, 0, 1, 2, 3]])
    apart = torch.cat([logits_of(model, document) for document in documents], dim=1)
    for found in (
        logits_of(model, packed, segment_ids=segment_ids),
        logits_of(model, packed, position_ids=position_ids),
    ):
        assert_close(found, apart.expand(2, -1, -1))
    if position == "none":  # it can fail: without segments the documents mix
        assert (logits_of(model, packed) - apart)[:, 5:].abs().max() > 1e-2


# ---------------------------------------------------------------------- pooling


@pytest.mark.parametrize("pooling", ["last", "mean", "first"])
def test_pooling(pooling: str) -> None:
    """Against a loop; padding in the middle too, and a row without tokens."""
    x = torch.randn(5, 6, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor(
        [[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 0], [0] * 6]
    ).bool()
    found = pool(x, mask, pooling)
    for row, kept, vector in zip(x, mask, found, strict=True):
        real = row[kept]
        expected = {"last": real[-1:], "mean": real.mean(0, keepdim=True), "first": real[:1]}[pooling]
        assert_close(vector, expected[0] if len(real) else torch.zeros(3), 1e-6)
    assert_close(pool(x, None, pooling), pool(x, torch.ones(5, 6, dtype=torch.bool), pooling), 1e-6)


@pytest.mark.parametrize(("name", "pooling"), [("hybrid", "mean"), ("bi_ls", "last"), ("bi_ls", "first")])
def test_pooling_is_chosen_by_the_config(name: str, pooling: str) -> None:
    model, ids = make("rows", name, pooling=pooling), tokens(2, 6)
    x = pool(model.model(ids).last_hidden_state, None, pooling)
    assert_close(logits_of(model, ids), model.classifier(x), 1e-5)
    assert (logits_of(model, ids) - logits_of(make("rows", name), ids)).abs().max() > 1e-2


def test_pooling_follows_causality() -> None:
    poolings = {name: make("rows", name).pooling for name in ("hybrid", "bi_hybrid", "half_causal")}
    assert poolings == {"hybrid": "last", "bi_hybrid": "mean", "half_causal": "mean"}


# ---------------------------------------------------------------------- the model below


def test_layout_says_it_all() -> None:
    model, (padded, mask, _) = build("bi_hybrid", MixerModel), left_padded([6, 2])
    found = model(padded, layout=Layout(mask=mask.bool())).last_hidden_state
    expected = model(padded, attention_mask=mask).last_hidden_state
    assert torch.equal(found[mask == 1], expected[mask == 1])
    assert not torch.equal(found, model(padded).last_hidden_state)


@pytest.mark.parametrize(("head", "name"), SHORT)
def test_bfloat16(head: str, name: str) -> None:
    model, narrow, (padded, mask, _) = make(head, name), make(head, name).bfloat16(), left_padded([8, 5] * 16)
    found, expected = (logits_of(m, padded, attention_mask=mask) for m in (narrow, model))
    assert found.dtype == torch.bfloat16
    real = slice(None) if head == "rows" else mask == 1
    assert (found[real] - expected[real]).abs().mean() < 0.1 * expected[real].std()


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")  # the name that users know is deprecated
@pytest.mark.parametrize(("head", "name"), SHORT)
def test_gradient_checkpointing_changes_no_gradient(head: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = transformers.modeling_utils.checkpoint
    monkeypatch.setattr(transformers.modeling_utils, "checkpoint", lambda *a, **k: calls.append(1) or original(*a, **k))
    model, ids = make(head, name, dropout=0.2, classifier_dropout=0.3).train(), tokens(2, 7)
    gradients = []
    for switch in (None, model.gradient_checkpointing_enable):
        if switch is not None:
            switch()
        model.zero_grad()
        torch.manual_seed(5)
        sum(value.square().mean() for value in model(ids).values()).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert len(calls) == len(model.stack.layers)
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))
    assert all(bool(gradient.any()) for gradient in gradients[0])


@pytest.mark.parametrize("head", ["rows", "tokens"])
def test_dropout_before_the_classifier(head: str) -> None:
    model, ids = make(head, "bi_ls", classifier_dropout=0.5).train(), tokens(2, 5)
    assert not torch.equal(model(ids).logits, model(ids).logits)
    assert torch.equal(model.eval()(ids).logits, model(ids).logits)
