"""Token ids in blocks of one length, for training and for scoring every token once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tokenmix.data.corpus import Corpus
from tokenmix.data.tokenizer import encode, is_byte_tokenizer, token_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that the loss leaves out, by the convention of Hugging Face


class TokenBlocks(Dataset[dict[str, Tensor]]):
    """A text's tokens in blocks of `context` tokens, in order; the same blocks in every epoch and every run.

    Labels are the inputs, and the model shifts them: block tokens 1, 2, ... are predicted from those
    before. Block i starts `context - overlap` tokens after block i - 1, and labels that an earlier block
    has predicted are -100. The last block ends with the last token, so it overlaps more. So every token
    is predicted exactly once, but the very first of the text and, where packed, of each document, which
    only give context. A score counts
    `scored_tokens` tokens and `scored_bytes` bytes:

        bits per byte = (sum of -ln p over the labels that are not -100) / (ln 2 * scored_bytes)

    Overlap 1 is the cheapest. With a larger one every token beyond the first block is predicted from at
    least `overlap` tokens, at about context / (context - overlap) times the arithmetic: for evaluation.

    Args:
        tokens: (N,) integer ids of one split.
        context: tokens in a block.
        overlap: tokens that a block shares with the one before, 1 to `context - 1`.
        segments: (N,) document number of each token, from `document_segments`; blocks then hold
            `segment_ids`, counted from 0 in each block, so that packed documents do not mix.
        byte_lengths: (vocabulary,) bytes of each token, from `token_bytes`; default one byte a token.

    Raises:
        ValueError: for a text shorter than one block, or an argument out of its range.

    Example:
        >>> blocks = TokenBlocks(torch.arange(6), context=4)
        >>> [block["input_ids"].tolist() for block in blocks]
        [[0, 1, 2, 3], [2, 3, 4, 5]]
        >>> [block["labels"].tolist() for block in blocks]
        [[-100, 1, 2, 3], [-100, -100, 4, 5]]
        >>> blocks.scored_tokens
        5
    """

    def __init__(
        self,
        tokens: Tensor,
        context: int,
        *,
        overlap: int = 1,
        segments: Tensor | None = None,
        byte_lengths: Tensor | None = None,
    ) -> None:
        if tokens.ndim != 1 or tokens.is_floating_point():
            raise ValueError(f"tokens: expected integers (N,), found {tokens.dtype} of shape {tuple(tokens.shape)}")
        if context < 2:
            raise ValueError(f"context: expected at least 2 tokens, found {context}")
        if not 1 <= overlap < context:
            raise ValueError(f"overlap: expected 1 to context - 1 = {context - 1}, found {overlap}")
        if len(tokens) < context:
            raise ValueError(
                f"tokens: expected at least one context of {context} tokens, found {len(tokens)}; "
                "give a longer text or a smaller context"
            )
        if segments is not None and segments.shape != tokens.shape:
            raise ValueError(f"segments: expected shape {tuple(tokens.shape)}, found {tuple(segments.shape)}")
        self.tokens = tokens
        self.context = context
        self.overlap = overlap
        self.segments = segments
        self.byte_lengths = byte_lengths
        self._predicted = torch.ones(len(tokens), dtype=torch.bool)
        self._predicted[0] = False
        if segments is not None:
            self._predicted[1:] = segments[1:] == segments[:-1]

    @classmethod
    def from_corpus(
        cls,
        corpus: Corpus,
        split: str,
        context: int,
        *,
        tokenizer: PreTrainedTokenizerBase,
        overlap: int = 1,
        packed: bool = False,
    ) -> TokenBlocks:
        """The blocks of one split of a corpus.

        Args:
            corpus: the text.
            split: "train", "valid" or "test".
            context: tokens in a block.
            tokenizer: a byte-level one, such as `byte_tokenizer()` or `train_bpe(corpus.train, ...)`.
            overlap: tokens that a block shares with the one before.
            packed: whether blocks hold `segment_ids` that keep documents apart.

        Returns:
            The data set.

        Raises:
            ValueError: as the constructor (naming corpus and split), and for `packed` without marked documents.
        """
        data = corpus.split(split)
        if packed and not corpus.separator:
            raise ValueError(
                f"packed: expected a corpus whose documents are marked, found none marked in {corpus.name}"
            )
        tokens = encode(tokenizer, data)
        lengths = None if is_byte_tokenizer(tokenizer) else token_bytes(tokenizer)
        per_token = None if lengths is None else lengths[tokens]
        segments = document_segments(data, corpus.separator, per_token) if packed else None
        try:
            return cls(tokens, context, overlap=overlap, segments=segments, byte_lengths=lengths)
        except ValueError as error:
            raise ValueError(f"{corpus.name}, {split} split: {error}") from None

    def __len__(self) -> int:
        return 1 + math.ceil((len(self.tokens) - self.context) / (self.context - self.overlap))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"index: expected 0 to {len(self) - 1}, found {index}")
        step = self.context - self.overlap
        start = min(index * step, len(self.tokens) - self.context)
        place = slice(start, start + self.context)
        input_ids = self.tokens[place].long()
        labels = input_ids.clone()
        if index > 0:
            labels[: (index - 1) * step + self.context - start] = IGNORED  # predicted by the block before
        labels[~self._predicted[place]] = IGNORED
        block = {"input_ids": input_ids, "labels": labels}
        if self.segments is not None:
            block["segment_ids"] = (self.segments[place] - self.segments[start]).long()
        return block

    @property
    def scored_tokens(self) -> int:
        """Tokens that are predicted: all but the first of the text and, where packed, of each document."""
        return int(self._predicted.sum())

    @property
    def scored_bytes(self) -> int:
        """Bytes of the tokens that are predicted."""
        if self.byte_lengths is None:
            return self.scored_tokens
        return int(self.byte_lengths[self.tokens[self._predicted].long()].sum())


def collate(blocks: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack blocks into a batch; all have one length, so there is no padding.

    Args:
        blocks: items of a `TokenBlocks`.

    Returns:
        (B, context) `input_ids`, `labels` and, where packed, `segment_ids`.

    Example:
        >>> blocks = TokenBlocks(torch.arange(6), context=4)
        >>> collate([blocks[0], blocks[1]])["input_ids"].shape
        torch.Size([2, 4])
    """
    return {name: torch.stack([block[name] for block in blocks]) for name in blocks[0]}


