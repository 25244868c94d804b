"""How wrong transcripts are, and how wrong an answer is that costs nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def transcription_scores(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float]:
    """Word and character error rates over all texts together.

        rate = (substitutions + deletions + insertions) / (words or characters of the references)

    Args:
        references: true texts.
        hypotheses: what was recognised, one a text.

    Returns:
        {"wer": …, "cer": …}, counted by jiwer. For an empty reference, all that was written is insertions.

    Raises:
        ValueError: other numbers of texts, or no reference that is not empty.
        ModuleNotFoundError: jiwer is missing.

    Example:
        >>> transcription_scores(["one two", "six"], ["one", "six"])
        {'wer': 0.3333333333333333, 'cer': 0.4}
    """
    try:
        import jiwer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("error rates need jiwer: pip install 'tokenmix[speech]'") from error
    if len(references) != len(hypotheses):
        raise ValueError(f"hypotheses: expected one for each of {len(references)} references, found {len(hypotheses)}")
    pairs = list(zip(references, hypotheses, strict=True))
    spoken = [pair for pair in pairs if pair[0].strip()]
    silent = [written for text, written in pairs if not text.strip()]
    if not spoken:
        raise ValueError("references: expected at least one text that is not empty, found none")
    true, found = [text for text, _ in spoken], [written for _, written in spoken]
    words, characters = jiwer.process_words(true, found), jiwer.process_characters(true, found)
    extra_words, extra = sum(len(text.split()) for text in silent), sum(len(text.strip()) for text in silent)
    return {"wer": _rate(words, extra_words), "cer": _rate(characters, extra)}


def _rate(counted: object, extra: int) -> float:
    hits, substitutions, deletions, insertions = (
        int(getattr(counted, kind)) for kind in ("hits", "substitutions", "deletions", "insertions")
    )
    return (substitutions + deletions + insertions + extra) / (hits + substitutions + deletions)


def trivial_baselines(train_texts: Sequence[str], test_texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Scores of writing nothing, and of writing the most frequent training text, whatever is heard.

    Args:
        train_texts: texts of the training split; of equally frequent ones, the first is written.
        test_texts: true texts.

    Returns:
        {"empty": {"wer": …, "cer": …}, "most_frequent": …}.

    Raises:
        ValueError: no training text, or as `transcription_scores`.

    Example:
        >>> found = trivial_baselines(["no", "no", "yes"], ["no", "yes"])
        >>> found["empty"]["wer"], found["most_frequent"]["wer"]
        (1.0, 0.5)
    """
    if not train_texts:
        raise ValueError("train_texts: expected at least one, found none")
    ((common, _),) = Counter(train_texts).most_common(1)
    return {
        "empty": transcription_scores(test_texts, [""] * len(test_texts)),
        "most_frequent": transcription_scores(test_texts, [common] * len(test_texts)),
    }
