"""The clips of a speech recipe's tasks, by split."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tokenmix.data.speech import Clip, ClipDataset, build_ctc_tokenizer, load_speech
from tokenmix.data.speech.dataset import name_some
from tokenmix.training.speech_config import SpeechDataConfig, SpeechTask


class TaskData(NamedTuple):
    """Data sets of one task.

    Attributes:
        train: augmented.
        valid: scored while it trains.
        tests: by split, scored at the end.
        train_texts: all texts of the training split.
        notes: what was left out, and why.
    """

    train: ClipDataset
    valid: ClipDataset
    tests: dict[str, ClipDataset]
    train_texts: list[str]
    notes: list[str]


def load_clips(data: SpeechDataConfig, seed: int) -> tuple[dict[str, list[Clip]], list[str]]:
    """The clips of a task by split, as its config limits them, and a line for what was left out.

    Args:
        data: the config.
        seed: of the shuffle that `train_clips` and `valid_clips` take the first of.

    Raises:
        ValueError, FileNotFoundError, ModuleNotFoundError: as `load_speech`, or no clip to train on or to test.
    """
    for name, least in (("train_clips", 1), ("valid_clips", 0)):
        value = getattr(data, name)
        if value is not None and (not isinstance(value, int) or value < least):
            raise ValueError(f"{name}: expected at least {least}, found {value!r}")
    splits = {name: list(clips) for name, clips in load_speech(data.name, data.folder, **data.options).items()}
    notes = []
    train = splits["train"]
    kept = [clip for clip in train if clip.seconds <= data.max_seconds]
    if len(kept) < len(train):
        notes.append(f"{len(train) - len(kept)} training clips of over {data.max_seconds:g} s are left out")
    random.Random(seed).shuffle(kept)
    splits["train"] = kept[: data.train_clips]
    valid = splits.get("valid", [])
    random.Random(seed).shuffle(valid)
    splits["valid"] = valid[: data.valid_clips]
    for name in ("train", "test"):
        if not splits.get(name):
            raise ValueError(f"data: expected clips in the split {name!r} of {data.name!r}, found none")
    heard = {clip.text for clip in splits["train"]}
    for name in (name for name in splits if name.startswith("test")):
        known = sum(clip.text in heard for clip in splits[name])
        if known:
            notes.append(f"{known} of {len(splits[name])} texts of {name} are also said in training")
    return splits, notes


def task_tokenizer(alphabet: str | None, texts: Iterable[str]) -> Any:
    """The tokenizer of all tasks.

    Args:
        alphabet: its letters; None for those of the training texts.
        texts: of training.

    Raises:
        ValueError: texts with other letters.

    Example:
        >>> task_tokenizer("ab", ["a bc"])
        Traceback (most recent call last):
        ...
        ValueError: alphabet: expected all letters of the training texts, found 'ab' without 'c'; null takes them all
    """
    letters = set().union(*map(set, texts)) - {" "}
    if alphabet is not None and (unknown := sorted(letters - set(alphabet))):
        lacking = "".join(unknown)
        raise ValueError(
            f"alphabet: expected all letters of the training texts, found {alphabet!r} without {lacking!r}; null takes "
            "them all"
        )
    return build_ctc_tokenizer(["".join(letters) if alphabet is None else alphabet])


def build_task_data(
    task: SpeechTask, splits: dict[str, list[Clip]], tokenizer: Any, rate: int, folder: Path | None = None
) -> TaskData:
    """Data sets of a task's clips, after a look at their files.

    Args:
        task: its config.
        splits: from `load_clips`.
        tokenizer: makes labels of texts.
        rate: samples a second.
        folder: where files that are left out are listed, `bad_files_<task>_<split>.tsv`.

    Raises:
        ValueError: a bad file, if the config is strict.
    """
    strict, seed = task.data.strict, task.training.seed
    notes = []

    def build(name: str, **options: Any) -> ClipDataset:
        dataset = ClipDataset(splits[name], tokenizer, rate, strict=strict, **options)
        report = None if folder is None else folder / f"bad_files_{task.name}_{name}.tsv"
        bad = dataset.check(full=task.data.check, report=report)
        if bad:
            notes.append(f"{len(bad)} bad files of {name} are left out: {name_some(bad)}")
        return dataset

    train = build("train", speeds=task.data.speeds, seed=seed)
    tests = {name: build(name) for name in splits if name.startswith("test")}
    return TaskData(train, build("valid"), tests, [clip.text for clip in splits["train"]], notes)
