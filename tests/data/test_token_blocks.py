"""Blocks of tokens: every token is predicted exactly once, documents keep apart, scores add up."""

import math

import pytest
import torch

from tokenmix.data.corpus import SEPARATOR, Corpus
from tokenmix.data.token_blocks import IGNORED, TokenBlocks, bits_per_byte, collate, document_segments
from tokenmix.data.tokenizer import byte_tokenizer, encode, token_bytes, train_bpe

DOCUMENTS = [b"the first document\nhas lines", b"", "日本 and the second".encode(), b"the third and the last " * 4]
TEXT = SEPARATOR.join(DOCUMENTS)
CORPUS = Corpus("mine", train=TEXT * 5, valid=TEXT, test=TEXT)


def tokenizers():
    return {"bytes": byte_tokenizer(), "bpe": train_bpe(CORPUS.train, vocab_size=290)}


@pytest.mark.parametrize("length", [8, 9, 15, 16, 57, 64])
@pytest.mark.parametrize(("context", "overlap"), [(8, 1), (8, 4), (8, 7), (5, 2), (2, 1)])
def test_every_token_but_the_first_is_predicted_exactly_once(length, context, overlap):
    blocks = TokenBlocks(torch.arange(length, dtype=torch.int32), context, overlap=overlap)
    predicted = []
    for index, block in enumerate(blocks):
        inputs, labels = block["input_ids"], block["labels"]
        assert inputs.shape == labels.shape == (context,)
        assert inputs.dtype == labels.dtype == torch.int64
        assert inputs.tolist() == list(range(int(inputs[0]), int(inputs[0]) + context))
        kept = labels[1:] != IGNORED  # the model's shift drops the first label
        assert torch.equal(labels[1:][kept], inputs[1:][kept])
        assert kept.any()
        assert index == 0 or not kept[: overlap - 1].any()  # at least `overlap` tokens of context
        predicted += labels[1:][kept].tolist()
    assert predicted == list(range(1, length))
    assert len(predicted) == blocks.scored_tokens


def test_blocks_are_the_same_in_every_reading():
    blocks = TokenBlocks(encode(byte_tokenizer(), TEXT), context=16)
    again = TokenBlocks(encode(byte_tokenizer(), TEXT), context=16)
    for index in (len(blocks) - 1, 0, 3):
        assert torch.equal(blocks[index]["input_ids"], again[index]["input_ids"])
    blocks[0]["input_ids"].zero_()
    assert torch.equal(blocks[0]["input_ids"], again[0]["input_ids"])  # a block is a copy


@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_bits_per_byte_does_not_depend_on_the_tokenizer(name):
    """A model that gives every byte 2 bits has 2 bits a byte, however bytes are grouped into tokens."""
    tokenizer = tokenizers()[name]
    blocks = TokenBlocks.from_corpus(CORPUS, "test", context=16, tokenizer=tokenizer)
    lengths, nats, tokens = token_bytes(tokenizer), 0.0, 0
    for block in blocks:
        labels = block["labels"][1:]
        labels = labels[labels != IGNORED]
        nats += float(lengths[labels].sum()) * 2 * math.log(2)
        tokens += len(labels)
    assert tokens == blocks.scored_tokens
    first = int(lengths[int(blocks.tokens[0])])
    assert blocks.scored_bytes == len(CORPUS.test) - first
    assert bits_per_byte(nats / tokens, tokens, blocks.scored_bytes) == pytest.approx(2, rel=1e-12)


@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_packed_blocks_keep_documents_apart(name):
    tokenizer = tokenizers()[name]
    blocks = TokenBlocks.from_corpus(
        CORPUS, "test", context=len(encode(tokenizer, TEXT)), tokenizer=tokenizer, packed=True
    )
    (block,) = list(blocks)
    lengths = token_bytes(tokenizer)[block["input_ids"]]
    starts = lengths.cumsum(0) - lengths
    for start, segment in zip(starts.tolist(), block["segment_ids"].tolist(), strict=True):
        assert segment == naive_segment(start)


def naive_segment(offset):
    end = 0
    for number, document in enumerate(DOCUMENTS):
        end += len(document) + len(SEPARATOR)
        if offset < end:
            return number
    raise IndexError(offset)


def test_segments_count_from_zero_in_each_block():
    blocks = TokenBlocks.from_corpus(CORPUS, "train", context=16, tokenizer=byte_tokenizer(), packed=True)
    rows = torch.stack([block["segment_ids"] for block in blocks])
    assert (rows[:, 0] == 0).all()
    assert ((rows.diff() == 0) | (rows.diff() == 1)).all()
    assert "segment_ids" not in TokenBlocks(blocks.tokens, 16)[0]


def test_collate_stacks_every_field():
    blocks = TokenBlocks.from_corpus(CORPUS, "train", context=16, tokenizer=byte_tokenizer(), packed=True)
    batch = collate([blocks[2], blocks[0], blocks[1]])
    assert set(batch) == {"input_ids", "labels", "segment_ids"}
    assert all(field.shape == (3, 16) for field in batch.values())
    assert torch.equal(batch["labels"][1], blocks[0]["labels"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context": 1}, "context: expected at least 2 tokens, found 1"),
        ({"context": 8, "overlap": 0}, "overlap: expected 1 to context - 1 = 7, found 0"),
        ({"context": 8, "overlap": 8}, "overlap: expected 1 to context - 1 = 7, found 8"),
        ({"context": 11}, "tokens: expected at least one context of 11 tokens, found 10; give a longer text"),
        ({"context": 4, "segments": torch.zeros(9)}, r"segments: expected shape \(10,\), found \(9,\)"),
        ({"context": 4, "tokens": torch.zeros(10)}, r"tokens: expected integers \(N,\), found torch.float32"),
    ],
)
def test_mistakes_meet_an_error_that_says_so(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenBlocks(**{"tokens": torch.arange(10), **arguments})


def test_errors_name_the_corpus_and_split():
    with pytest.raises(ValueError, match="mine, test split: tokens: expected at least one context of 4096"):
        TokenBlocks.from_corpus(CORPUS, "test", context=4096, tokenizer=byte_tokenizer())
    unmarked = Corpus("plain", b"text " * 9, b"text " * 9, b"text " * 9, separator=b"")
    with pytest.raises(ValueError, match=r"packed: expected a corpus whose documents are marked, found none .* plain"):
        TokenBlocks.from_corpus(unmarked, "train", context=4, tokenizer=byte_tokenizer(), packed=True)
    with pytest.raises(ValueError, match="separator: expected at least one byte"):
        document_segments(b"text", b"")
    with pytest.raises(ValueError, match="token_lengths: expected a sum of 4 bytes, found 3"):
        document_segments(b"text", b"|", torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="tokens, bytes: expected at least 1, found 0 and 4"):
        bits_per_byte(1.0, tokens=0, bytes=4)
    with pytest.raises(IndexError, match="index: expected 0 to 2, found 3"):
        TokenBlocks(torch.arange(10), context=4)[3]


def test_the_first_token_of_a_packed_document_is_not_scored():
    """Nothing of its own document stands before it, and models mask it in training too."""
    tokens, segments = torch.arange(9), torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2])
    blocks = TokenBlocks(tokens, context=5, segments=segments)
    predicted = sorted(label for block in blocks for label in block["labels"][1:].tolist() if label != -100)
    assert predicted == [1, 2, 4, 5, 6, 8]
    assert blocks.scored_tokens == blocks.scored_bytes == 6
