"""Spoken digits: both protocols, on a tiny set in the real layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from clip_cases import tone, write

from tokenmix.data.speech import Clip, load_speech
from tokenmix.data.speech.texts import DIGITS

SPEAKERS = ("george", "lucas", "theo")


def fsdd(folder: Path, repetitions: int = 9) -> Path:
    content = write(folder / "noise.wav", tone(8000, 0.05)).read_bytes()  # no clip, by its name
    for digit in range(10):
        for speaker in SPEAKERS:
            for take in range(repetitions):
                (folder / f"{digit}_{speaker}_{take}.wav").write_bytes(content)
    (folder / "README.md").write_text("not a clip")
    return folder


def take(clip: Clip) -> int:
    return int(Path(clip.name).stem.rpartition("_")[2])


def test_the_official_test_is_the_first_five_repetitions(tmp_path: Path) -> None:
    found = load_speech("fsdd", fsdd(tmp_path))
    assert len(found["test"]) == 10 * 3 * 5
    assert {take(clip) for clip in found["test"]} == {0, 1, 2, 3, 4}
    assert {take(clip) for clip in found["train"] + found["valid"]} == {5, 6, 7, 8}
    assert len(found["train"] + found["valid"]) == 10 * 3 * 4
    assert 4 <= len(found["valid"]) <= 24  # a tenth of 120, about
    names = [clip.name for clips in found.values() for clip in clips]
    assert len(set(names)) == len(names) == 270
    for clip in found["test"]:
        digit, speaker, _ = Path(clip.name).stem.split("_")
        assert (clip.text, clip.speaker, clip.language) == (DIGITS[int(digit)], speaker, "en")


@pytest.mark.parametrize("left_out", SPEAKERS)
def test_a_speaker_who_is_left_out_is_heard_in_the_test_alone(left_out: str, tmp_path: Path) -> None:
    found = load_speech("fsdd", fsdd(tmp_path), protocol="speaker", left_out=left_out)
    assert {clip.speaker for clip in found["test"]} == {left_out}
    assert len(found["test"]) == 90
    assert {clip.speaker for clip in found["train"]} == set(SPEAKERS) - {left_out}
    assert left_out not in {clip.speaker for clip in found["valid"]}


def test_the_seed_chooses_the_validation_only(tmp_path: Path) -> None:
    root = fsdd(tmp_path)
    one, again, other = (load_speech("fsdd", root, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one["valid"] != other["valid"]
    assert one["test"] == other["test"]
    part = fsdd(tmp_path / "part", 7)
    names = {Path(clip.name).name for clip in load_speech("fsdd", part)["valid"]}
    assert names == {Path(clip.name).name for clip in one["valid"] if take(clip) < 7}


def test_the_folder_may_be_the_whole_repository(tmp_path: Path) -> None:
    fsdd(tmp_path / "recordings", 2)
    assert len(load_speech("fsdd", tmp_path)["test"]) == 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "offical"}, "protocol: expected 'official' or 'speaker', found 'offical'"),
        ({"protocol": "speaker", "left_out": "nobody"}, r"left_out: expected one of \['george', 'lucas', 'theo'\]"),
        ({"valid_share": 1.0}, "valid_share: expected 0 or more"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_speech("fsdd", fsdd(tmp_path, 1), **options)


def test_nothing_there_says_what_to_clone(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=r"clone https://github\.com/Jakobovski/free-spoken-digit-dataset"):
            load_speech("fsdd", folder)
    with pytest.raises(FileNotFoundError, match=r"expected files such as 7_jackson_3\.wav in .*, found none"):
        load_speech("fsdd", tmp_path)
