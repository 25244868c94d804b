"""Error rates against an edit distance of our own, and the trivial answers."""

import random

import pytest

from tokenmix.data.speech import transcription_scores, trivial_baselines


def edits(said, written):
    """The fewest substitutions, insertions and deletions: Wagner and Fischer's table."""
    row = list(range(len(written) + 1))
    for i, a in enumerate(said, 1):
        above, row = row, [i]
        for j, b in enumerate(written, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
    return row[-1]


def test_scores_equal_a_table_of_edits():
    draw = random.Random(0)
    texts = [[" ".join(draw.choices(["a", "bb", "abc", "c"], k=draw.randint(1, 6))) for _ in range(30)] for _ in "12"]
    texts[1][3] = ""
    said, written = texts
    words = sum(edits(a.split(), b.split()) for a, b in zip(said, written, strict=True))
    characters = sum(edits(a, b) for a, b in zip(said, written, strict=True))
    scores = transcription_scores(said, written)
    assert scores["wer"] == pytest.approx(words / sum(len(text.split()) for text in said))
    assert scores["cer"] == pytest.approx(characters / sum(map(len, said)))


def test_right_and_empty_answers():
    assert transcription_scores(["one two"], ["one two"]) == {"wer": 0.0, "cer": 0.0}
    assert transcription_scores(["one two", "six"], ["", ""]) == {"wer": 1.0, "cer": 1.0}


def test_what_is_written_for_silence_counts_as_insertions():
    assert transcription_scores(["one two", ""], ["one two", ""]) == {"wer": 0.0, "cer": 0.0}
    scores = transcription_scores(["one two", ""], ["one two", "ab cd"])
    assert scores == {"wer": 2 / 2, "cer": 5 / 7}


def test_scores_may_exceed_one():
    assert transcription_scores(["a"], ["b c d"])["wer"] == 3.0


def test_refused():
    with pytest.raises(ValueError, match="hypotheses: expected one for each of 2 references, found 1"):
        transcription_scores(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="references: expected at least one text that is not empty, found none"):
        transcription_scores(["", " "], ["a", ""])
    with pytest.raises(ValueError, match="train_texts: expected at least one, found none"):
        trivial_baselines([], ["a"])


def test_baselines():
    found = trivial_baselines(["two", "one", "one", "two", "six"], ["one", "two", "two two"])
    assert found["empty"] == {"wer": 1.0, "cer": 1.0}
    assert found["most_frequent"] == transcription_scores(["one", "two", "two two"], ["two"] * 3)
    assert found["most_frequent"]["wer"] == 2 / 4
