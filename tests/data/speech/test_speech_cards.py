"""The counts, seconds and baselines in the data cards are those of the real data, where it is there."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest
from clip_cases import SHARED

from tokenmix.data.speech import Clip, load_speech, trivial_baselines
from tokenmix.data.speech.splits import Splits

CARDS = Path(__file__).parents[3] / "data_cards"
ASTERISK = ("en", "es", "fr", "it", "ru")
TUXPAINT = ("be", "bg", "ca", "da", "el", "en", "es", "fr", "ro", "ru")


def printed(card: str) -> dict[str, list[str]]:
    """Cells of the table whose rows have nine, by the first."""
    lines = (CARDS / f"{card}.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows if len(row) == 9 and re.match(r"[0-9]", row[1])}


def counted(found: Splits) -> list[str]:
    """The cells of one row, from the clips."""
    cells = []
    for split in ("train", "valid", "test"):
        cells += [f"{len(found[split]):,}", f"{sum(clip.seconds for clip in found[split]):,.1f}"]
    texts = {split: [clip.text for clip in found[split]] for split in ("train", "test")}
    scores = trivial_baselines(texts["train"], texts["test"])
    assert scores["empty"] == {"wer": 1.0, "cer": 1.0}  # as the cards say
    return [*cells, *(f"{scores['most_frequent'][kind]:.3f}" for kind in ("wer", "cer"))]


def of_language(found: Splits, language: str) -> Splits:
    return {split: [clip for clip in clips if clip.language == language] for split, clips in found.items()}


def rows_by_language(found: Splits) -> dict[str, list[str]]:
    languages = sorted({clip.language for clips in found.values() for clip in clips})
    return {**{language: counted(of_language(found, language)) for language in languages}, "all": counted(found)}


def needs(folder: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not folder.is_dir(), reason=f"no real recordings at {folder}")


def every(found: Splits) -> list[Clip]:
    return [clip for clips in found.values() for clip in clips]


@needs(SHARED / "fsdd")
def test_the_card_of_fsdd() -> None:
    folder = SHARED / "fsdd"
    rows = {"official": counted(load_speech("fsdd", folder))}
    for who in ("george", "jackson", "lucas", "nicolas", "theo", "yweweler"):
        rows[who] = counted(load_speech("fsdd", folder, protocol="speaker", left_out=who))
    assert rows == printed("fsdd")


@needs(SHARED / "asr_mini")
def test_the_card_of_asr_mini() -> None:
    found = load_speech("manifest", SHARED / "asr_mini")
    assert rows_by_language(found) == printed("asr_mini")
    assert len(every(found)) == 327
    for clip in every(found)[::11]:
        assert len(clip.read(8000)) / clip.seconds == pytest.approx(8000, rel=1e-3)


@needs(Path("/usr/share/asterisk/sounds/ru_RU_f_IvrvoiceRU"))
def test_the_card_of_asterisk() -> None:
    found = load_speech("asterisk", languages=ASTERISK)
    assert rows_by_language(found) == printed("asterisk")
    texts = {split: {(clip.language, clip.text) for clip in clips} for split, clips in found.items()}
    assert not texts["train"] & texts["test"]
    assert not texts["valid"] & texts["test"] | texts["train"] & texts["valid"]


@needs(Path("/usr/share/tuxpaint/stamps"))
def test_the_card_of_tuxpaint() -> None:
    found = load_speech("tuxpaint", languages=TUXPAINT)
    assert rows_by_language(found) == printed("tuxpaint")
    stamps = {split: {clip.name.partition("_desc")[0] for clip in clips} for split, clips in found.items()}
    assert not stamps["train"] & stamps["test"] | stamps["train"] & stamps["valid"] | stamps["valid"] & stamps["test"]


@pytest.mark.skipif(platform.python_version() != "3.11.7", reason="other docstrings than those of Python 3.11.7")
def test_the_card_of_espeak() -> None:
    pytest.importorskip("espeakng_loader", reason="no espeak-ng: pip install 'tokenmix[synth]'")
    rows = {kind: counted(load_speech("espeak", hours=5, texts=kind)) for kind in printed("espeak")}
    assert set(rows) == {"both", "sentences", "words", "numbers"}
    assert rows == printed("espeak")


def test_every_card_is_listed() -> None:
    index = (CARDS / "README.md").read_text(encoding="utf-8")
    for card in ("espeak", "fsdd", "tuxpaint", "asterisk", "asr_mini", "librispeech", "speech_commands"):
        assert f"[{card}]({card}.md)" in index
        assert (CARDS / f"{card}.md").is_file()
