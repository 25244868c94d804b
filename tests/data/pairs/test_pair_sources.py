"""Pairs by name, sources of one's own, what an import brings along, and the data cards."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pair_cases import STAMPS, needs, needs_qtawesome

from tokenmix.data.pairs import SOURCES, PairData, load_pairs, matches, register_pairs

CARDS = Path(__file__).parents[3] / "data_cards"
CARD_OF = {"tux_paint": "tux_paint_stamps"}


def tiny(folder: Path | None, *, size: int = 32, shade: int = 7) -> PairData:
    ids = torch.arange(3)
    images = torch.full((3, 1, size, size), shade, dtype=torch.uint8)
    return PairData(f"tiny {folder}", images, ["a", "b", "c"], ids[:1], ids[1:2], ids[2:])


@pytest.fixture
def registered() -> Iterator[str]:
    register_pairs("tiny")(tiny)
    yield "tiny"
    del SOURCES["tiny"]


def test_a_source_of_ones_own(registered: str) -> None:
    data = load_pairs("tiny", folder="~/somewhere", size=8, shade=3)
    assert data.name == f"tiny {Path.home() / 'somewhere'}"
    assert data.images.shape == (3, 1, 8, 8)
    assert (data.images == 3).all()
    with pytest.raises(ValueError, match=r"name: expected a new name, found 'tiny', which is registered"):
        register_pairs("tiny")(tiny)
    with pytest.raises(ValueError, match=r"shad: not an option of the pairs 'tiny'; did you mean 'shade'\?"):
        load_pairs("tiny", shad=3)
    with pytest.raises(
        ValueError, match=r"speech: expected a source with recordings, such as 'tux_paint', found 'tiny'"
    ):
        load_pairs("tiny", speech="recorded")


def test_a_source_that_gives_something_else(registered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "tiny", lambda folder: 3)
    with pytest.raises(TypeError, match=r"name: the source 'tiny' gave int, expected PairData"):
        load_pairs("tiny")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unicode_glyph", {}, r"name: unknown pairs 'unicode_glyph'; did you mean 'unicode_glyphs'\?"),
        ("tuxpaint", {}, r"did you mean 'tux_paint'"),
        ("coco", {}, r"name: unknown pairs 'coco'; .*"),
        ("unicode_glyphs", {"fonts": "a.ttf"}, r"fonts: not an option of the pairs 'unicode_glyphs'; .*'font'\?"),
        ("unicode_glyphs", {"languages": ["en"]}, r"languages: not an option"),
        ("unicode_glyphs", {"speech": "yes"}, r"speech: expected 'none', 'espeak' or 'recorded', found 'yes'"),
    ],
)
def test_unknown_names(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_pairs(name, **options)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"drawing glyphs needs matplotlib: pip install 'tokenmix\[recipes\]'"
    ):
        load_pairs("unicode_glyphs")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "PIL.ImageFont", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"drawing glyphs needs Pillow: pip install 'tokenmix\[recipes\]'"):
        load_pairs("unicode_glyphs")


def test_an_import_brings_nothing_heavy() -> None:
    heavy = "('matplotlib', 'PIL', 'transformers', 'torchaudio', 'soundfile', 'fontTools', 'espeakng_loader', 'scipy')"
    code = f"import sys, tokenmix.data.pairs; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def printed(card: str) -> dict[str, list[str]]:
    """Rows of the card's tables, by their first cell."""
    lines = (CARDS / f"{card}.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def counted(data: PairData) -> list[str]:
    return [
        f"{len(data.captions):,}",
        f"{len(data.image_ids.unique()):,}",
        f"{len(set(data.captions)):,}",
        f"{len({word for caption in data.captions for word in caption.split()}):,}",
        " / ".join(f"{len(part):,}" for part in (data.train, data.val, data.test)),
        f"{float(matches(data, data.test).double().mean()):.4f}",
    ]


def test_every_source_has_a_card_that_is_listed() -> None:
    index = (CARDS / "README.md").read_text(encoding="utf-8")
    for name in SOURCES:
        card = CARD_OF.get(name, name)
        assert f'load_pairs("{name}"' in (CARDS / f"{card}.md").read_text(encoding="utf-8"), name
        assert f"[{card}]({card}.md)" in index, name


@pytest.mark.skipif(unicodedata.unidata_version != "14.0.0", reason="the counts of the card are of Unicode 14")
@pytest.mark.parametrize("font", ["DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf"])
def test_the_card_of_unicode_glyphs(font: str) -> None:
    data = load_pairs("unicode_glyphs", font=font)
    assert counted(data) == printed("unicode_glyphs")[font]
    if font == "DejaVuSans.ttf":
        seen = set(data.image_ids[data.train].tolist())
        twins = sum(number in seen for number in data.image_ids[data.test].tolist())
        assert f"{twins} of {len(data.test)} test pictures" in (CARDS / "unicode_glyphs.md").read_text(encoding="utf-8")


@needs_qtawesome
@pytest.mark.parametrize("split_by", ["name", "first_word"])
def test_the_card_of_qtawesome(split_by: str) -> None:
    data = load_pairs("qtawesome", split_by=split_by)
    if "fontawesome6-solid-webfont-6.7.2" not in data.source:
        pytest.skip(f"the counts of the card are of qtawesome 1.4.2, found {data.source}")
    assert counted(data) == printed("qtawesome")[f'`split_by="{split_by}"`']


@needs(STAMPS)
def test_the_card_of_tux_paint() -> None:
    rows = {language: row for language, row in printed("tux_paint_stamps").items() if len(language) == 2}
    assert len(rows) == 10
    data = load_pairs("tux_paint", languages=list(rows), speech="recorded")
    for language, row in rows.items():
        ids = torch.tensor([i for i, own in enumerate(data.languages or []) if own == language])
        place = {int(old): new for new, old in enumerate(ids)}
        parts = [
            torch.tensor([place[i] for i in part.tolist() if i in place]) for part in (data.train, data.val, data.test)
        ]
        own = PairData(language, data.images[ids], [data.captions[i] for i in ids.tolist()], *parts)
        recorded = sum(data.speech.paths[i] is not None for i in ids.tolist())  # type: ignore[union-attr]
        assert [*counted(own), str(recorded)] == row, language
