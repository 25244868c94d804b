"""Transcripts in one form: lower case, letters, apostrophes and single spaces."""

from __future__ import annotations

import re
import unicodedata

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_ONES = (*DIGITS, *_TEENS)
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def normalise_text(text: str, language: str = "en") -> str | None:
    """Lower case, letters with their accents, apostrophes inside words, single spaces.

    Numbers of up to six digits are spelled in English, digit by digit behind a leading zero; in other languages, and
    for longer ones, a text with digits is refused, since nobody knows how it was read.

    Args:
        text: as written.
        language: ISO 639-1.

    Returns:
        The text, or None where it holds digits that cannot be spelled, or no letter.

    Example:
        >>> normalise_text("Don’t press 42, — or *9*!")
        "don't press forty two or nine"
        >>> normalise_text("Pulsa 9", "es") is None
        True
    """
    text = unicodedata.normalize("NFC", text.lower()).replace("\u2019", "'").replace("\u02bc", "'")
    if any(character.isdigit() for character in text):
        if language != "en" or re.search(r"\d{7}", text):
            return None
        text = re.sub(r"[0-9]+", lambda found: f" {spell_number(found[0])} ", text)
        if any(character.isdigit() for character in text):
            return None
    kept = "".join(c if c.isalpha() or unicodedata.combining(c) or c == "'" else " " for c in text)
    words = [word.strip("'") for word in kept.split()]
    return " ".join(word for word in words if word) or None


def spell_number(digits: str) -> str:
    """A number of up to six digits in English words.

    Example:
        >>> spell_number("1300"), spell_number("007")
        ('one thousand three hundred', 'zero zero seven')
    """
    if len(digits) > 1 and digits[0] == "0":
        return " ".join(_ONES[int(digit)] for digit in digits)
    value = int(digits)
    if value >= 1000:
        rest = f" {spell_number(str(value % 1000))}" if value % 1000 else ""
        return f"{spell_number(str(value // 1000))} thousand{rest}"
    if value >= 100:
        rest = f" {spell_number(str(value % 100))}" if value % 100 else ""
        return f"{_ONES[value // 100]} hundred{rest}"
    if value >= 20:
        return _TENS[value // 10 - 2] + (f" {_ONES[value % 10]}" if value % 10 else "")
    return _ONES[value]
