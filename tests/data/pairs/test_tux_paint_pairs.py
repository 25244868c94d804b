"""Stamps of Tux Paint: stand-ins in Debian's layout, the held-out triples, and Debian's package where it is."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pair_cases import MINI, STAMPS, needs, picture, write_stamps
from PIL import Image

from tokenmix.data.pairs import PairData, load_pairs
from tokenmix.data.speech import AudioError


def tone(path: Path, rate: int = 44100, seconds: float = 0.5) -> Path:
    soundfile.write(path, 0.5 * np.sin(np.arange(int(rate * seconds)) * 0.05), rate)
    return path


def test_captions_by_language(tmp_path: Path) -> None:
    root = write_stamps(tmp_path)
    assert load_pairs("tux_paint", folder=root).captions == ["A box.", "One."]
    both = load_pairs("tux_paint", folder=root, languages=["fr", "en"])
    assert both.captions == ["Une  boîte\u2028.", "A box.", "One."]
    assert both.languages == ["fr", "en", "en"]
    assert both.image_ids.tolist() == [0, 0, 0]
    for wrong in (["pt_BR"], ["de"], "es", []):
        with pytest.raises(ValueError, match=r"languages: expected a list of en, es, fr, found"):
            load_pairs("tux_paint", folder=root, languages=wrong)


def test_splits_by_file_name(tmp_path: Path) -> None:
    root = tmp_path / "stamps"
    for i in range(30):
        picture(root / f"kind{i % 3}/stamp{i}.png")
        (root / f"kind{i % 3}/stamp{i}.txt").write_text(f"Stamp {i}.\nes.utf8=Sello {i}.\n")
    data = load_pairs("tux_paint", folder=root, languages=["en", "es"])
    split = {0: "test", 1: "val"}
    for name in ("train", "val", "test"):
        for i in getattr(data, name).tolist():
            number = data.captions[i].split()[1].strip(".")
            place = int(hashlib.sha1(f"stamp{number}.png".encode()).hexdigest(), 16) % 10
            assert split.get(place, "train") == name
    assert len(data.train) + len(data.val) + len(data.test) == 60


def test_stamps_are_padded_with_white_and_composited(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 4), dtype=np.uint8)
    pixels[:, :20] = (255, 0, 0, 255)
    pixels[:, 20:] = (0, 0, 255, 0)  # transparent: white
    Image.fromarray(pixels).save(tmp_path / "half.png")
    (tmp_path / "half.txt").write_text("A half.\n")
    image = load_pairs("tux_paint", folder=tmp_path, size=40).images[0]
    assert image.shape == (3, 40, 40)
    assert (image[:, :9] == 255).all()
    assert (image[:, 31:] == 255).all()
    assert image[:, 20, 5].tolist() == [255, 0, 0]
    assert image[:, 20, 35].tolist() == [255, 255, 255]


def test_recordings(tmp_path: Path) -> None:
    root = write_stamps(tmp_path)
    tone(root / "toys/box_desc.ogg", 22050)
    tone(root / "toys/box_desc_es.wav", 44100, 0.25)
    tone(root / "toys/box_desc_de.ogg")  # in no language of its captions
    data = load_pairs("tux_paint", folder=root, languages=["en", "es"], speech="recorded", sampling_rate=8000)
    assert data.captions == ["A box.", "Una caja.", "One."]
    assert data.speech is not None
    assert data.sampling_rate == 8000
    assert [None if said is None else len(said) for said in (data.speech[i] for i in range(3))] == [4000, 2000, None]
    assert load_pairs("tux_paint", folder=root).speech is None
    with pytest.raises(ValueError, match=r"recordings in fr, found none in .*; there are some in en \(1\), es \(1\)"):
        load_pairs("tux_paint", folder=root, languages=["fr"], speech="recorded")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    root = write_stamps(tmp_path)
    tone(root / "toys/box_desc.ogg").write_bytes(b"no audio")
    data = load_pairs("tux_paint", folder=root, speech="recorded")
    assert data.speech is not None
    with pytest.raises(AudioError, match=r"box_desc.ogg: expected audio"):
        data.speech[0]
    whole = (root / "toys/box.png").read_bytes()
    (root / "toys/box.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"images: expected pictures that Pillow reads, found 1 of 2: .*box.png \("):
        load_pairs("tux_paint", folder=root)
    (root / "toys/box.txt").write_bytes(b"A box.\nes.utf8=\xff\xfe\n")
    with pytest.raises(ValueError, match=r"expected captions in UTF-8 in .*box.txt"):
        load_pairs("tux_paint", folder=root)


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected stamps .*found none; apt-get install tuxpaint-stamps-def"):
        load_pairs("tux_paint", folder=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"folder: tux_paint expected a folder.*apt-get install tuxpaint-sta"):
        load_pairs("tux_paint", folder=tmp_path / "no")
    for content in ("[{", '[{"key": "a"}]', '[{"key": "a", "split": "train", "caption": 3}]', "[3]"):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(ValueError, match=r"expected stamps with key, caption and split in .*manifest.json, found"):
            load_pairs("tux_paint", folder=tmp_path)
    entry = {"key": "gone", "caption": {"en": "Gone."}, "split": "train"}
    (tmp_path / "manifest.json").write_text(json.dumps([entry]))
    with pytest.raises(FileNotFoundError, match=r"images: expected picture files, found nothing at 1 of 1: .*gone.png"):
        load_pairs("tux_paint", folder=tmp_path)


@needs(MINI)
def test_the_held_out_triples() -> None:
    data = load_pairs("tux_paint", folder=MINI, languages=["es", "fr"], speech="recorded", sampling_rate=16000)
    listed = {stamp["key"]: stamp for stamp in json.loads((MINI / "manifest.json").read_text(encoding="utf-8"))}
    assert len(listed) == 80
    assert len(data.captions) == 160
    assert len(data.image_ids.unique()) == 80
    assert [len(part) for part in (data.train, data.val, data.test)] == [120, 22, 18]
    expected = [stamp["caption"][language] for stamp in listed.values() for language in ("es", "fr")]
    assert data.captions == expected
    assert data.speech is not None
    keys = [key for key in listed for _ in range(2)]
    for i in range(len(data.captions)):
        said = data.speech[i]
        assert said is not None
        assert said.dtype == np.float32
        info = soundfile.info(MINI / f"{keys[i]}.{('es', 'fr')[i % 2]}.ogg")
        assert len(said) == -(-info.frames * 16000 // info.samplerate)
    languages = load_pairs("tux_paint", folder=MINI, languages=["en", "de", "es", "fr", "it", "ru"]).languages
    assert Counter(languages) == {"en": 80, "de": 80, "es": 80, "fr": 80, "ru": 80, "it": 79}


@needs(MINI)
def test_the_held_out_splits_follow_the_rule() -> None:
    for stamp in json.loads((MINI / "manifest.json").read_text(encoding="utf-8")):
        place = int(hashlib.sha1(f"{stamp['key'].split('__')[-1]}.png".encode()).hexdigest(), 16) % 10
        assert {0: "test", 1: "valid"}.get(place, "train") == stamp["split"]


@needs(MINI)
def test_pictures_keep_their_mean_colour() -> None:
    data = load_pairs("tux_paint", folder=MINI, languages=["en"], size=32)
    stamps = json.loads((MINI / "manifest.json").read_text(encoding="utf-8"))
    for i, stamp in enumerate(stamps[::8]):
        pixels = np.asarray(Image.open(MINI / f"{stamp['key']}.png").convert("RGBA"), dtype=np.float64)
        height, width, _ = pixels.shape
        shown = pixels[..., :3] * pixels[..., 3:] / 255 + 255 - pixels[..., 3:]
        white = max(height, width) ** 2 - height * width
        mean = (shown.sum(axis=(0, 1)) + 255 * white) / max(height, width) ** 2
        found = data.images[8 * i].double().mean(dim=(1, 2)).numpy()
        assert found == pytest.approx(mean, abs=4)


@pytest.fixture(scope="module")
def debian() -> PairData:
    return load_pairs("tux_paint", languages=["en", "es"], speech="recorded")


@needs(STAMPS)
def test_the_stamps_of_debian(debian: PairData) -> None:
    assert debian.speech is not None
    assert Counter(debian.languages) == {"en": 785, "es": 785}
    assert [len(part) for part in (debian.train, debian.val, debian.test)] == [2 * 618, 2 * 91, 2 * 76]
    assert len(debian.image_ids.unique()) == 784
    assert sum(path is not None for path in debian.speech.paths) == 65 + 741  # type: ignore[attr-defined]


@needs(STAMPS)
@needs(MINI)
def test_the_held_out_triples_are_debians(debian: PairData) -> None:
    mini = load_pairs("tux_paint", folder=MINI, languages=["en", "es"], speech="recorded")
    places = {(debian.captions[i], int(debian.image_ids[i])): i for i in range(len(debian.captions))}
    pictures = {
        image.numpy().tobytes(): int(number) for image, number in zip(debian.images, debian.image_ids, strict=True)
    }
    for i, caption in enumerate(mini.captions):
        same = places[caption, pictures[mini.images[i].numpy().tobytes()]]
        if mini.languages[i] == "es" and i % 20 == 1:
            assert np.array_equal(mini.speech[i], debian.speech[same])
    assert torch.equal(mini.images[::2], mini.images[1::2])


def test_a_copy_without_the_text_is_no_stamp(tmp_path: Path) -> None:
    root = write_stamps(tmp_path / "a")
    shutil.copy(root / "toys/box.png", root / "toys/untold.png")
    (root / "toys/silent.txt").write_text("\n")
    picture(root / "toys/silent.png")
    assert load_pairs("tux_paint", folder=root).captions == ["A box.", "One."]
