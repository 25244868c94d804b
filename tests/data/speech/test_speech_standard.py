"""Standard folders: the same clips, texts and splits as torchaudio's own readers list, and manifests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from clip_cases import tone, write
from torchaudio.datasets import LIBRISPEECH, SPEECHCOMMANDS

from tokenmix.data.speech import Clip, ClipDataset, build_ctc_tokenizer, load_speech

SAID = ("MISTER QUILTER IS THE APOSTLE", "HE TELLS US", "DON'T LOOK", "NOR IS MISTER", "IT IS", "AT LAST")


def librispeech(folder: Path) -> Path:
    """Four subsets of two or three speakers, whose numbers sort differently as words than as numbers."""
    for s, subset in enumerate(("train-clean-100", "dev-clean", "test-clean", "test-other")):
        for speaker, chapter in ((121, 1000 + s), (1210, 90 + s), (1089, 134686)):
            place = folder / "LibriSpeech" / subset / str(speaker) / str(chapter)
            lines = []
            for number in range(3):
                name = f"{speaker}-{chapter}-{number:04d}"
                write(place / f"{name}.flac", tone(16000, 0.1 + 0.01 * number), 16000)
                lines.append(f"{name} {SAID[(number + s) % len(SAID)]}\n")
            (place / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
    return folder


def listed(clips: Iterable[Clip], root: Path) -> list[tuple[str, str, str]]:
    return sorted((str(Path(clip.name).relative_to(root)), clip.text.upper(), clip.speaker) for clip in clips)


SPLITS = {"train": "train-clean-100", "valid": "dev-clean", "test": "test-clean", "test_test-other": "test-other"}


def test_librispeech_equals_torchaudios_listing(tmp_path: Path) -> None:
    root = librispeech(tmp_path)
    found = load_speech("librispeech", root)
    assert list(found) == list(SPLITS)
    for split, subset in SPLITS.items():
        reference = LIBRISPEECH(str(root), url=subset, folder_in_archive="LibriSpeech")
        rows = [reference.get_metadata(i) for i in range(len(reference))]
        expected = sorted((str(Path("LibriSpeech") / row[0]), row[2], str(row[3])) for row in rows)
        assert len(expected) == 9
        assert listed(found[split], root) == expected
    assert [clip.seconds for clip in found["valid"][:3]] == [0.1, 0.11, 0.12]
    assert load_speech("librispeech", root / "LibriSpeech") == found


def test_librispeech_takes_other_subsets_and_names_files_that_are_missing(tmp_path: Path) -> None:
    root = librispeech(tmp_path)
    found = load_speech("librispeech", root, train=["dev-clean"], valid=[], test=["test-other"])
    assert {split: len(clips) for split, clips in found.items()} == {"train": 9, "valid": 0, "test": 9}
    gone = Path(found["test"][4].name)
    gone.unlink()
    found = load_speech("librispeech", root, train=["dev-clean"], valid=[], test=["test-other"])
    assert found["test"][4].seconds == 0
    dataset = ClipDataset(found["test"], build_ctc_tokenizer(["a"]))
    assert list(dataset.check()) == [str(gone)]
    with pytest.raises(FileNotFoundError, match=r"librispeech expected \['dev-clean-2'\].*openslr\.org/12"):
        load_speech("librispeech", root, train=["dev-clean-2"], valid=[], test=[])


def speech_commands(folder: Path) -> Path:
    root = folder / "SpeechCommands" / "speech_commands_v0.02"
    for word in ("yes", "no", "stop"):
        for speaker in ("0a7c2a8d", "1b2c", "ffd2ba2f"):
            for number in range(3):
                write(root / word / f"{speaker}_nohash_{number}.wav", tone(16000, 0.1), 16000)
    write(root / "yes" / "somebody_again.wav", tone(16000, 0.1), 16000)  # torchaudio takes no such names
    write(root / "_background_noise_" / "doing_the_dishes.wav", tone(16000, 0.5), 16000)
    (root / "testing_list.txt").write_text("yes/0a7c2a8d_nohash_0.wav\nno/ffd2ba2f_nohash_2.wav\n")
    (root / "validation_list.txt").write_text("stop/1b2c_nohash_1.wav\nno/1b2c_nohash_0.wav\n")
    return root


def test_speech_commands_equal_torchaudios_subsets(tmp_path: Path) -> None:
    root = speech_commands(tmp_path)
    found = load_speech("speech_commands", root)
    for split, subset in (("train", "training"), ("valid", "validation"), ("test", "testing")):
        reference = SPEECHCOMMANDS(str(tmp_path), subset=subset)
        rows = [reference.get_metadata(i) for i in range(len(reference))]
        expected = sorted((str(Path(row[0]).name), row[2], row[3]) for row in rows)
        assert sorted((Path(clip.name).name, clip.text, clip.speaker) for clip in found[split]) == expected
        assert {clip.name for clip in found[split]} == {str(Path(path)) for path in reference._walker}
    assert {split: len(clips) for split, clips in found.items()} == {"train": 23, "valid": 2, "test": 2}
    assert load_speech("speech_commands", tmp_path) == found  # the folder that torchaudio is given


@pytest.mark.parametrize("name", ["testing_list.txt", "validation_list.txt"])
def test_speech_commands_without_its_lists(name: str, tmp_path: Path) -> None:
    root = speech_commands(tmp_path)
    (root / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"expected {name} in .*speech_commands_v0\.02\.tar\.gz"):
        load_speech("speech_commands", root)


ROWS = [
    ("a.flac", "Hello, 3 times", "en", "train", "ann"),
    ("b.wav", "¿Qué?", "es", "valid", ""),
    ("c.ogg", "o'clock", "en", "test", "bob"),
    ("d.wav", "50 %", "en", "train", "bob"),  # nobody knows how it is read
    ("e.wav", 'so-called "quotes', "en", "test_far", "bob"),
]


def manifest(
    folder: Path, rows: Iterable[tuple[str, ...]] = ROWS, header: str = "file\ttext\tlang\tsplit\tspeaker"
) -> Path:
    for place, row in enumerate(ROWS):
        write(folder / row[0], tone(8000, 0.2 + 0.1 * place))
    (folder / "manifest.tsv").write_text(
        "\n".join([header, *("\t".join(row) for row in rows)]) + "\n", encoding="utf-8"
    )
    return folder


def test_a_manifest_is_read_as_it_is_written(tmp_path: Path) -> None:
    found = load_speech("manifest", manifest(tmp_path))
    assert {split: [(clip.text, clip.speaker, clip.language) for clip in clips] for split, clips in found.items()} == {
        "train": [("hello three times", "ann", "en")],
        "valid": [("qué", "unknown", "es")],
        "test": [("o'clock", "bob", "en")],
        "test_far": [("so called quotes", "bob", "en")],
    }
    np.testing.assert_allclose(found["test_far"][0].seconds, 0.6, atol=1e-3)
    assert found["train"][0].read(16000).shape == (3200,)
    assert sum(map(len, load_speech("manifest", tmp_path, languages=["es"]).values())) == 1


def test_a_manifest_may_name_its_sources(tmp_path: Path) -> None:
    rows = [(*row[:4], "radio" if place % 2 else "phone") for place, row in enumerate(ROWS)]
    root = manifest(tmp_path, rows, "file\ttext\tlang\tsplit\tsource")
    found = load_speech("manifest", root, sources=["phone"])
    assert [clip.speaker for clips in found.values() for clip in clips] == ["phone"] * 3


def test_manifests_that_are_wrong_say_where(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"manifest expected .*manifest\.tsv, found nothing"):
        load_speech("manifest", tmp_path)
    with pytest.raises(ValueError, match=r"expected the columns file, text, lang, split in .*found no lang"):
        load_speech("manifest", manifest(tmp_path, header="file\ttext\tlanguage\tsplit\tspeaker"))
    for broken in (("a.flac", "hello"), ("a.flac", "hello", "en", "trian", "ann"), ("a.flac", "hello", "en", "", "")):
        with pytest.raises(ValueError, match=r"line 3 of .*manifest\.tsv, found \['a\.flac', 'hello'"):
            load_speech("manifest", manifest(tmp_path, [ROWS[0], broken, ROWS[1]]))
