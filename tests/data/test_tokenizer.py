"""The byte tokenizer and the trained BPE: exact round trips, saving, loading, speed by construction."""

import itertools
import random

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from tokenmix.data.tokenizer import (
    BYTE_SYMBOLS,
    SPECIAL_TOKENS,
    byte_tokenizer,
    encode,
    is_byte_tokenizer,
    token_bytes,
    train_bpe,
)

TEXTS = [
    "",
    "plain words, and 'quotes' don't vanish .",
    "  leading\t\ttabs\r\nand \n\n\nlines \x00 zero \x7f",
    "日本語 ελληνικά עברית 🙂👩‍👩‍👧 é e\u0301 \u2028 \ufeff",
    "the literal <|eos|> and <|bos|><|pad|> of a text",
    "".join(map(chr, range(1, 0x800))),
]
TRAIN = "the cat sat on the mat, and the hat sat on the cat; 日本語 and more of the same\n" * 60


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def tokenizer(request):
    return byte_tokenizer() if request.param == "bytes" else train_bpe(TRAIN, vocab_size=300)


@pytest.fixture
def loaded(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_exactly(tokenizer, loaded, text):
    for each in (tokenizer, loaded):
        ids = encode(each, text.encode())
        assert each.decode(ids.tolist()) == text
        assert torch.equal(
            ids.long(), torch.tensor(each(text, split_special_tokens=True)["input_ids"], dtype=torch.long)
        )
        assert int(token_bytes(each)[ids.long()].sum()) == len(text.encode())


def test_random_text_comes_back_exactly(tokenizer):
    characters = random.Random(0).choices([chr(i) for i in range(1, 0x11000) if not 0xD800 <= i < 0xE000], k=20_000)
    text = "".join(characters)
    assert tokenizer.decode(encode(tokenizer, text.encode()).tolist()) == text


def test_a_loaded_tokenizer_is_the_saved_one(tokenizer, loaded):
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert len(loaded) == len(tokenizer)
    assert is_byte_tokenizer(loaded) == is_byte_tokenizer(tokenizer)
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (256, 257, 258)


def test_the_layout_is_as_documented(tokenizer):
    assert tokenizer.convert_ids_to_tokens(list(range(256))) == list(BYTE_SYMBOLS)
    assert [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id] == [256, 257, 258]
    assert tokenizer("a<|eos|>")["input_ids"] == [97, 257]
    assert tokenizer.decode([97, 257], skip_special_tokens=True) == "a"
    batch = tokenizer(["abc", "a"], padding=True)
    assert batch["input_ids"][1][1:] == [258] * (len(batch["input_ids"][0]) - 1)
    assert tokenizer.all_special_tokens == list(SPECIAL_TOKENS.values())


def test_byte_ids_are_the_bytes_of_any_data():
    data = bytes(range(256)) * 3
    ids = encode(byte_tokenizer(), data)
    assert ids.dtype == torch.uint8
    assert bytes(ids.tolist()) == data
    assert len(byte_tokenizer()) == 259


def test_a_long_text_is_encoded_in_pieces_that_lose_nothing():
    text = ("日本 and a line of words without end " * 40 + "\n") * 300  # half a megabyte
    tokenizer = train_bpe(TRAIN, vocab_size=300)
    ids = encode(tokenizer, text.encode())
    assert ids.dtype == torch.int32
    assert tokenizer.decode(ids.tolist()) == text
    one_line = text.replace("\n", " ")
    assert tokenizer.decode(encode(tokenizer, one_line.encode()).tolist()) == one_line


def test_bpe_merges_what_is_frequent():
    tokenizer = train_bpe(TRAIN, vocab_size=285)
    assert len(tokenizer) == 285
    assert not is_byte_tokenizer(tokenizer)
    assert tokenizer.tokenize("the cat") == ["the", "Ġcat"]
    assert len(encode(tokenizer, TRAIN.encode())) < 0.4 * len(TRAIN.encode())
    assert sorted(tokenizer.get_vocab().values()) == list(range(285))


def test_bpe_is_the_same_every_time_and_from_bytes_or_text():
    assert train_bpe(TRAIN, 280).get_vocab() == train_bpe(TRAIN.encode(), 280).get_vocab()


def test_bpe_merges_in_the_order_in_which_they_were_learned():
    """Against the naive form: merge the earliest-learned adjacent pair until there is none."""
    tokenizer = train_bpe(TRAIN, vocab_size=300)
    rank = {token: index for token, index in tokenizer.get_vocab().items() if index >= 259}
    word = [BYTE_SYMBOLS[byte] for byte in b" sat"]
    while candidates := [left + right for left, right in itertools.pairwise(word) if left + right in rank]:
        best = min(candidates, key=rank.__getitem__)
        place = next(i for i in range(len(word)) if word[i] + word[i + 1] == best)
        word[place : place + 2] = [best]
    assert tokenizer.tokenize("cat sat")[-len(word) :] == word


def test_bpe_of_a_small_text_stops_early():
    assert 259 < len(train_bpe("ab ab ab", vocab_size=1000)) < 270


def test_mistakes_meet_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"vocab_size: expected at least 259 .* found 200"):
        train_bpe(TRAIN, vocab_size=200)
    with pytest.raises(ValueError, match="text: expected the train split, found no text"):
        train_bpe("", vocab_size=300)
    with pytest.raises(ValueError, match="data: expected UTF-8, found byte 255 at 70003; the byte tokenizer takes any"):
        encode(train_bpe(TRAIN, vocab_size=300), b"a" * 70_000 + b"\nbc\xff")


def test_token_bytes_refuses_a_tokenizer_that_is_not_byte_level():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"日本": 0}, unk_token="日本")))
    with pytest.raises(ValueError, match="tokenizer: expected a byte-level one, found the token '日本'"):
        token_bytes(words)


def test_symbols_are_those_of_gpt2():
    from tokenizers import pre_tokenizers

    assert sorted(BYTE_SYMBOLS) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert len(np.unique(BYTE_SYMBOLS)) == 256
