"""The joint loss by hand, and what the decoder is taught."""

from typing import Any

import pytest
import torch
from speech_cases import BRIDGES, batch_of, noise, samba_model
from torch import Tensor

from tokenmix.models.cache import CACHE_ARGUMENT
from tokenmix.models.speech.ctc import ctc_loss

CLIPS = [noise(2000, 1), noise(1210, 2), noise(30, 3)]
LABELS = torch.tensor([[5, 3, 3, 9], [4, 8, -100, -100], [7, -100, -100, -100]])  # the last row has no audio


def naive_cross_entropy(logits: Tensor, texts: list[list[int]], smoothing: float) -> float:
    """Mean over all targets: (1 - s) of the target's and s of the mean over the vocabulary of -log p, in float64."""
    costs = []
    for row, text in zip(logits, texts, strict=True):
        for place, token in enumerate(text):
            costs_of = -row[place].double().log_softmax(-1)
            costs.append(float((1 - smoothing) * costs_of[token] + smoothing * costs_of.mean()))
    return sum(costs) / len(costs)


def naive_joint(model: Any, audio: dict[str, Tensor], labels: Tensor) -> float:
    """The loss with the decoder run a row at a time, and the CTC head on the encoder's own features."""
    config = model.config
    texts = [[token for token in row if token not in (-100, config.eos_token_id)] for row in labels.tolist()]
    logits = []
    for row, text in enumerate(texts):
        one = {name: value[row : row + 1] for name, value in audio.items()}
        inputs = torch.tensor([[config.decoder_start_token_id, *text]])
        logits.append(model(**one, decoder_input_ids=inputs, use_cache=False).logits[0])
    cross_entropy = naive_cross_entropy(
        logits, [[*text, config.eos_token_id] for text in texts], config.label_smoothing
    )
    if not config.ctc_weight:
        return cross_entropy
    lengths = audio["attention_mask"].sum(1) // 160 + (audio["attention_mask"].sum(1) % 160 >= 80)
    losses = []
    for row, text in enumerate(texts):
        alone = model.ctc_head(model.encoder(**{n: v[row : row + 1] for n, v in audio.items()}).last_hidden_state)
        losses.append(ctc_loss(alone, lengths[row : row + 1], torch.tensor([text], dtype=torch.long), 0).item())
    return (1 - config.ctc_weight) * cross_entropy + config.ctc_weight * sum(losses) / len(losses)


@torch.no_grad()
@pytest.mark.parametrize("cross", BRIDGES)
@pytest.mark.parametrize(("smoothing", "weight"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.4), (0.2, 0.3)])
def test_joint_loss_by_hand(cross: str, smoothing: float, weight: float) -> None:
    model = samba_model(cross, label_smoothing=smoothing, ctc_weight=weight).double()
    assert (model.ctc_head is None) == (weight == 0)
    audio = batch_of(CLIPS, 500, 2.0)
    assert model(**audio, labels=LABELS).loss.item() == pytest.approx(naive_joint(model, audio, LABELS), rel=1e-5)


@torch.no_grad()
def test_the_end_in_the_labels_is_no_second_end_and_nothing_to_hear() -> None:
    """Labels with the end token, as most tokenizers write it, and labels without give the same loss."""
    model, audio = samba_model(), batch_of(CLIPS)
    ended = torch.tensor([[5, 3, 3, 9, 2], [4, 8, 2, -100, -100], [7, 2, -100, -100, -100]])
    assert model(**audio, labels=ended).loss.item() == pytest.approx(
        model(**audio, labels=LABELS).loss.item(), rel=1e-6
    )
    wider = torch.nn.functional.pad(LABELS, (0, 3), value=-100)
    assert model(**audio, labels=wider).loss.item() == pytest.approx(
        model(**audio, labels=LABELS).loss.item(), rel=1e-6
    )


def test_teach() -> None:
    model = samba_model(bos_token_id=6, eos_token_id=9, pad_token_id=3)
    inputs, targets = model.teach(torch.tensor([[4, 5], [8, -100], [-100, -100], [7, 9]]))
    assert inputs.tolist() == [[6, 4, 5], [6, 8, 3], [6, 3, 3], [6, 7, 3]]
    assert targets.tolist() == [[4, 5, 9], [8, 9, -100], [9, -100, -100], [7, 9, -100]]


def test_the_end_before_the_end_is_refused() -> None:
    """What would follow it could not be taught."""
    model = samba_model()
    for labels in ([[5, 2, 7]], [[2, 7, 7]]):
        with pytest.raises(ValueError, match="labels: expected the end token 2 behind the labels of each row"):
            model(CLIPS[0][None], labels=torch.tensor(labels))


@torch.no_grad()
def test_text_given_beside_labels_is_what_is_read() -> None:
    model, audio = samba_model().double(), batch_of(CLIPS)
    inputs, targets = model.teach(LABELS)
    assert torch.equal(model(**audio, labels=LABELS, decoder_input_ids=inputs).loss, model(**audio, labels=LABELS).loss)
    other = inputs.clone()
    other[:, 1] = 10
    output = model(**audio, labels=LABELS, decoder_input_ids=other)
    assert output.loss != model(**audio, labels=LABELS).loss
    assert output.logits.shape == (*targets.shape, model.config.vocab_size)


@torch.no_grad()
def test_training_keeps_no_cache_and_asking_for_one_gives_it() -> None:
    model, audio, text = samba_model(), batch_of(CLIPS), {"decoder_input_ids": torch.tensor([[1]] * 3)}
    for options, kept in (({"labels": LABELS}, False), (text, True), ({**text, "use_cache": False}, False)):
        assert (getattr(model(**audio, **options), CACHE_ARGUMENT) is not None) == kept
    assert getattr(model.train()(**audio, **text), CACHE_ARGUMENT) is None


@torch.no_grad()
def test_ctc_head_of_a_decoder_model() -> None:
    """`ctc` gives what a `MixerForCTC` of the same weights gives."""
    from tokenmix.models.speech import MixerForCTC

    model = samba_model()
    other = MixerForCTC(model.config).eval()
    other.load_state_dict({**model.state_dict()}, strict=False)
    audio = batch_of(CLIPS)
    assert torch.equal(model.ctc(**audio), other(**audio).logits)
