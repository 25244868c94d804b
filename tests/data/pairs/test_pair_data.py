"""Checks of pairs, and which picture goes with which caption."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tokenmix.data.pairs import PairData, matches, pixels


def pairs(**changes: Any) -> PairData:
    """Six pairs of four pictures and five captions."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 5, 5), generator=generator, dtype=torch.uint8)[[0, 1, 0, 2, 1, 3]]
    ids = torch.arange(6)
    fields = {
        "name": "six",
        "images": images,
        "captions": ["a", "b", "c", "d", "a", "e"],
        "train": ids[:3],
        "val": ids[3:4],
        "test": ids[4:],
    }
    return PairData(**(fields | changes))


def test_equal_pictures_and_captions_have_equal_numbers() -> None:
    data = pairs()
    assert data.image_ids.tolist() == [0, 1, 0, 2, 1, 3]
    assert data.caption_ids.tolist() == [0, 1, 2, 3, 0, 4]
    assert repr(data) == "PairData('six': 6 pairs, 4 pictures of 3 x 5 x 5, 5 captions, no speech, 3/1/2)"
    turned = replace(data, images=data.images.transpose(2, 3))  # not contiguous
    assert turned.image_ids.tolist() == data.image_ids.tolist()


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4, 5], [5, 4, 1], [3], []])
def test_matches_are_the_pairs_of_the_data(ids: list[int]) -> None:
    data = pairs()
    known = {(data.images[i].numpy().tobytes(), data.captions[i]) for i in range(6)}
    expected = [[(data.images[i].numpy().tobytes(), data.captions[j]) in known for j in ids] for i in ids]
    found = matches(data, torch.tensor(ids, dtype=torch.int64))
    assert found.dtype == torch.bool
    assert found.tolist() == expected
    assert found.diagonal().all()


def test_twins_match_through_other_rows_too() -> None:
    found = matches(pairs(), torch.arange(6))
    assert found[0].tolist() == [True, False, True, False, True, False]  # its second caption, and "a" of row 4
    assert found[1].tolist() == [True, True, False, False, True, False]  # "a" goes with it in row 4
    assert found[3].tolist() == [False, False, False, True, False, False]


def test_pixels_are_bytes_over_255() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    expected = torch.arange(256, dtype=torch.float64).view(1, 1, 16, 16) / 255
    assert pixels(images).dtype == torch.float32
    assert torch.allclose(pixels(images).double(), expected, rtol=0, atol=1e-7)
    assert pixels(images[:0]).shape == (0, 1, 16, 16)
    with pytest.raises(TypeError, match=r"images: expected torch.uint8, found torch.float32"):
        pixels(pixels(images))


def test_no_pairs_are_pairs() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    data = PairData("none", torch.zeros(0, 1, 8, 8, dtype=torch.uint8), [], none, none, none)
    assert repr(data) == "PairData('none': 0 pairs, 0 pictures of 1 x 8 x 8, 0 captions, no speech, 0/0/0)"
    assert matches(data, none).shape == (0, 0)


WAVE = np.zeros(10, dtype=np.float32)
NAN = np.array([0, np.nan], dtype=np.float32)
REFUSED = {
    "float images": ({"images": torch.zeros(6, 3, 5, 5)}, TypeError, "images: expected .*uint8, found torch.float32"),
    "numpy images": ({"images": np.zeros((6, 3, 5, 5))}, TypeError, "images: .* found ndarray"),
    "two channels": ({"images": torch.zeros(6, 2, 5, 5, dtype=torch.uint8)}, ValueError, r"images: .*\(6, 2, 5, 5\)"),
    "no square": ({"images": torch.zeros(6, 3, 5, 4, dtype=torch.uint8)}, ValueError, r"images: .*\(6, 3, 5, 4\)"),
    "no channels": ({"images": torch.zeros(6, 5, 5, dtype=torch.uint8)}, ValueError, r"images: .*\(6, 5, 5\)"),
    "few captions": ({"captions": ["a"]}, ValueError, "captions: expected one for each of 6 images, found 1"),
    "blank caption": ({"captions": ["a", " ", "c", "d", "e", "f"]}, ValueError, "captions: .* found ' ' at 1"),
    "no text": ({"captions": ["a", None, "c", "d", "e", "f"]}, TypeError, "captions: .* found NoneType at 1"),
    "int32 ids": ({"val": torch.zeros(1, dtype=torch.int32)}, TypeError, "val: expected .*int64, found torch.int32"),
    "listed ids": ({"val": [3]}, TypeError, "val: expected .*int64, found list"),
    "two axes": ({"test": torch.tensor([[4, 5]])}, ValueError, r"test: expected one axis, found shape \(1, 2\)"),
    "id too high": ({"test": torch.tensor([6])}, ValueError, "test: expected ids from 0 to 5, found 6"),
    "negative id": ({"test": torch.tensor([-1])}, ValueError, "test: expected ids from 0 to 5, found -1"),
    "in two splits": ({"test": torch.tensor([5, 3])}, ValueError, "test: .* found pair 3 again"),
    "twice": ({"train": torch.tensor([2, 0, 2])}, ValueError, "train: .* found pair 2 again"),
    "few speech": ({"speech": [None]}, ValueError, "speech: expected one for each of 6 images, found 1"),
    "float64 speech": ({"speech": [None, WAVE.astype(np.float64)] + [None] * 4}, TypeError, "speech: .*float64.* at 1"),
    "stereo": ({"speech": [WAVE[:, None]] + [None] * 5}, TypeError, r"speech: .* shape \(10, 1\) at 0"),
    "a path": ({"speech": [None] * 5 + ["a.wav"]}, TypeError, "speech: .* found str at 5"),
    "nan speech": ({"speech": [None] * 4 + [NAN, None]}, ValueError, "speech: .* found NaN or infinity at 4"),
    "languages": ({"languages": ["en"] * 5}, ValueError, "languages: expected one for each of 6 images, found 5"),
    "rate": ({"sampling_rate": 0}, ValueError, "sampling_rate: .* at least 1, found 0"),
    "fractional rate": ({"sampling_rate": 8000.0}, ValueError, "sampling_rate: .* found 8000.0"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused(what: str) -> None:
    changes, kind, message = REFUSED[what]
    with pytest.raises(kind, match=re.compile(message)):
        pairs(**changes)


def test_speech_may_be_a_list_with_gaps() -> None:
    data = pairs(speech=[WAVE, None, WAVE, None, None, WAVE], sampling_rate=8000)
    assert data.speech is not None
    assert len(data.speech) == 6
    assert data.speech[1] is None
