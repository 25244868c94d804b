"""How wrong transcripts are, and how wrong an answer is that costs nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def transcription_scores(said: Sequence[str], written: Sequence[str]) -> dict[str, float]:
    """Word and character error rates over all texts together: edits by the number of words or characters said.

    Args:
        said: true texts.
        written: what was recognised, one a text.

    Returns:
        {"wer": ..., "cer": ...}; a text of nothing counts the words that were written for it.

    Raises:
        ValueError: other numbers of texts, or nothing said at all.

    Example:
        >>> transcription_scores(["one two", "six"], ["one", "six"])
        {'wer': 0.3333333333333333, 'cer': 0.4}
    """
    import jiwer

    if len(said) != len(written):
        raise ValueError(f"written: expected one text for each of {len(said)} said, found {len(written)}")
    full = [(true, found) for true, found in zip(said, written, strict=True) if true]
    if not full:
        raise ValueError("said: expected at least one text that is not empty, found none")
    words, characters = sum(len(true.split()) for true, _ in full), sum(len(true) for true, _ in full)
    extra = [found for true, found in zip(said, written, strict=True) if not true]
    true, found = [pair[0] for pair in full], [pair[1] for pair in full]
    wrong_words = jiwer.wer(true, found) * words + sum(len(text.split()) for text in extra)
    wrong = jiwer.cer(true, found) * characters + sum(map(len, extra))
    return {"wer": wrong_words / words, "cer": wrong / characters}


def trivial_baselines(train: Sequence[str], test: Sequence[str]) -> dict[str, dict[str, float]]:
    """Scores of writing nothing, and of writing the most frequent training text, whatever is heard.

    Example:
        >>> found = trivial_baselines(["no", "no", "yes"], ["no", "yes"])
        >>> found["empty"]["wer"], found["most_frequent"]["wer"]
        (1.0, 0.5)
    """
    (common, _), *_ = Counter(train).most_common(1)
    return {
        "empty": transcription_scores(test, [""] * len(test)),
        "most_frequent": transcription_scores(test, [common] * len(test)),
    }
