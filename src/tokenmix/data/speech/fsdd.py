"""The Free Spoken Digit Dataset: <digit>_<speaker>_<repetition>.wav."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Literal

from tokenmix.data.speech.clip import file_clip
from tokenmix.data.speech.missing import require_folder
from tokenmix.data.speech.splits import Splits, by_split
from tokenmix.data.speech.texts import DIGITS

_NAME = re.compile(r"(\d)_([^_]+)_(\d+)\.(wav|flac|ogg)")
OFFICIAL_TEST = 5  # repetitions 0 to 4


def load_fsdd(
    folder: str | Path | None,
    *,
    protocol: Literal["official", "speaker"] = "official",
    left_out: str = "theo",
    valid_share: float = 0.1,
    seed: int = 0,
) -> Splits:
    """Spoken digits of six speakers.

    Args:
        folder: the data set's folder or its `recordings`, whole or a part of it.
        protocol: "official" tests repetitions 0 to 4 of every digit and speaker; "speaker" tests all clips of one who
            is not heard in training.
        left_out: that speaker.
        valid_share: share of the training clips that is taken for validation, about.
        seed: of that choice, which is made for each clip alone: a part of the set has a part of its choice.

    Raises:
        FileNotFoundError: no such folder, or no such file in it. ValueError: an unknown protocol or speaker, or a
            share that is none.
    """
    root = require_folder("fsdd", folder, "clone https://github.com/Jakobovski/free-spoken-digit-dataset")
    if (root / "recordings").is_dir():
        root = root / "recordings"
    named = [(path, match) for path in sorted(root.iterdir()) if (match := _NAME.fullmatch(path.name))]
    if not named:
        raise FileNotFoundError(f"folder: fsdd expected files such as 7_jackson_3.wav in {root}, found none")
    speakers = sorted({match[2] for _, match in named})
    if not 0 <= valid_share < 1:
        raise ValueError(f"valid_share: expected 0 or more and less than 1, found {valid_share}")
    if protocol not in ("official", "speaker"):
        raise ValueError(f"protocol: expected 'official' or 'speaker', found {protocol!r}")
    if protocol == "speaker" and left_out not in speakers:
        raise ValueError(f"left_out: expected one of {speakers}, found {left_out!r}")
    clips = []
    for path, match in named:
        test = match[2] == left_out if protocol == "speaker" else int(match[3]) < OFFICIAL_TEST
        valid = random.Random(f"{seed} {path.stem}").random() < valid_share
        split = "test" if test else "valid" if valid else "train"
        clips.append((split, file_clip(path, DIGITS[int(match[1])], match[2], "en")))
    return by_split(clips)
