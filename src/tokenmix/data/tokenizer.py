"""Tokenizers that need no download: bytes, and a BPE trained on the spot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL_TOKENS = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"}

_CHUNK = 1 << 16  # bytes of text that the BPE encodes at once
_BATCH = 64  # chunks a call


def _byte_symbols() -> list[str]:
    """GPT-2's printable symbol of each of the 256 bytes: the byte itself where it prints, else from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


BYTE_SYMBOLS = tuple(_byte_symbols())


def byte_tokenizer() -> PreTrainedTokenizerFast:
    r"""A tokenizer whose ids are bytes: 0-255 the byte of that value, 256 bos, 257 eos, 258 pad.

    It is a byte-level BPE without merges, so a saved one loads through `AutoTokenizer` with no code
    of ours. Text comes back exactly. As in every Hugging Face tokenizer the text "<|eos|>" is read as
    the special token unless `split_special_tokens=True`; `encode` never reads it so.

    Returns:
        The tokenizer.

    Example:
        >>> tokenizer = byte_tokenizer()
        >>> tokenizer("h\u00e9")["input_ids"], tokenizer.decode([104, 195, 169]), len(tokenizer)
        ([104, 195, 169], 'hé', 259)
    """
    from tokenizers import Tokenizer, models

    return _wrap(Tokenizer(models.BPE(vocab=_alphabet(), merges=[])), split_words=False)


def train_bpe(text: bytes | str, vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE (GPT-2's kind) trained on a text, which must be the TRAIN split and nothing else.

    The authors of GAM trained theirs on train, valid and test text together, which leaks the test
    set's words into the vocabulary: perplexities with such a tokenizer do not compare with these.

    Args:
        text: the train split, UTF-8.
        vocab_size: the number of tokens, special ones included, at least 259: ids 0-255 are the bytes
            and 256-258 bos, eos, pad, as in `byte_tokenizer`; merges follow. A text too small for so
            many merges gives fewer tokens.

    Returns:
        The tokenizer; text comes back from it exactly.

    Raises:
        ValueError: for a vocabulary below 259, or text that is empty or not UTF-8.

    Example:
        >>> tokenizer = train_bpe("the cat and the hat and the bat " * 9, vocab_size=270)
        >>> tokenizer.tokenize("the cat")
        ['the', 'Ġ', 'cat']
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size: expected at least {smallest} (256 bytes, 3 special tokens), found {vocab_size}")
    data = text.encode() if isinstance(text, str) else text
    if not data:
        raise ValueError("text: expected the train split, found no text")
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    learner.train_from_iterator(
        _chunks(data),
        trainers.BpeTrainer(
            vocab_size=vocab_size - len(SPECIAL_TOKENS),
            initial_alphabet=list(BYTE_SYMBOLS),
            special_tokens=[],
            show_progress=False,
        ),
    )
    return _wrap(Tokenizer(_byte_ordered(learner)), split_words=True)


def encode(tokenizer: PreTrainedTokenizerBase, data: bytes) -> Tensor:
    """The token ids of a text of any size; special tokens are neither added nor read.

    Args:
        tokenizer: from `byte_tokenizer` (which takes any bytes, at the speed of a copy), `train_bpe`,
            or any other (UTF-8 only, in pieces of about 64 kB that end with a line).
        data: the text.

    Returns:
        (N,) ids: uint8 for bytes, int32 for other tokenizers.

    Raises:
        ValueError: for bytes that are not UTF-8, with a tokenizer other than bytes.

    Example:
        >>> encode(byte_tokenizer(), b"abc")
        tensor([97, 98, 99], dtype=torch.uint8)
    """
    if is_byte_tokenizer(tokenizer):
        return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
    pieces: list[Any] = [np.zeros(0, dtype=np.int32)]
    chunks = list(_chunks(data))
    for start in range(0, len(chunks), _BATCH):
        rows = tokenizer(chunks[start : start + _BATCH], add_special_tokens=False, split_special_tokens=True)
        pieces += [np.asarray(row, dtype=np.int32) for row in rows["input_ids"]]
    return torch.from_numpy(np.concatenate(pieces))


def is_byte_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer is `byte_tokenizer`'s, saved and loaded or not: ids 0-255 are the bytes and nothing merges.

    Args:
        tokenizer: any.

    Returns:
        Whether `encode` may copy bytes.

    Example:
        >>> is_byte_tokenizer(byte_tokenizer())
        True
    """
    size = 256 + len(SPECIAL_TOKENS)
    return len(tokenizer) == size and tokenizer.convert_ids_to_tokens(list(range(size))) == list(
        _alphabet(special=True)
    )


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """How many bytes of text each token of a byte-level tokenizer stands for; 0 for special tokens.

    It turns nats a token into bits a byte exactly: the bytes of tokens `ids` are `token_bytes(tokenizer)[ids]`.

    Args:
        tokenizer: `byte_tokenizer`, `train_bpe`, or another byte-level BPE (GPT-2, Llama 3).

    Returns:
        (vocabulary,) int64.

    Raises:
        ValueError: if the tokenizer is not byte-level, so that a token has no such count.

    Example:
        >>> token_bytes(byte_tokenizer())[[0, 97, 255, 256]].tolist()
        [1, 1, 1, 0]
    """
    special, symbols = set(tokenizer.all_special_ids), set(BYTE_SYMBOLS)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    counts = [0 if index in special else len(token) for index, token in enumerate(tokens)]
    strange = [token for index, token in enumerate(tokens) if index not in special and not symbols.issuperset(token)]
    if strange:
        raise ValueError(f"tokenizer: expected a byte-level one, found the token {strange[0]!r}")
    return torch.tensor(counts)


def _alphabet(special: bool = False) -> dict[str, int]:
    symbols = [*BYTE_SYMBOLS, *SPECIAL_TOKENS.values()] if special else BYTE_SYMBOLS
    return {symbol: index for index, symbol in enumerate(symbols)}


def _byte_ordered(learner: Any) -> Any:
    """The learned BPE with bytes at ids 0-255, room for the special tokens, then the merges in order."""
    import json

    from tokenizers import models

    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    vocabulary = _alphabet(special=True)
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    return models.BPE(vocab=vocabulary, merges=merges)


def _wrap(tokenizer: Any, split_words: bool) -> PreTrainedTokenizerFast:
    from tokenizers import decoders, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split_words)
    tokenizer.decoder = decoders.ByteLevel()
    # One at a time, in this order: the ids of special tokens follow the order in which they come.
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS.values()))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **SPECIAL_TOKENS)


def _chunks(data: bytes) -> Iterator[str]:
    """The text in pieces of about `_CHUNK` bytes, each ending with a line where there are lines."""
    start = 0
    while start < len(data):
        stop = data.find(b"\n", start + _CHUNK) + 1 or len(data)
        try:
            yield data[start:stop].decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"data: expected UTF-8, found byte {data[start + error.start]} at {start + error.start}; "
                "the byte tokenizer takes any bytes"
            ) from None
        start = stop
