"""The feature extractor and the tokenizer that are saved beside a speech model."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

from tokenmix.models.speech.config import SpeechConfig


def build_processor(config: SpeechConfig, tokenizer: PreTrainedTokenizerBase) -> Wav2Vec2Processor:
    """The processor of a speech model, of transformers' own class: audio becomes padded batches, text becomes labels.

    Its feature extractor refuses audio of another rate than the model's. Frames are the model's own work, so what it
    gives are samples. `save_pretrained` beside the model lets `AutoProcessor` and
    `pipeline("automatic-speech-recognition", folder)` find it.

    A tokenizer for CTC writes repeated symbols as one, which would rob the text of a decoder of its double letters
    ("hello"). A model with a decoder therefore gets one with the same numbers that writes every symbol.

    Args:
        config: whose sampling_rate and pad_token_id it takes.
        tokenizer: such as `tokenmix.data.speech.build_ctc_tokenizer` makes.

    Raises:
        ValueError: a tokenizer of another size or padding than the model's, or for a decoder one of CTC whose symbols
            are not characters.

    Example:
        >>> from tokenmix.data.speech import build_ctc_tokenizer
        >>> tokenizer = build_ctc_tokenizer(["a bad cab"])
        >>> config = SpeechConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, sampling_rate=8000)
        >>> batch = build_processor(config, tokenizer)([[0.0] * 80, [0.1] * 40], sampling_rate=8000, padding=True)
        >>> [int(sum(mask)) for mask in batch["attention_mask"]]
        [80, 40]
    """
    for name, wanted, found in (
        ("vocab_size", config.vocab_size, len(tokenizer)),
        ("pad_token_id", config.pad_token_id, tokenizer.pad_token_id),
    ):
        if wanted != found:
            raise ValueError(f"tokenizer: expected the config's {name}={wanted}, found {found}")
    if config.is_encoder_decoder and isinstance(tokenizer, Wav2Vec2CTCTokenizer):
        tokenizer = _ungrouped(tokenizer)
    extractor = Wav2Vec2FeatureExtractor(
        sampling_rate=config.sampling_rate, padding_value=0.0, do_normalize=False, return_attention_mask=True
    )
    return Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)


def _ungrouped(tokenizer: Wav2Vec2CTCTokenizer) -> PreTrainedTokenizerFast:
    """The same characters with the same numbers, repeated ones kept."""
    special = {name: getattr(tokenizer, name) for name in ("pad_token", "bos_token", "eos_token", "unk_token")}
    between, vocabulary = tokenizer.word_delimiter_token, tokenizer.get_vocab()
    longer = sorted(token for token in vocabulary if len(token) > 1 and token not in special.values())
    if longer or len(between) > 1:
        raise ValueError(f"tokenizer: expected one of characters for a decoder, found {longer or [between]}")
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    made.normalizer = normalizers.Replace(" ", between)
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made.decoder = decoders.Sequence([decoders.Replace(between, " "), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **special)
