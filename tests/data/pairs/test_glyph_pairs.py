"""Glyphs of real fonts: counts, splits and pixels; icons of a stand-in, and of the real package where it is."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from pair_cases import FONTS, needs_qtawesome, write_icons

from tokenmix.data.pairs import PairData, load_pairs


@pytest.fixture(scope="module")
def glyphs() -> PairData:
    return load_pairs("unicode_glyphs")


def drawn(data: PairData, caption: str) -> np.ndarray:
    return data.images[data.captions.index(caption), 0].numpy()


def test_counts_and_splits(glyphs: PairData) -> None:
    sizes = [len(part) for part in (glyphs.train, glyphs.val, glyphs.test)]
    assert sum(sizes) == len(glyphs.captions) == len(set(glyphs.captions))
    if unicodedata.unidata_version == "14.0.0":  # Python 3.11
        assert sizes == [4447, 544, 582]
    else:
        assert 5500 < len(glyphs.captions) < 5700
    assert glyphs.images.shape == (len(glyphs.captions), 1, 32, 32)
    assert f"DejaVuSans.ttf, Unicode {unicodedata.unidata_version}" in glyphs.source


def test_the_split_is_a_function_of_the_name_alone(glyphs: PairData) -> None:
    for name in ("LATIN SMALL LETTER E WITH ACUTE", "HYPHEN-MINUS", "FULL BLOCK", "GREEK SMALL LETTER ALPHA"):
        place = int(hashlib.sha1(name.encode()).hexdigest(), 16) % 10
        ids = {0: glyphs.test, 1: glyphs.val}.get(place, glyphs.train)
        assert glyphs.captions.index(name.lower().replace("-", " ")) in ids


def test_what_is_left_out(glyphs: PairData) -> None:
    for caption in ("space", "no break space", "combining acute accent", "braille pattern blank", "soft hyphen"):
        assert caption not in glyphs.captions
    assert glyphs.images.flatten(1).amax(1).min() > 0
    assert not any("-" in caption or caption != caption.lower() for caption in glyphs.captions)


def test_a_full_block_is_full_and_a_stop_is_small(glyphs: PairData) -> None:
    block = drawn(glyphs, "full block")
    rows, columns = block.any(1).nonzero()[0], block.any(0).nonzero()[0]
    inside = block[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert (inside[1:-1, 1:-1] == 255).all()  # its edge lies between pixels
    assert inside.mean() > 220
    assert inside.size > 32 * 32 / 3
    assert 0 < (drawn(glyphs, "full stop") > 127).sum() < 20


def rastered(text: str, side: int, em: int) -> np.ndarray:
    """The outline of a glyph, its box in the middle; the share of 8 x 8 points of each pixel that lie inside."""
    outline = TextPath((0, 0), text, size=em, prop=FontProperties(fname=str(FONTS / "DejaVuSans.ttf")))
    box = outline.get_extents()
    steps = (np.arange(8 * side) + 0.5) / 8
    x, y = np.meshgrid(steps - side / 2 + (box.x0 + box.x1) / 2, side / 2 - steps + (box.y0 + box.y1) / 2)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    inside = np.zeros(len(points), dtype=int)
    for polygon in outline.to_polygons():  # holes turn the other way
        from matplotlib.path import Path as Outline

        area = np.sum(polygon[:-1, 0] * polygon[1:, 1] - polygon[1:, 0] * polygon[:-1, 1])
        inside += int(np.sign(area)) * Outline(polygon).contains_points(points)
    return (inside != 0).reshape(side, 8, side, 8).mean(axis=(1, 3)) * 255


@pytest.mark.parametrize("text", ["A", "g", "8", "i", "é", "Ω", "Ж", "♥", "☃", "→"])
def test_glyphs_are_those_of_their_outlines(glyphs: PairData, text: str) -> None:
    found = drawn(glyphs, unicodedata.name(text).lower().replace("-", " ")).astype(float)
    expected = rastered(text, 32, int(32 * 0.7))
    shifted = [np.roll(expected, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]  # whole pixels are drawn
    likeness = max(np.corrcoef(found.ravel(), other.ravel())[0, 1] for other in shifted)
    assert likeness > 0.85
    assert found.sum() == pytest.approx(expected.sum(), rel=0.15)


def test_twins_look_the_same_and_accents_do_not(glyphs: PairData) -> None:
    assert np.array_equal(drawn(glyphs, "latin capital letter a"), drawn(glyphs, "greek capital letter alpha"))
    assert not np.array_equal(drawn(glyphs, "latin small letter e"), drawn(glyphs, "latin small letter e with acute"))
    numbers = {caption: int(glyphs.image_ids[i]) for i, caption in enumerate(glyphs.captions)}
    assert numbers["latin capital letter a"] == numbers["greek capital letter alpha"]
    assert len(glyphs.image_ids.unique()) == len({image.numpy().tobytes() for image in glyphs.images})


def test_other_fonts_sizes_and_folders(tmp_path: Path) -> None:
    shutil.copy(FONTS / "DejaVuSansDisplay.ttf", tmp_path / "own.ttf")
    own = load_pairs("unicode_glyphs", folder=tmp_path, font="own.ttf", size=20)
    there = load_pairs("unicode_glyphs", font="DejaVuSansDisplay.ttf", size=20)
    assert own.images.shape == (47, 1, 20, 20)
    assert torch.equal(own.images, there.images)
    assert own.captions == there.captions
    assert load_pairs("unicode_glyphs", font="DejaVuSansDisplay.ttf", size=64).images.shape[2:] == (64, 64)


def test_fonts_that_are_not_there_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"font: expected DejaVuSan.ttf in .*did you mean 'DejaVuSans.ttf'"):
        load_pairs("unicode_glyphs", font="DejaVuSan.ttf")
    with pytest.raises(FileNotFoundError, match=r"folder: unicode_glyphs expected a folder of fonts"):
        load_pairs("unicode_glyphs", folder=tmp_path / "no")
    (tmp_path / "bad.ttf").write_bytes((FONTS / "DejaVuSans.ttf").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"font: expected a font in .*bad.ttf, found"):
        load_pairs("unicode_glyphs", folder=tmp_path, font="bad.ttf")
    for size in (3, 0, -32, 32.0, True):
        with pytest.raises(ValueError, match=r"size: expected a side of at least 4 pixels, found"):
            load_pairs("unicode_glyphs", font="DejaVuSansDisplay.ttf", size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("inner", ["", "fonts", "qtawesome/fonts"])
def test_icons_of_a_folder(glyphs: PairData, tmp_path: Path, inner: str) -> None:
    write_icons(tmp_path / "wheel" / inner)
    data = load_pairs("qtawesome", folder=tmp_path / "wheel")
    assert data.captions == ["letter a", "heart shape", "letter a", "lock", "lock outline"]
    for i, caption in enumerate(["latin capital letter a", "black heart suit", "latin small letter a"]):
        assert np.array_equal(data.images[i, 0].numpy(), drawn(glyphs, caption))
    assert data.source == "first-webfont-1.2.3, second-1.2.3, split by name"
    keys = ["letter-a", "heart_shape", "letter-a", "lock", "lock-outline"]
    places = [int(hashlib.sha1(key.encode()).hexdigest(), 16) % 10 for key in keys]
    assert data.test.tolist() == [i for i, place in enumerate(places) if place == 0]
    assert data.val.tolist() == [i for i, place in enumerate(places) if place == 1]


def test_icons_split_by_first_word(tmp_path: Path) -> None:
    folder = write_icons(tmp_path / "fonts")
    names = [f"{word}-{kind}" for word in "abcdefghijklmnopqrstuvwxyz" for kind in ("bold", "light")]
    codes = {name: hex(0x100 + i) for i, name in enumerate(names)}
    (folder / "first-webfont-charmap-1.2.3.json").write_text(json.dumps(codes))
    data = load_pairs("qtawesome", folder=folder, split_by="first_word")
    words = [{data.captions[i].split()[0] for i in ids.tolist()} for ids in (data.train, data.val, data.test)]
    assert not words[0] & words[1] | words[0] & words[2] | words[1] & words[2]
    assert all(words)
    by_name = load_pairs("qtawesome", folder=folder)
    words = [{by_name.captions[i].split()[0] for i in ids.tolist()} for ids in (by_name.train, by_name.test)]
    assert words[0] & words[1]
    with pytest.raises(ValueError, match=r"split_by: expected 'name' or 'first_word', found 'word'"):
        load_pairs("qtawesome", folder=folder, split_by="word")


def test_icons_that_are_not_there_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no such file; pip install --no-deps qtawesome"):
        load_pairs("qtawesome", folder=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"found no such folder; pip install --no-deps qtawesome"):
        load_pairs("qtawesome", folder=tmp_path / "no")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"expected the package qtawesome, found none; pip install"):
        load_pairs("qtawesome")
    monkeypatch.undo()
    folder = write_icons(tmp_path / "fonts")
    (folder / "second-1.2.3.ttf").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected second-1.2.3.ttf beside .*second-charmap-1.2.3.json"):
        load_pairs("qtawesome", folder=folder)
    for content in ('{"a": "0x41"', '{"a": "xyz"}', '["a"]', '{"a": "110000"}', '{"a": 65}'):
        (folder / "first-webfont-charmap-1.2.3.json").write_text(content)
        with pytest.raises(ValueError, match=r"hexadecimal code} in .*first-webfont-charmap-1.2.3.json, found"):
            load_pairs("qtawesome", folder=folder)


def test_the_package_is_found_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_icons(tmp_path / "qtawesome" / "fonts")
    (tmp_path / "qtawesome" / "__init__.py").write_text("raise ImportError('no Qt here')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert len(load_pairs("qtawesome").captions) == 5
    assert "qtawesome" not in sys.modules


@needs_qtawesome
def test_real_icons() -> None:
    data = load_pairs("qtawesome")
    assert "qtawesome" not in sys.modules
    if "fontawesome6-solid-webfont-6.7.2" in data.source:  # qtawesome 1.4.1 and 1.4.2
        assert [len(part) for part in (data.train, data.val, data.test)] == [19673, 2480, 2453]
        assert len(set(data.captions)) == 16035
    squares = [data.images[i].float().mean() for i, caption in enumerate(data.captions) if caption == "square"]
    assert max(squares) > 80  # filled, in Font Awesome's solid font