def document_segments(data: bytes, separator: bytes, token_lengths: Tensor | None = None) -> Tensor:
    """The number of the document that each token starts in; a separator belongs to the document it ends.

    Args:
        data: the text.
        separator: the bytes between documents, not empty.
        token_lengths: (N,) bytes of each token of `data`; default one byte a token.

    Returns:
        (N,) int32, counted from 0.

    Raises:
        ValueError: for an empty separator, or tokens whose bytes are not those of the text.

    Example:
        >>> document_segments(b"ab|c|d", b"|").tolist()
        [0, 0, 0, 1, 1, 2]
    """
    if not separator:
        raise ValueError("separator: expected at least one byte, found none")
    starts, place = [], data.find(separator)
    while place >= 0:
        starts.append(place + len(separator))
        place = data.find(separator, starts[-1])
    boundaries = torch.tensor(starts, dtype=torch.int64)
    if token_lengths is None:
        return torch.bucketize(torch.arange(len(data)), boundaries, right=True, out_int32=True)
    if int(token_lengths.sum()) != len(data):
        raise ValueError(f"token_lengths: expected a sum of {len(data)} bytes, found {int(token_lengths.sum())}")
    offsets = token_lengths.cumsum(0) - token_lengths
    return torch.bucketize(offsets, boundaries, right=True, out_int32=True)


def bits_per_byte(nats_per_token: float, tokens: int, bytes: int) -> float:
    """Bits a byte of a model that needs so many nats a token: what scores with any tokenizer compare by.

    Args:
        nats_per_token: mean of -ln p over the scored tokens.
        tokens: how many tokens were scored, such as `TokenBlocks.scored_tokens`.
        bytes: how many bytes of text they are, such as `TokenBlocks.scored_bytes`.

    Returns:
        nats_per_token * tokens / (bytes * ln 2).

    Raises:
        ValueError: for a count below 1.

    Example:
        >>> round(bits_per_byte(math.log(256), tokens=10, bytes=10), 3)
        8.0
    """
    if tokens < 1 or bytes < 1:
        raise ValueError(f"tokens, bytes: expected at least 1, found {tokens} and {bytes}")
    return nats_per_token * tokens / (bytes * math.log(2))
