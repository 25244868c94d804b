"""Characters as labels, and the tokenizer on disk."""

import pytest
from transformers import AutoTokenizer, Wav2Vec2CTCTokenizer

from tokenmix.data.speech import build_ctc_tokenizer

TEXTS = ["don't stop", "añade más", "как дела"]


def test_labels_come_back_as_the_text():
    tokenizer = build_ctc_tokenizer(TEXTS)
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        assert len(ids) == len(text)
        assert tokenizer.decode(ids, group_tokens=False) == text


def test_the_blank_is_0_and_special_tokens_stand_first():
    tokenizer = build_ctc_tokenizer(TEXTS)
    assert tokenizer.convert_ids_to_tokens(list(range(5))) == ["<pad>", "<s>", "</s>", "<unk>", "|"]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (
        0,
        1,
        2,
        3,
    )
    assert len(tokenizer) == 5 + len(set("".join(TEXTS)) - {" "})


def test_ctc_decoding_merges_repetitions_unless_a_blank_is_between():
    tokenizer = build_ctc_tokenizer("abc")  # an alphabet
    a, b, space = (tokenizer.convert_tokens_to_ids(token) for token in "ab|")
    assert tokenizer.decode([a, a, 0, a, b, b, space, space, 0, b]) == "aab b"


def test_unseen_characters_are_unknown():
    tokenizer = build_ctc_tokenizer(["ab"])
    assert tokenizer("axb").input_ids == [5, tokenizer.unk_token_id, 6]


@pytest.mark.parametrize("kind", [Wav2Vec2CTCTokenizer, AutoTokenizer])
def test_saved_and_loaded(tmp_path, kind):
    tokenizer = build_ctc_tokenizer(TEXTS)
    tokenizer.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    assert type(loaded) is Wav2Vec2CTCTokenizer
    assert loaded.get_vocab() == tokenizer.get_vocab()
    for text in TEXTS:
        assert loaded(text).input_ids == tokenizer(text).input_ids
        assert loaded.decode(loaded(text).input_ids, group_tokens=False) == text


def test_the_order_of_texts_does_not_matter():
    assert build_ctc_tokenizer(TEXTS).get_vocab() == build_ctc_tokenizer(reversed(TEXTS)).get_vocab()


@pytest.mark.parametrize("texts", [[], ["", " "]])
def test_no_character(texts):
    with pytest.raises(ValueError, match="texts: expected at least one character, found none"):
        build_ctc_tokenizer(texts)
