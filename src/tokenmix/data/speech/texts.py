"""Transcripts in one form: lower case, letters, apostrophes and single spaces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_ONES = (*DIGITS, *_TEENS)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u2032`\u00b4", "'"))
_READ_ALOUD = frozenset("&@#%*/\\_<>[]{}")
_MEASURE = re.compile(r"[^\W\d_]\d|\d[^\W\d_]|\d[.,:]\d|[-\u2212]\d|\d{4}")  # 3D, 4th, 2.5, 10:30, -1, 1999


def normalise_text(text: str, language: str = "en") -> str | None:
    """Lower case, letters with their accents, apostrophes inside words, single spaces.

    Curly apostrophes become straight ones. A text is refused where nobody knows how it was read: with symbols such as
    &, %, / or €; with digits in another language than English; and in English with digits that are no whole number by
    itself of at most three digits (3D, 2.5, 10:30, 1999). Other digits are spelled: 42, and 007 digit by digit.

    Args:
        text: as written.
        language: ISO 639-1.

    Returns:
        The text, or None where it is refused or holds no letter.

    Example:
        >>> normalise_text("Don’t press 42, — or 9!")
        "don't press forty two or nine"
        >>> normalise_text("Pulsa 9", "es") is None, normalise_text("50 %") is None
        (True, True)
    """
    text = unicodedata.normalize("NFC", text.lower()).translate(_APOSTROPHES)
    if any(c in _READ_ALOUD or unicodedata.category(c) in ("Sc", "Sm", "So") for c in text):
        return None
    if any(c.isnumeric() and not c.isalpha() for c in text):
        if language != "en" or _MEASURE.search(text):
            return None
        text = re.sub(r"[0-9]+", lambda found: spell_number(found[0]), text)
        if any(c.isnumeric() for c in text):
            return None
    kept = "".join(c if c.isalpha() or unicodedata.combining(c) or c == "'" else " " for c in text)
    words = [word.strip("'") for word in kept.split()]
    return " ".join(word for word in words if word) or None


def check_languages(languages: Sequence[str], known: Sequence[str]) -> None:
    """Refuse languages that a source does not have.

    Raises:
        ValueError: none, a single text, or an unknown one.

    Example:
        >>> check_languages(["es"], ("en", "es"))
    """
    unknown = [] if isinstance(languages, str) else sorted(set(languages) - set(known))
    if not languages or isinstance(languages, str) or unknown:
        raise ValueError(f"languages: expected a list of {', '.join(known)}, found {unknown or languages!r}")


def spell_number(digits: str) -> str:
    """A number of up to six digits in English words; behind a leading zero, digit by digit.

    Args:
        digits: of 0 to 9.

    Raises:
        ValueError: something else.

    Example:
        >>> spell_number("1300"), spell_number("007")
        ('one thousand three hundred', 'zero zero seven')
    """
    if not re.fullmatch(r"[0-9]{1,6}", digits):
        raise ValueError(f"digits: expected one to six of 0 to 9, found {digits!r}")
    if len(digits) > 1 and digits[0] == "0":
        return " ".join(DIGITS[int(digit)] for digit in digits)
    value = int(digits)
    if value >= 1000:
        rest = f" {spell_number(str(value % 1000))}" if value % 1000 else ""
        return f"{spell_number(str(value // 1000))} thousand{rest}"
    if value >= 100:
        rest = f" {spell_number(str(value % 100))}" if value % 100 else ""
        return f"{DIGITS[value // 100]} hundred{rest}"
    if value >= 20:
        return _TENS[value // 10 - 2] + (f" {DIGITS[value % 10]}" if value % 10 else "")
    return _ONES[value]
