"""Which text a recipe trains on, and how it is cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

from tokenmix.data import Corpus, TokenBlocks, byte_tokenizer, load_corpus, train_bpe


class TextData(NamedTuple):
    """A corpus, its tokenizer, and the blocks to train on and to score."""

    corpus: Corpus
    tokenizer: Any
    train: TokenBlocks
    test: TokenBlocks


@dataclass
class TextConfig:
    """Which text, and how it is cut."""

    name: Literal["python_stdlib", "world_english_bible"] = "python_stdlib"
    """Embedded text."""
    files: dict[str, str | list[str]] | str | list[str] | None = None
    """Text files, globs or a folder to train on, or these by split (train, valid, test); instead of `name`."""
    hub: Literal["wikitext-2", "wikitext-103", "tinystories"] | None = None
    """Data set of the Hugging Face hub, instead of `name`; needs a network."""
    tokenizer: Literal["bytes", "bpe"] = "bytes"
    """Bytes, or byte-pair encoding trained on the training split."""
    vocab_size: int = 10_000
    """Entries of the byte-pair encoding."""
    context: int = 256
    """Tokens a training row."""
    overlap: int = 1
    """Tokens of context that every scored token has at least, beyond the first row of the test text."""
    packed: bool = False
    """Keep documents in a row apart."""
    test_bytes: int | None = None
    """Score only the first bytes of the test split; None for all."""
    baseline_bytes: int | None = None
    """Count n-grams in the first bytes of the training split only; None for all."""

    def load(self) -> TextData:
        """Read the text and cut it.

        Raises:
            ValueError, FileNotFoundError: what `tokenmix.data.load_corpus` and `TokenBlocks.from_corpus` refuse.

        Example:
            >>> data = TextConfig(context=64, test_bytes=1000).load()
            >>> data.test.scored_bytes
            999
        """
        corpus = load_corpus(self.name, files=self.files, hub=self.hub)
        corpus = replace(corpus, test=corpus.test[: self.test_bytes])
        tokenizer = byte_tokenizer() if self.tokenizer == "bytes" else train_bpe(corpus.train, self.vocab_size)
        cut = partial(TokenBlocks.from_corpus, corpus, context=self.context, tokenizer=tokenizer, packed=self.packed)
        return TextData(corpus, tokenizer, cut("train"), cut("test", overlap=self.overlap))
