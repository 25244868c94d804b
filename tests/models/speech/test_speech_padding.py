"""No row depends on its company: on the padding, what stands in it, or what follows its end. Tolerance 1e-5."""

from typing import Any

import pytest
import torch
from speech_cases import BRIDGES, CAUSAL, STACKS, VOCABULARY, ctc_model, noise, samba_model, speech_config
from speech_checks import LENGTHS, check_padding

from tokenmix.models.speech import MixerForCTC, SpeechModel
from tokenmix.models.speech.ctc import SURE

CLIPS = [noise(length, seed) for seed, length in enumerate(LENGTHS)]
TOKENS = [(length // 80 + 1) // 2 for length in LENGTHS]


def logits_of(model: Any) -> Any:
    return lambda samples, mask: model(samples, mask).logits


@pytest.mark.parametrize("normalise", ["global", "utterance", "running", "none"])
@pytest.mark.parametrize("mixer", sorted(STACKS))
def test_ctc(mixer: str, normalise: str) -> None:
    check_padding(logits_of(ctc_model(mixer, normalise=normalise, running_prior=2)), CLIPS, TOKENS)


@pytest.mark.parametrize("normalise", ["global", "running", "none"])
@pytest.mark.parametrize("mixer", sorted(CAUSAL))
def test_causal_ctc(mixer: str, normalise: str) -> None:
    model = ctc_model(mixer, normalise=normalise, causal=True, position="sinusoidal")
    check_padding(logits_of(model), CLIPS, TOKENS)


@pytest.mark.parametrize("options", [
    {"sampling_rate": 16000},
    {"conv_kernels": (3, 5, 3), "conv_strides": (2, 1, 2), "hop_ms": 5, "window_ms": 20},
])  # fmt: skip
def test_other_rates_and_strides(options: dict[str, Any]) -> None:
    model = ctc_model("mamba2", normalise="utterance", **options)
    hop = model.config.hop_samples
    clips = [*CLIPS, noise(hop, 8), noise(hop - 1, 9), noise(4 * hop, 10), noise(4 * hop + 1, 11)]
    tokens = model.encoder.token_lengths(torch.tensor([len(clip) for clip in clips])).tolist()
    ratio = model.config.inputs_to_logits_ratio
    assert tokens == [-(-(len(clip) // hop) * hop // ratio) for clip in clips]
    check_padding(logits_of(model), clips, tokens)


@pytest.mark.parametrize("cross", BRIDGES)
def test_decoder(cross: str) -> None:
    """Logits of the text too depend on nothing behind the row's audio; in float64 behind the front end."""
    model = samba_model(cross, normalise="utterance").double()
    text = torch.tensor([[1, 5, 3, 9]])

    def first_logits(samples: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        found: torch.Tensor = model(samples, mask, decoder_input_ids=text.expand(len(samples), -1)).logits
        return found

    check_padding(first_logits, CLIPS, [4] * len(CLIPS), 1e-6)


def test_a_clip_shorter_than_a_token_gives_one_of_padding() -> None:
    """No audio at all is a row of a batch like others: one token, certain to be the blank, and no NaN."""
    model = ctc_model()
    for length in (0, 1, 79):
        logits = model(noise(length)[None]).logits
        assert logits.shape == (1, 1, VOCABULARY)
        assert logits[0, 0, 0] == SURE
        assert model.encoder(noise(length)[None]).lengths.tolist() == [0]
    assert model.encoder(noise(80)[None]).lengths.tolist() == [1]


def test_the_blank_is_certain_behind_the_end() -> None:
    model = ctc_model(pad_token_id=4)
    mask = torch.ones(2, 2000, dtype=torch.long)
    mask[1, 900:] = 0
    logits = model(torch.stack([noise(2000, 1), noise(2000, 2)]), mask).logits
    assert (logits[1, 6:].softmax(-1)[:, 4] == 1).all()
    assert (logits[1, 6:].argmax(-1) == 4).all()
    assert (logits[0].abs() < SURE).all()
    assert (logits[1, :6].abs() < SURE).all()
    assert logits.half().isfinite().all()


def test_features_are_zero_behind_the_end() -> None:
    torch.manual_seed(0)
    model = SpeechModel(speech_config("attention")).eval()
    mask = torch.ones(2, 2000, dtype=torch.long)
    mask[1, 900:] = 0
    output = model(torch.stack([noise(2000, 1), noise(2000, 2)]), mask, output_hidden_states=True)
    assert output.lengths.tolist() == [13, 6]
    assert not output.last_hidden_state[1, 6:].any()
    assert output.last_hidden_state[1, :6].abs().sum(-1).min() > 0
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1


@pytest.mark.parametrize(("samples", "mask", "error", "message"), [
    (torch.zeros(1, 1, 800), None, ValueError, r"input_values: expected shape \(B, N\), .* found \(1, 1, 800\)"),
    (torch.zeros(1, 800).long(), None, TypeError, "input_values: expected floating point samples .* found torch.int64"),
    ([0.0] * 800, None, TypeError, "input_values: expected floating point samples .* found list"),
    (torch.full((1, 800), torch.nan), None, ValueError, "input_values: expected finite samples, found NaN .* in row 0"),
    (torch.zeros(1, 800), torch.ones(1, 799), ValueError, r"attention_mask: expected the shape .* \(1, 800\)"),
    (torch.zeros(1, 4), torch.tensor([[0, 1, 1, 1]]), ValueError, "attention_mask: expected padding behind the end"),
    (torch.zeros(1, 4), torch.tensor([[1, 0, 1, 0]]), ValueError, "attention_mask: expected padding behind the end"),
])  # fmt: skip
def test_what_is_no_audio_is_refused(samples: Any, mask: Any, error: type[Exception], message: str) -> None:
    model: MixerForCTC = ctc_model()
    with pytest.raises(error, match=message):
        model(samples, mask)


def test_infinity_in_the_padding_is_no_matter() -> None:
    model, samples = ctc_model(), noise(900)[None].clone()
    mask = torch.ones(1, 900, dtype=torch.long)
    mask[0, 800:] = 0
    expected = model(samples, mask).logits
    samples[0, 850] = torch.inf
    assert torch.equal(model(samples, mask).logits, expected)


def test_misspelt_arguments_are_refused() -> None:
    model = samba_model()
    with pytest.raises(TypeError, match=r"atention_mask: not an argument .* did you mean 'attention_mask'"):
        model.encoder(noise(800)[None], atention_mask=torch.ones(1, 800))
    with pytest.raises(TypeError, match=r"label: not an argument .* did you mean 'labels'"):
        model(noise(800)[None], label=torch.tensor([[3]]))
