"""Data sets, one file a domain; importing them imports torch and numpy, the rest when it is needed."""

from tokenmix.data.corpus import SEPARATOR, Corpus
from tokenmix.data.ngram import baselines, ngram_bits_per_byte, ngram_nats, ngram_probabilities
from tokenmix.data.text import load_corpus, python_stdlib, world_english_bible
from tokenmix.data.text_files import hub_text, text_files
from tokenmix.data.token_blocks import TokenBlocks, bits_per_byte, collate, document_segments
from tokenmix.data.tokenizer import byte_tokenizer, encode, is_byte_tokenizer, token_bytes, train_bpe

__all__ = [
    "SEPARATOR",
    "Corpus",
    "TokenBlocks",
    "baselines",
    "bits_per_byte",
    "byte_tokenizer",
    "collate",
    "document_segments",
    "encode",
    "hub_text",
    "is_byte_tokenizer",
    "load_corpus",
    "ngram_bits_per_byte",
    "ngram_nats",
    "ngram_probabilities",
    "python_stdlib",
    "text_files",
    "token_bytes",
    "train_bpe",
    "world_english_bible",
]
