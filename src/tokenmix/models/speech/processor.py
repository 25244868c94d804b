"""The feature extractor and the tokenizer that are saved beside a speech model."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

from tokenmix.models.speech.config import SpeechConfig


def build_processor(config: SpeechConfig, tokenizer: PreTrainedTokenizerBase) -> Wav2Vec2Processor:
    """The processor of a speech model, of transformers' own class: audio becomes padded batches, text becomes labels.

    Its feature extractor refuses audio of another rate than the model's. Frames are the model's own work, so what it
    gives are samples. `save_pretrained` beside the model lets `AutoProcessor` and
    `pipeline("automatic-speech-recognition", folder)` find it.

    Args:
        config: whose sampling_rate and pad_token_id it takes.
        tokenizer: such as `tokenmix.data.speech.build_ctc_tokenizer` makes.

    Raises:
        ValueError: a tokenizer of another size or padding than the model's.

    Example:
        >>> from tokenmix.data.speech import build_ctc_tokenizer
        >>> tokenizer = build_ctc_tokenizer(["a bad cab"])
        >>> config = SpeechConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, sampling_rate=8000)
        >>> batch = build_processor(config, tokenizer)([[0.0] * 80, [0.1] * 40], sampling_rate=8000)
        >>> batch["attention_mask"].sum(1).tolist()
        [80, 40]
    """
    for name, wanted, found in (
        ("vocab_size", config.vocab_size, len(tokenizer)),
        ("pad_token_id", config.pad_token_id, tokenizer.pad_token_id),
    ):
        if wanted != found:
            raise ValueError(f"tokenizer: expected the config's {name}={wanted}, found {found}")
    extractor = Wav2Vec2FeatureExtractor(
        sampling_rate=config.sampling_rate, padding_value=0.0, do_normalize=False, return_attention_mask=True
    )
    return Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)
