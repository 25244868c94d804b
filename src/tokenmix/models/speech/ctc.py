"""Speech recognition by connectionist temporal classification."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils.generic import can_return_tuple

from tokenmix.models.labels import IGNORED
from tokenmix.models.speech.config import SpeechConfig
from tokenmix.models.speech.inputs import check_speech_labels
from tokenmix.models.speech.model import SpeechModel, SpeechPreTrainedModel

SURE = 1e4  # a logit that leaves no other choice, and is finite in 16 bits


class MixerForCTC(SpeechPreTrainedModel):
    """Characters of audio: a `SpeechModel`, a linear layer, and CTC's sum over all alignments.

    Trains with `Trainer`, is saved and loaded as any transformers model, and runs in
    `pipeline("automatic-speech-recognition")` beside a processor (`tokenmix.models.speech.build_processor`). Behind an
    utterance's end the blank is certain, so a batch decodes as its rows alone.

    Args:
        config: sizes, mixers and pattern; `pad_token_id` is the blank.

    Example:
        >>> mixers = {"b": {"mixer": "bidirectional", "inner": {"mixer": "mamba", "state_size": 4}}}
        >>> model = MixerForCTC(SpeechConfig(vocab_size=28, hidden_size=32, mixers=mixers, pattern="bb"))
        >>> output = model(torch.randn(2, 16000), labels=torch.tensor([[3, 4], [5, -100]]))
        >>> output.logits.shape, output.loss.shape
        (torch.Size([2, 50, 28]), torch.Size([]))

    Source:
        Graves et al. 2006, "Connectionist Temporal Classification".
    """

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__(config)
        self.encoder = SpeechModel(config)
        self.ctc_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> CausalLMOutput:
        """Logits of each token of the audio.

        Args:
            input_values, attention_mask, output_hidden_states: as in `SpeechModel`.
            labels: (B, S) characters, -100 behind each row's end. The loss is the mean over rows of the negative
                log-likelihood a character; a row with more characters than its tokens can hold counts as 0.

        Raises:
            ValueError, TypeError: as `SpeechModel`, or labels that do not fit.
        """
        if labels is not None:
            check_speech_labels(labels, input_values.shape[0], self.config.vocab_size, self.config.pad_token_id)
        encoded = self.encoder(
            input_values, attention_mask, output_hidden_states=output_hidden_states, return_dict=True
        )
        logits = ctc_logits(self.ctc_head, encoded.last_hidden_state, encoded.lengths, self.config.pad_token_id)
        loss = None
        if labels is not None:
            loss = ctc_loss(logits, encoded.lengths, labels, self.config.pad_token_id)
        return CausalLMOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)


def ctc_logits(head: nn.Linear, features: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """(B, T, hidden_size) features to (B, T, vocab_size) logits; behind a row's end the blank is certain."""
    logits: Tensor = head(features)
    behind = torch.arange(logits.shape[1], device=logits.device) >= lengths[:, None]
    certain = torch.full_like(logits[0, 0], -SURE)
    certain[blank] = SURE
    return torch.where(behind[..., None], certain, logits)


def ctc_loss(logits: Tensor, lengths: Tensor, labels: Tensor, blank: int) -> Tensor:
    """Mean over rows of the negative log-likelihood of the labels, a label.

    Args:
        logits: (B, T, vocab_size).
        lengths: (B,) tokens of each row.
        labels: (B, S), -100 behind each row's end.
        blank: the symbol of no label.

    Returns:
        A scalar in float32; 0 for rows that no alignment fits (fewer tokens than labels and repeated labels).

    Example:
        >>> logits = torch.zeros(1, 2, 3)  # two tokens, blank, a and b: of nine paths, three spell "a"
        >>> round(ctc_loss(logits, torch.tensor([2]), torch.tensor([[1]]), 0).exp().item(), 4)
        3.0
    """
    real = labels != IGNORED
    return F.ctc_loss(
        logits.float().log_softmax(-1).transpose(0, 1),
        labels.masked_fill(~real, blank).long(),
        lengths,
        real.sum(1),
        blank=blank,
        reduction="mean",
        zero_infinity=True,
    )
