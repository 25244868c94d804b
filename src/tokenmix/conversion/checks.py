"""What is checked before any work begins, and what tells one conversion from another."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenmix.conversion.config import ConversionConfig
from tokenmix.data import Corpus, TokenBlocks, encode, is_byte_tokenizer, token_bytes

_SAMPLE = 1 << 16  # numbers of a weight that go into the fingerprint


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Held-out text, cut for scoring.

    Args:
        blocks: of it.
        bytes: that the scored tokens stand for; for tokenizers that are not byte-level in proportion to the tokens.
    """

    blocks: TokenBlocks
    bytes: float


def check_model(model: object, config: ConversionConfig) -> None:
    """Refuse a model that cannot be converted, before its text is read.

    Raises:
        TypeError: no transformers model.
        ValueError: no decoder, weights that are not float32, places that the model does not have, settings out of
            their range, or several processes.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model: expected a transformers PreTrainedModel, found {type(model).__name__}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(f"WORLD_SIZE: a conversion runs in one process, found {os.environ['WORLD_SIZE']}")
    text: Any = model.config.get_text_config()
    if model.config.is_encoder_decoder or model.get_output_embeddings() is None:
        raise ValueError(
            f"model: expected a decoder with a language-model head, such as LlamaForCausalLM, found "
            f"{type(model).__name__}"
        )
    if model.dtype != torch.float32:
        raise ValueError(
            f"model: expected float32 weights, because small updates vanish in others, found {model.dtype}; load with "
            "dtype=torch.float32, and use bf16 in the stages for speed"
        )
    places = getattr(text, "max_position_embeddings", None)
    lengths = {f"{name}.context": stage.context for name, stage in config.stages.items()}
    lengths |= {"eval_context": config.eval_context, "state_context": config.state_context + config.decode_tokens}
    for name, length in lengths.items():
        if places is not None and length > places:
            extra = " (with decode_tokens)" if name == "state_context" else ""
            raise ValueError(f"{name}: expected at most the model's {places} places, found {length}{extra}")
    for name in ("eval_batch_size", "state_context", "decode_tokens", "decode_repeats"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: expected at least 1, found {getattr(config, name)}")
    if not config.temperature > 0:
        raise ValueError(f"temperature: expected a positive number, found {config.temperature}")
    for name in ("hidden", "logits", "finetune"):
        stage = getattr(config, name)
        if stage.steps < 0:
            raise ValueError(f"{name}.steps: expected 0 or more, found {stage.steps}")
        if stage.train not in ("mixers", "all"):
            raise ValueError(f"{name}.train: expected 'mixers' or 'all', found {stage.train!r}")
    if config.hidden.train == "all":
        raise ValueError("hidden.train: expected 'mixers', found 'all'; stage 1 runs nothing else of the model")
    for name, stage in config.stages.items():
        try:
            stage.arguments(config.output)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def check_tokenizer(model: PreTrainedModel, tokenizer: object) -> None:
    """Refuse a tokenizer that does not fit the model.

    Raises:
        TypeError: no tokenizer. ValueError: tokens that the model does not have.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(f"tokenizer: expected a transformers tokenizer, found {type(tokenizer).__name__}")
    known, found = model.config.get_text_config().vocab_size, len(tokenizer)
    if found > known:
        why = "take the model's own tokenizer"
        if is_byte_tokenizer(tokenizer):
            why = f"bytes need a vocab_size of at least {found}, for 256 bytes and {found - 256} special tokens"
        raise ValueError(
            f"tokenizer: expected at most the {known:,} tokens that the model knows, found {found:,}; {why}"
        )


def check_text(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, config: ConversionConfig) -> tuple[Tensor, HeldOut]:
    """The tokens of a corpus, if they are enough for every stage.

    Returns:
        (N,) the training text, and the test text cut for scoring.

    Raises:
        ValueError: text that is shorter than a row.
    """
    train = encode(tokenizer, corpus.train)
    for name, stage in config.stages.items():
        _blocks(f"{corpus.name}, train split: {name}", train, context=stage.context)
    data = head(corpus.test, config.eval_bytes)
    tokens = encode(tokenizer, data)
    lengths = None
    if not is_byte_tokenizer(tokenizer):
        try:
            lengths = token_bytes(tokenizer)
        except ValueError:  # SentencePiece: a token is no fixed number of bytes
            share = len(data) / max(1, len(tokens))
            blocks = _blocks(f"{corpus.name}, test split", tokens, config.eval_context, overlap=config.eval_overlap)
            return train, HeldOut(blocks, blocks.scored_tokens * share)
    blocks = _blocks(
        f"{corpus.name}, test split", tokens, config.eval_context, overlap=config.eval_overlap, byte_lengths=lengths
    )
    return train, HeldOut(blocks, blocks.scored_bytes)


def head(data: bytes, size: int | None) -> bytes:
    r"""The first bytes of a text, without half a character at their end.

    Example:
        >>> head("h\u00e9".encode(), 2), head(b"abc", None)
        (b'h', b'abc')
    """
    if size is None or size >= len(data):
        return data
    while size > 0 and data[size] & 0xC0 == 0x80:  # the cut would be inside a character
        size -= 1
    return data[:size]


def identity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    layers: Mapping[str, Any] | None,
    config: ConversionConfig,
) -> str:
    """What makes a run this one, as JSON: weights, vocabulary, text, layers and settings, but not its folder."""
    settings = dataclasses.asdict(config)
    del settings["output"]
    what = {
        "model": type(model).__name__,
        "weights": fingerprint(model),
        "tokens": len(tokenizer),
        "text": hashlib.sha1(corpus.train + b"\0" + corpus.test).hexdigest(),
        "layers": None if layers is None else {str(key): value for key, value in layers.items()},
        **settings,
    }
    return json.dumps(what, indent=1)


def fingerprint(model: PreTrainedModel) -> str:
    """A hash of the names, the shapes and a sample of the numbers of all weights."""
    found = hashlib.sha1()
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLE)].contiguous().cpu()
        found.update(f"{name} {tuple(tensor.shape)} ".encode() + sample.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _blocks(where: str, tokens: Tensor, context: int, **options: Any) -> TokenBlocks:
    try:
        return TokenBlocks(tokens, context, **options)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
