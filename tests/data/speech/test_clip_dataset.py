"""One bad file does not end a training: it is counted, named and left out, unless strict; batches of what is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_cases import BY_DECODING, BY_HEADER, TEXTS, TOKENIZER, bad_clips, clips_in, tone, write
from torch.utils.data import DataLoader

from tokenmix.data.speech import AudioError, ClipDataset, build_ctc_tokenizer, collate, file_clip
from tokenmix.models.speech import MixerForCTC, SpeechConfig


def mixed(folder: Path) -> list[Any]:
    """Good clips with one of each kind of bad ones between them."""
    good, bad = clips_in(folder / "good"), list(bad_clips(folder / "bad").values())
    return [clip for i in range(len(bad)) for clip in (good[i % len(good)], bad[i])]


def test_items_are_the_samples_and_labels_of_their_clips(tmp_path: Path) -> None:
    clips = clips_in(tmp_path)
    dataset = ClipDataset(clips, TOKENIZER, rate=16000)
    for i, clip in enumerate(clips):
        item = dataset[i]
        assert item is not None
        assert item["input_values"].dtype == torch.float32
        assert np.array_equal(item["input_values"].numpy(), clip.read(16000))
        assert TOKENIZER.decode(item["labels"], group_tokens=False) == clip.text
        assert dataset.lengths[i] == len(item["input_values"])
    assert len(dataset) == len(clips)


def test_a_look_at_headers_leaves_out_what_headers_tell(tmp_path: Path) -> None:
    dataset = ClipDataset(mixed(tmp_path), TOKENIZER, rate=8000)
    bad = dataset.check()
    assert {Path(name).name.replace(".", "_") for name in bad} == BY_HEADER
    assert all(reason.startswith(f"{name}: expected ") for name, reason in bad.items())
    assert dataset.skipped == bad
    assert len(dataset) == len(BY_HEADER | BY_DECODING) + len(BY_DECODING)
    assert dataset.check() == {}


def test_decoding_leaves_out_every_bad_file(tmp_path: Path) -> None:
    clips = mixed(tmp_path)
    dataset = ClipDataset(clips, TOKENIZER, rate=8000)
    bad = dataset.check(full=True)
    assert {Path(name).name.replace(".", "_") for name in bad} == BY_HEADER | BY_DECODING
    assert [clip.name for clip in dataset.clips] == [clip.name for clip in clips if clip.name not in bad]
    assert len(dataset.lengths) == len(dataset) == len(bad)
    assert all(dataset[i] is not None for i in range(len(dataset)))


def test_what_fails_later_is_counted_and_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = mixed(tmp_path)
    dataset = ClipDataset(clips, TOKENIZER, rate=8000)
    for _ in range(2):  # two epochs
        found = [dataset[i] for i in range(len(dataset))]
    assert [item is None for item in found] == [False, True] * (len(clips) // 2)
    assert set(dataset.skipped) == {clip.name for clip in clips[1::2]}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(clips) // 2
    for clip, line in zip(clips[1::2], lines, strict=True):
        assert clip.name in line


def test_a_file_that_vanishes_after_the_check(tmp_path: Path) -> None:
    clips = clips_in(tmp_path)
    dataset = ClipDataset(clips, TOKENIZER, rate=8000)
    assert dataset.check(full=True) == {}
    Path(clips[2].name).unlink()
    assert dataset[2] is None
    assert "found nothing there" in dataset.skipped[clips[2].name]


def test_strict_raises_at_the_first_bad_file(tmp_path: Path) -> None:
    clips = mixed(tmp_path)
    dataset = ClipDataset(clips, TOKENIZER, rate=8000, strict=True)
    with pytest.raises(AudioError, match=r"empty\.wav: expected audio"):
        dataset.check()
    with pytest.raises(AudioError, match=r"empty\.wav: expected audio"):
        dataset[1]
    assert dataset[0] is not None
    assert len(dataset) == len(clips)


def test_only_bad_audio_is_left_out(tmp_path: Path) -> None:
    """Anything else, such as a mistake in a tokenizer, must not look like a bad file."""
    broken: Any = object()
    with pytest.raises(TypeError, match="not callable"):
        ClipDataset(clips_in(tmp_path), broken, rate=8000)[0]


@pytest.mark.parametrize("full", [False, True])
def test_nothing_good_is_left_out(full: bool, tmp_path: Path) -> None:
    dataset = ClipDataset(clips_in(tmp_path), TOKENIZER, rate=8000)
    assert dataset.check(full=full) == {}
    assert len(dataset) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_with_bad_files_goes_through(workers: int, tmp_path: Path) -> None:
    clips = mixed(tmp_path)
    dataset = ClipDataset(clips, TOKENIZER, rate=8000)
    batches = list(DataLoader(dataset, batch_size=5, num_workers=workers, collate_fn=collate))
    assert sum(int(batch["attention_mask"].any(1).sum()) for batch in batches) == len(clips) // 2


def test_batches_are_padded_behind_each_row(tmp_path: Path) -> None:
    clips = clips_in(tmp_path)
    dataset = ClipDataset(clips, TOKENIZER, rate=8000)
    items = [dataset[i] for i in range(6)]
    batch = collate([items[0], None, items[5], items[2]])
    kept = [item for item in (items[0], items[5], items[2]) if item is not None]
    longest = max(len(item["input_values"]) for item in kept)
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {
        "input_values": ((3, longest), torch.float32),
        "attention_mask": ((3, longest), torch.int64),
        "labels": ((3, max(len(item["labels"]) for item in kept)), torch.int64),
    }
    for row, item in enumerate(kept):
        length, labels = len(item["input_values"]), item["labels"]
        assert torch.equal(batch["input_values"][row, :length], item["input_values"])
        assert batch["input_values"][row, length:].abs().sum() == 0
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (longest - length)
        assert batch["labels"][row].tolist() == labels + [-100] * (batch["labels"].shape[1] - len(labels))


def tiny_model() -> MixerForCTC:
    torch.manual_seed(0)
    config = SpeechConfig(
        vocab_size=len(TOKENIZER), sampling_rate=8000, num_mel_bins=12, conv_size=10, hidden_size=16,
        intermediate_size=24, mixers={"a": {"mixer": "attention", "heads": 2, "causal": False}}, pattern="aa",
    )  # fmt: skip
    return MixerForCTC(config).train()


def test_a_batch_of_bad_files_alone_trains_nothing(tmp_path: Path) -> None:
    dataset = ClipDataset(list(bad_clips(tmp_path).values()), TOKENIZER, rate=8000)
    (batch,) = DataLoader(dataset, batch_size=len(dataset), collate_fn=collate)
    model = tiny_model()
    loss = model(**batch).loss
    assert torch.isfinite(loss)
    assert loss == 0
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name


def test_a_bad_file_in_a_batch_changes_nothing_for_the_others(tmp_path: Path) -> None:
    good, bad = clips_in(tmp_path / "good", 4), bad_clips(tmp_path / "bad")["nan_wav"]
    losses = []
    for clips in (good, [*good[:2], bad, *good[2:]]):
        dataset = ClipDataset(clips, TOKENIZER, rate=8000)
        losses.append(tiny_model().eval()(**collate([dataset[i] for i in range(len(clips))])).loss)
    assert torch.equal(*losses)
    assert losses[0] > 0


def test_training_goes_on_across_bad_batches(tmp_path: Path) -> None:
    clips = [*bad_clips(tmp_path / "bad").values()][:4] + clips_in(tmp_path / "good", 4)
    dataset, model = ClipDataset(clips, TOKENIZER, rate=8000), tiny_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for batch in [*DataLoader(dataset, batch_size=4, collate_fn=collate)] * 12:
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert set(losses[::2]) == {0.0}
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[1]


def test_a_text_with_unseen_characters_is_labelled_unknown(tmp_path: Path) -> None:
    clip = file_clip(write(tmp_path / "a.wav", tone(8000)), "six ü", "ann", "en")
    item = ClipDataset([clip], build_ctc_tokenizer(TEXTS), rate=8000)[0]
    assert item is not None
    assert item["labels"][-1] == TOKENIZER.unk_token_id
    assert len(item["labels"]) == 5
