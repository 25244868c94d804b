"""Faults planted in memory: the tests of this folder find each of them."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_audio_formats
import test_audio_refused
import test_clip_augment
import test_clip_dataset
import test_debian_speech
import test_fsdd
import test_speech_standard

from tokenmix.data.speech import asterisk, audio, augment, dataset, fsdd, standard, tuxpaint

Fault = Callable[[pytest.MonkeyPatch], None]
Check = Callable[[Path], None]


def replace(owner: Any, name: str, value: Any) -> Fault:
    return lambda patch: patch.setattr(owner, name, value)


def wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> Fault:
    """The function `name` becomes what `make` makes of it."""
    return lambda patch: patch.setattr(owner, name, make(getattr(owner, name)))


def nearest(samples: Any, found: int, rate: int) -> Any:
    """Resampling that takes the sample before, which folds high tones back."""
    places = np.arange(-(-len(samples) * rate // found)) * found // rate
    return samples[np.minimum(places, len(samples) - 1)]


def full_mask(collate: Any) -> Any:
    return lambda items: (batch := collate(items)) | {"attention_mask": batch["attention_mask"] * 0 + 1}


def global_draw(call: Any) -> Any:
    return lambda self, samples, rate, draw: call(self, samples, rate, random)


def header_check(check: Any) -> Any:
    return lambda self, full=False: check(self)


def by_name(clips: Any) -> Any:
    """Splits by the order of clips, so that one text or stamp is in several."""
    return lambda found: clips((("train", "valid", "test")[i % 3], clip) for i, (_, clip) in enumerate(found))


official = test_fsdd.test_the_official_test_is_the_first_five_repetitions
drawn = test_clip_augment.test_what_is_drawn_depends_on_seed_epoch_and_place_only
FAULTS: dict[str, tuple[Fault, Check]] = {
    "cut-off files are read": (
        replace(audio, "cut_off", lambda source: None),
        functools.partial(test_audio_refused.test_a_bad_file_is_named_and_its_fault_too, "half_wav"),
    ),
    "no filter before a lower rate": (
        replace(audio, "resample", nearest),
        functools.partial(test_audio_formats.test_what_a_lower_rate_cannot_hold_is_not_folded_back, 44100),
    ),
    "NaN is let through": (
        replace(audio.np, "isfinite", lambda samples: np.ones(np.shape(samples), dtype=bool)),
        functools.partial(test_audio_refused.test_a_bad_file_is_named_and_its_fault_too, "nan_wav"),
    ),
    "a full check that reads headers": (
        wrap(dataset.ClipDataset, "check", header_check),
        test_clip_dataset.test_decoding_leaves_out_every_bad_file,
    ),
    "the mask covers padding": (
        wrap(test_clip_dataset, "collate", full_mask),
        test_clip_dataset.test_batches_are_padded_behind_each_row,
    ),
    "padding counts as a label": (
        replace(dataset, "IGNORED", 0),
        test_clip_dataset.test_batches_are_padded_behind_each_row,
    ),
    "augmentation draws from a global generator": (wrap(augment.Augment, "__call__", global_draw), drawn),
    "the epoch is forgotten": (replace(dataset.ClipDataset, "set_epoch", lambda self, epoch: None), drawn),
    "speeds the wrong way round": (
        replace(augment, "resample", lambda samples, found, rate: audio.resample(samples, rate, found)),
        functools.partial(test_clip_augment.test_a_faster_clip_is_shorter_and_higher, 1.25),
    ),
    "noise of another level": (
        wrap(augment, "_noise", lambda noise: lambda *arguments: 1.12 * noise(*arguments)),
        functools.partial(test_clip_augment.test_noise_is_as_loud_as_told, 10.0),
    ),
    "six test repetitions": (replace(fsdd, "OFFICIAL_TEST", 6), official),
    "remarks are read aloud": (
        replace(asterisk, "_NOT_SPOKEN", re.compile("never")),
        functools.partial(test_debian_speech.test_prompts_without_what_is_not_said, True),
    ),
    "splits by clip, not by stamp": (wrap(tuxpaint, "by_split", by_name), test_debian_speech.test_stamps_by_language),
    "a split named in a list is ignored": (
        wrap(standard, "by_split", by_name),
        test_speech_standard.test_speech_commands_equal_torchaudios_subsets,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, check = FAULTS[fault]
    check(tmp_path / "without")
    plant(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(tmp_path / "with")
