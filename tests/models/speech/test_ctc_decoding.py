"""CTC decoding: the tokenizer's own collapse, and the sum over all alignments, both a piece at a time."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Wav2Vec2CTCTokenizer

from tokenmix.data.speech import build_ctc_tokenizer
from tokenmix.models.speech.ctc_decoding import BeamCTC, GreedyCTC
from tokenmix.models.speech.ctc_text import CTCText, ctc_text


def one_hot(symbols: list[int], size: int) -> Tensor:
    return torch.eye(size)[torch.tensor(symbols, dtype=torch.long)]


def random_cut(length: int, chance: random.Random) -> list[int]:
    """Places 0 to length, the ends and some between them twice."""
    return [0, *sorted(chance.choices(range(length + 1), k=chance.randrange(8))), length]


@pytest.mark.parametrize("lower", [False, True])
def test_pieces_are_the_tokenizers_decode_of_the_whole(lower: bool, tmp_path: Path) -> None:
    names = ["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "É", "'", "\u00a0", "SH"]
    (tmp_path / "vocab.json").write_text(json.dumps({name: place for place, name in enumerate(names)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), do_lower_case=lower)
    chance, longest = random.Random(0), 0
    for _ in range(400):
        symbols = chance.choices(
            range(len(names)), weights=[4, 0.2, 0.2, 0.2, 6, 3, 3, 1, 1, 1, 1], k=chance.randrange(25)
        )
        decoder, writer, cut = GreedyCTC(0), CTCText(tokenizer, len(names), 0), random_cut(len(symbols), chance)
        pieces = [
            writer.read(decoder.read(one_hot(symbols[start:end], len(names)))) for start, end in itertools.pairwise(cut)
        ]
        pieces.append(writer.read(decoder.finish()))
        assert "".join(pieces) == tokenizer.decode(symbols, clean_up_tokenization_spaces=False), (symbols, cut)
        longest = max(longest, len("".join(pieces)))
    assert longest > 8


def test_a_letter_is_written_at_its_first_token_and_a_space_with_the_next_letter() -> None:
    tokenizer = build_ctc_tokenizer(["ab"])  # 0 the blank, 4 the delimiter, 5 a, 6 b
    decoder, writer = GreedyCTC(0), CTCText(tokenizer, 7, 0)
    pieces = [writer.read(decoder.read(one_hot([symbol], 7))) for symbol in [4, 5, 5, 0, 5, 4, 0, 4, 6, 4]]
    assert pieces == ["", "a", "", "", "a", "", "", "", "  b", ""]


def labellings(logits: Tensor) -> dict[tuple[int, ...], float]:
    """Probability of each labelling: the sum over all V^T alignments, one by one."""
    probabilities = logits.double().softmax(-1)
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(logits.shape[1]), repeat=logits.shape[0]):
        labels = tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != 0)
        found[labels] = found.get(labels, 0.0) + math.prod(probabilities[t, s].item() for t, s in enumerate(path))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_wide_beams_are_the_search_over_all_alignments(seed: int) -> None:
    logits = 1.5 * torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    exact = labellings(logits)
    assert sum(exact.values()) == pytest.approx(1)
    best = max(exact, key=exact.__getitem__)
    for cut in ([0, 5], [0, 1, 2, 2, 5], [0, 1, 2, 3, 4, 5]):
        decoder = BeamCTC(0, beams=1000)
        symbols = [s for start, end in itertools.pairwise(cut) for s in decoder.read(logits[start:end])]
        assert decoder.score == pytest.approx(math.log(exact[best]), abs=1e-12)
        assert tuple(symbols + decoder.finish()) == best


def test_narrow_beams_miss_alignments_but_never_add_any() -> None:
    for seed in range(20):
        logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))
        exact, decoder = labellings(logits), BeamCTC(0, beams=2)
        symbols = decoder.read(logits)
        score = decoder.score
        assert score <= math.log(exact[tuple(symbols + decoder.finish())]) + 1e-12


def test_beams_find_what_the_best_path_misses() -> None:
    tokenizer = build_ctc_tokenizer(["ab"])
    probabilities = torch.full((2, 7), 1e-6)
    probabilities[:, 0], probabilities[:, 5] = 0.6, 0.4  # two blanks 0.36; "a" 0.64
    assert ctc_text(probabilities.log(), tokenizer, 0) == ""
    assert ctc_text(probabilities.log(), tokenizer, 0, beams=2) == "a"


def test_certain_symbols_of_beams_are_given_out_and_forgotten() -> None:
    generator, whole = torch.Generator().manual_seed(0), BeamCTC(0, beams=4)
    logits = 4 * torch.randn(600, 6, generator=generator)
    text = whole.read(logits) + whole.finish()
    assert len(text) > 200
    for size in (1, 7, 600):
        decoder, symbols, most = BeamCTC(0, beams=4), [], 0
        for chunk in logits.split(size):
            symbols += decoder.read(chunk)
            most = max(most, decoder.nbytes)
        assert len(text) - 32 <= len(symbols) < len(text)
        assert most <= 8 * 4 * (32 + 3)
        assert size > 1 or most > 500
        assert symbols + decoder.finish() == text


@pytest.mark.parametrize("undecided", [1, 2, 5])
def test_symbols_that_wait_for_too_long_are_decided_by_the_likeliest(undecided: int) -> None:
    wait = torch.tensor([[0.0, 0.5, 0.5 - 1e-6, 1e-6]])  # 1 or 2, and never decided by what follows
    follow = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    decoder = BeamCTC(0, 2, undecided)
    assert decoder.read((wait + 1e-12).log()) == []
    given = [decoder.read((follow + 1e-12).log()) for _ in range(6)]
    assert [bool(symbols) for symbols in given] == [turn >= undecided - 1 for turn in range(6)]
    assert [symbol for symbols in given for symbol in symbols] + decoder.finish() == [1, 3, 3, 3, 3, 3, 3]


def test_symbols_that_share_a_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "a": 9}))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    with pytest.raises(ValueError, match="tokenizer: expected a name of its own for each symbol"):
        CTCText(tokenizer, len(tokenizer), 0)
