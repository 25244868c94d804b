"""Asterisk's prompts and Tux Paint's stamps in tiny folders of their own layout, with the oddities of the real ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from clip_cases import tone, write

from tokenmix.data.speech import Clip, load_speech
from tokenmix.data.speech.splits import Splits, split_of

ENGLISH = {
    "hello": "Hello.",
    "digits/7": "7",
    "conf-usermenu": "Press 1 to mute, 42 to leave: don’t wait!",
    "beep": "[this is a simple beep tone]",
    "confbridge-join": "<beep ascending>",
    "silence/1": "(1 second of silence)",
    "spy-iax2": 'IAX (note: does not say "2")',
    "letters/at": "at [@]",
    "binaural": "3D audio disabled",
    "year": "in 1999",
    "what": "What now?",
    "no-wav": "Nobody recorded this.",
    "long": "A very long prompt.",
}
ITALIAN = {"ciao": "Perché no?", "perduto": "il numero ? stato", "nove": "premere 9"}


def asterisk(folder: Path, compressed: bool = True) -> Path:
    for language, texts in (("en", ENGLISH), ("it", ITALIAN)):
        for place, name in enumerate(texts):
            seconds = 13.0 if name == "long" else 0.2 + 0.01 * place
            if name != "no-wav":
                write(folder / f"{language}_XX_f_Nobody" / f"{name}.wav", tone(8000, seconds))
        lines = ["; Core sounds: a comment", "", *(f"{name}: {said}" for name, said in texts.items())]
        content = "\n".join(lines).encode()
        path = folder / f"core-sounds-{language}.txt{'.gz' if compressed else ''}"
        path.write_bytes(gzip.compress(content) if compressed else content)
    return folder


def everything(splits: Splits) -> list[Clip]:
    return [clip for clips in splits.values() for clip in clips]


@pytest.mark.parametrize("compressed", [True, False])
def test_prompts_without_what_is_not_said(compressed: bool, tmp_path: Path) -> None:
    found = load_speech("asterisk", asterisk(tmp_path, compressed))
    assert {Path(clip.name).stem: clip.text for clip in everything(found)} == {
        "hello": "hello",
        "7": "seven",
        "conf-usermenu": "press one to mute forty two to leave don't wait",
        "what": "what now",
    }
    assert {clip.speaker for clip in everything(found)} == {"asterisk-en"}
    for split, clips in found.items():
        assert all(split_of(clip.text) == split for clip in clips)


def test_languages_and_lengths(tmp_path: Path) -> None:
    root = asterisk(tmp_path)
    both = everything(load_speech("asterisk", root, languages=["en", "it"], max_seconds=14))
    assert sorted((clip.language, clip.text) for clip in both if clip.language == "it") == [("it", "perché no")]
    assert "a very long prompt" in {clip.text for clip in both}
    for wrong in (["en", "de"], "en", []):
        with pytest.raises(ValueError, match="languages: expected a list of en, es, fr, it, ru, found"):
            load_speech("asterisk", root, languages=wrong)


def test_nothing_there_says_what_to_install(tmp_path: Path) -> None:
    remedy = "apt-get install asterisk-core-sounds-fr asterisk-core-sounds-fr-wav"
    for folder in (tmp_path / "none", asterisk(tmp_path / "some")):
        if folder.name == "some":
            (folder / "core-sounds-fr.txt").write_text("oui: oui\n")  # but no sound
        with pytest.raises(FileNotFoundError, match=remedy) as error:
            load_speech("asterisk", folder, languages=["fr"])
        assert str(folder) in str(error.value)
        assert "\n" not in str(error.value)


def tuxpaint(folder: Path) -> Path:
    """Stamps with texts in several languages; some recordings have no text, some texts no recording."""
    stamps = {
        "animals/cat": ("A cat.", {"es": "Un gato", "fr": "Un chat", "ru": "Кошка"}, ("", "es", "fr", "ru", "de")),
        "animals/dog": ("A dog.", {"es": "Un perro"}, ("es", "fr")),  # no French text
        "town/shop": ("A shop with 20 windows.", {"es": "3 tiendas"}, ("", "es")),  # Spanish digits
    }
    for stamp, (english, texts, recorded) in stamps.items():
        for place, language in enumerate(recorded):
            write(folder / f"{stamp}_desc{'_' * bool(language)}{language}.ogg", tone(44100, 0.5 + 0.1 * place), 44100)
        lines = [english, *(f"{language}.utf8={text}" for language, text in texts.items()), "en_gb.utf8=Not this."]
        (folder / f"{stamp}.txt").write_text("\n".join(lines), encoding="utf-8")
    write(folder / "animals" / "alone_desc_es.ogg", tone(44100, 0.5), 44100)  # no text at all
    write(folder / "animals" / "cat.ogg", tone(44100, 0.5), 44100)  # its noise, not its name
    return folder


def test_stamps_by_language(tmp_path: Path) -> None:
    root = tuxpaint(tmp_path)

    def texts(*languages: str) -> list[tuple[str, str]]:
        found = load_speech("tuxpaint", root, languages=languages)
        for split, clips in found.items():
            for clip in clips:
                stamp = Path(clip.name).relative_to(root).as_posix().partition("_desc")[0]
                assert split_of(stamp) == split  # one stamp, one split, in every language
        return sorted((clip.language, clip.text) for clip in everything(found))

    assert texts("en") == [("en", "a cat"), ("en", "a shop with twenty windows")]
    assert texts("es") == [("es", "un gato"), ("es", "un perro")]
    assert texts("fr", "ru") == [("fr", "un chat"), ("ru", "кошка")]
    with pytest.raises(FileNotFoundError, match=r"recordings in da in .*; apt-get install tuxpaint-stamps-default"):
        texts("da")
    for wrong in (["de"], "es", []):
        with pytest.raises(ValueError, match=r"languages: expected a list of be, .*, found"):
            load_speech("tuxpaint", root, languages=wrong)


def test_stamps_of_the_right_length_and_broken_ones(tmp_path: Path) -> None:
    root = tuxpaint(tmp_path)
    assert len(everything(load_speech("tuxpaint", root, languages=["es", "fr"], min_seconds=0.55))) == 2
    assert len(everything(load_speech("tuxpaint", root, languages=["es", "fr"], max_seconds=0.55))) == 1
    (root / "animals" / "cat_desc_es.ogg").write_bytes(b"no ogg")
    broken = [clip for clip in everything(load_speech("tuxpaint", root)) if clip.seconds == 0]
    assert [clip.text for clip in broken] == ["un gato"]  # stays, so that a check can name it


def test_a_folder_with_a_manifest(tmp_path: Path) -> None:
    stamps = [
        {"key": "a__b", "caption": {"es": "Un pato", "en": "A drake"}, "split": "train"},
        {"key": "c__d", "caption": {"es": "Una rana", "fr": "Une grenouille"}, "split": "test"},
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(stamps))
    for name in ("a__b.es", "c__d.es", "c__d.fr"):
        write(tmp_path / f"{name}.ogg", tone(44100, 0.5), 44100)
    found = load_speech("tuxpaint", tmp_path, languages=["es", "fr"])
    assert {split: [clip.text for clip in clips] for split, clips in found.items()} == {
        "train": ["un pato"],
        "valid": [],
        "test": ["una rana", "une grenouille"],
    }


def test_a_missing_folder_of_stamps(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found nothing at .*none; apt-get install tuxpaint-stamps-default"):
        load_speech("tuxpaint", tmp_path / "none")
