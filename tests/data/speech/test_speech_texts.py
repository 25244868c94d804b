"""Transcripts in one form, numbers in words, and splits by text."""

import pytest

from tokenmix.data.speech import normalise_text
from tokenmix.data.speech.splits import split_of
from tokenmix.data.speech.texts import spell_number


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("  Hello,\tWORLD!\n", "en", "hello world"),
        ("It’s the dogs’ ‘home’ – isn`t it?", "en", "it's the dogs home isn't it"),
        ("rock 'n' roll", "en", "rock n roll"),
        ("well-known; e.g. this…", "en", "well known e g this"),
        ("Press 1, 2 or 42 (now).", "en", "press one two or forty two now"),
        ("agent 007", "en", "agent zero zero seven"),
        ("Él NIÑO, ¿qué?", "es", "él niño qué"),
        ("E\u0301te\u0301", "fr", "été"),
        ("l’été", "fr", "l'été"),
        ("Ёлка — Ч", "ru", "ёлка ч"),
        ("ὁ Σίσυφος", "el", "ὁ σίσυφος"),
    ],
)
def test_normal_form(text, language, expected):
    assert normalise_text(text, language) == expected
    assert normalise_text(expected, language) == expected  # a normal form is its own


@pytest.mark.parametrize(
    "text",
    ["", " ...!", "'", "50%", "a & b", "5 €", "<noise>", "[laughter]", "and/or", "2 + 2", "1999", "v 2.5", "at 10:30"],
)
def test_texts_that_nobody_knows_how_to_read(text):
    assert normalise_text(text) is None


@pytest.mark.parametrize("text", ["3D", "the 4th", "1,300", "minus -1", "x²", "½ cup", "no. ①", "90°", "a_b"])
def test_numbers_that_are_no_whole_ones_by_themselves(text):
    assert normalise_text(text) is None


def test_digits_in_other_languages_are_refused():
    assert normalise_text("pulsa 9", "es") is None
    assert normalise_text("press 9", "en") == "press nine"


class TestNumbers:
    @pytest.mark.parametrize(
        ("digits", "expected"),
        [
            ("0", "zero"),
            ("13", "thirteen"),
            ("20", "twenty"),
            ("99", "ninety nine"),
            ("100", "one hundred"),
            ("305", "three hundred five"),
            ("1000", "one thousand"),
            ("9999", "nine thousand nine hundred ninety nine"),
            ("120012", "one hundred twenty thousand twelve"),
            ("05", "zero five"),
        ],
    )
    def test_examples(self, digits, expected):
        assert spell_number(digits) == expected

    def test_each_number_has_words_of_its_own_that_read_back(self):
        """A reader of the words that knows nothing of how they were written."""
        small = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
        values = {word: value for value, word in enumerate([*small.split(), "seventeen", "eighteen", "nineteen"])}
        tens = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
        values |= dict(zip(tens, range(20, 100, 10), strict=True))
        for number in [*range(0, 10000), 10000, 54321, 100000, 999999]:
            total = part = 0
            for word in spell_number(str(number)).split():
                if word == "thousand":
                    total, part = part * 1000, 0
                else:
                    part = part * 100 if word == "hundred" else part + values[word]
            assert total + part == number

    @pytest.mark.parametrize("digits", ["", "1234567", "-1", "1.5", "a", "١"])
    def test_refused(self, digits):
        with pytest.raises(ValueError, match="digits: expected one to six of 0 to 9"):
            spell_number(digits)


def test_splits_take_their_share_and_never_change():
    splits = [split_of(f"sentence {i}") for i in range(5000)]
    assert splits.count("test") / 5000 == pytest.approx(0.1, abs=0.015)
    assert splits.count("valid") / 5000 == pytest.approx(0.1, abs=0.015)
    assert [split_of(word) for word in ("one", "two", "six")] == ["train", "valid", split_of("six")]
