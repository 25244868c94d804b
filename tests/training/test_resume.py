"""Which checkpoint is whole, whose a folder is, and files that are written whole or not at all."""

import os
from pathlib import Path

import pytest

from tokenmix.training import claim_folder, last_complete_checkpoint, write_text


def checkpoint(folder: Path, step: int | str, state: str | None = '{"log_history": [{"step": 1}]}') -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    if state is not None:
        (path / "trainer_state.json").write_text(state)
    return path


def test_last_by_number_not_by_name(tmp_path: Path) -> None:
    checkpoint(tmp_path, 90)
    last = checkpoint(tmp_path, 100)
    checkpoint(tmp_path, 8)
    assert last_complete_checkpoint(tmp_path) == last


@pytest.mark.parametrize(
    "state",
    [None, "", '{"log_history": [', '{"log_history": [\n{"step": 1}'],
    ids=["none", "empty", "cut", "cut after a brace"],
)
def test_unfinished_checkpoints_are_removed(tmp_path: Path, state: str | None) -> None:
    whole = checkpoint(tmp_path, 10)
    unfinished = checkpoint(tmp_path, 20, state)
    other = checkpoint(tmp_path, "best", None)  # not the Trainer's
    assert last_complete_checkpoint(tmp_path) == whole
    assert not unfinished.exists()
    assert whole.exists()
    assert other.exists()


def test_no_checkpoint(tmp_path: Path) -> None:
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "nowhere") is None
    checkpoint(tmp_path, 10, None)
    assert last_complete_checkpoint(tmp_path) is None


def test_claim_again_with_the_same_config(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    claim_folder(folder, "steps: 3\n")
    claim_folder(folder, "steps: 3\n")
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]
    assert (folder / "config.yaml").read_text() == "steps: 3\n"


def test_claim_with_another_config(tmp_path: Path) -> None:
    claim_folder(tmp_path, "training:\n  steps: 3\n  seed: 0\n")
    message = r"output: .*'steps: 3'.*found 'steps: 4'; choose another --output"
    with pytest.raises(ValueError, match=message):
        claim_folder(tmp_path, "training:\n  steps: 4\n  seed: 1\n")
    with pytest.raises(ValueError, match=r"output: .*other settings; choose another --output"):
        claim_folder(tmp_path, "training:\n  steps: 3\n  seed: 0\nmore: 1\n")
    assert (tmp_path / "config.yaml").read_text() == "training:\n  steps: 3\n  seed: 0\n"


def test_claim_names_the_setting_of_json(tmp_path: Path) -> None:
    claim_folder(tmp_path, '{"stage": {"steps": 3}, "seed": 0}', "run.json")
    claim_folder(tmp_path, '{"seed": 0, "stage": {"steps": 3}}', "run.json")  # order says nothing
    with pytest.raises(ValueError, match=r"output: .* holds a run with stage.steps=3, found stage.steps=4; choose"):
        claim_folder(tmp_path, '{"stage": {"steps": 4}, "seed": 0}', "run.json")
    with pytest.raises(ValueError, match=r"holds a run with more=nothing, found more=1"):
        claim_folder(tmp_path, '{"stage": {"steps": 3}, "seed": 0, "more": 1}', "run.json")


def test_write_text_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_text(path, "é 1")
    write_text(path, "2")
    assert path.read_text(encoding="utf-8") == "2"
    assert os.listdir(path.parent) == ["b.txt"]


def test_write_text_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that is cut off anywhere leaves the old text."""
    path = tmp_path / "metrics.json"
    write_text(path, "old")

    def stop_half_way(self: Path, text: str, **options: str) -> int:
        with open(self, "w") as file:
            file.write(text[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", stop_half_way)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old"
