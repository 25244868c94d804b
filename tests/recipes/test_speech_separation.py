"""The separation recipe: its rows of expected.csv, what it writes, what it refuses, and its published config."""

import json
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from recipe_cases import COMPARISONS, RECIPES, load_recipe, metrics, rows_of

from tokenmix.models.separation import MixerForSpeechSeparation
from tokenmix.training import parse_config

soundfile = pytest.importorskip("soundfile")
FOLDER = RECIPES / "speech_separation"
FSDD = Path(__file__).parents[3] / "shared" / "data" / "fsdd"
needs_fsdd = pytest.mark.skipif(not FSDD.is_dir(), reason="no copy of the Free Spoken Digit Dataset at ../shared/data")


@pytest.fixture(scope="module")
def separation() -> ModuleType:
    return load_recipe(FOLDER / "train.py")


@needs_fsdd
@pytest.mark.parametrize("row", rows_of("speech_separation"))
def test_expected(separation: ModuleType, runs: dict[Any, Path], tmp_path: Path, row: dict[str, str]) -> None:
    """A row's value is a number, or the name of another stack."""
    command = (row["config"], row["overrides"])
    if command not in runs:
        config = FOLDER / "configs" / f"{row['config']}.yaml"
        where = ["--data.folder", str(FSDD), "--output", str(tmp_path)]
        separation.main(["--config", str(config), *shlex.split(row["overrides"]), *where])
        runs[command] = tmp_path
    run, value = runs[command], row["value"]
    bound = metrics(run / value)["metrics"][row["metric"]] if (run / value).is_dir() else float(value)
    folders = [path.parent for path in run.glob("*/metrics.json")] if row["stack"] == "*" else [run / row["stack"]]
    assert folders
    for folder in folders:
        found = metrics(folder)["metrics"][row["metric"]]
        assert COMPARISONS[row["comparison"]](found, bound), f"{folder.name}: {found} {row['comparison']} {bound}"


TINY = """
mixers:
  m: {mixer: mossformer, group: 16, key_size: 8, kernel: 3}
  a: {mixer: attention, heads: 2, causal: false}
stacks: {mossformer: m, hybrid: ma}
sizes: {hybrid: {feed_forward: swiglu}}
data: {name: fsdd, rate: 8000, seconds: [0.3, 0.4], test_rows: 5}
model: {encoder_size: 16, encoder_kernel: 32, hidden_size: 8, num_hidden_layers: 2}
training: {steps: 4, batch_size: 2, warmup_steps: 2, log_steps: 2, save_steps: 50}
samples: 1
"""


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Arguments that train two tiny stacks on tones, in files named as the Free Spoken Digit Dataset's are."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    voices = tmp_path / "voices"
    voices.mkdir()
    time = np.arange(1600) / 8000
    for speaker, hertz in {"ann": 200, "bob": 450, "cas": 900, "dee": 1700}.items():
        for take in range(12):
            tone = 0.3 * np.sin(2 * np.pi * hertz * time + take)
            soundfile.write(voices / f"{take % 10}_{speaker}_{take}.wav", tone, 8000)
    where = ["--data.folder", str(voices), "--output", str(tmp_path / "run")]
    return ["--config", str(tmp_path / "tiny.yaml"), *where]


def test_what_is_written(separation: ModuleType, tiny: list[str], tmp_path: Path, capsys: Any) -> None:
    separation.main(tiny)
    printed = " ".join(capsys.readouterr().out.split())
    run = tmp_path / "run"
    baselines = json.loads((run / "baselines.json").read_text())
    assert baselines["mixture"]["si_sdr_improvement"] == 0
    assert baselines["ideal ratio mask"]["si_sdr_improvement"] > 10
    assert f"{baselines['ideal ratio mask']['si_sdr_improvement']:.2f}" in printed
    assert "4 speakers in training, 4 in the test (closed), 5 test mixtures of 8 kHz" in printed
    assert (run / "separation.png").stat().st_size > 10_000
    config, _ = parse_config(separation.Config, ["--config", str(run / "config.yaml")])
    assert config == parse_config(separation.Config, tiny)[0]
    data = separation.build_data(config.data, config.training)
    for name in ("mossformer", "hybrid"):
        found = metrics(run / name)["metrics"]
        model = MixerForSpeechSeparation.from_pretrained(run / name / "model")
        again, improvements = separation.compute_metrics(model, data.test, 3)
        for key in ("si_sdr", "si_sdr_improvement", "worst_tenth", "parameters"):
            assert again[key] == pytest.approx(found[key], abs=1e-3)
        assert len(improvements) == 2 * 5
        assert found["si_sdr_improvement"] == pytest.approx(sum(improvements) / 10, abs=1e-3)
        assert f"{found['si_sdr_improvement']:.2f}" in printed
        sounds = sorted(path.name for path in (run / name / "samples").glob("*.wav"))
        assert sounds == ["0_mixture.wav", "0_speaker_1.wav", "0_speaker_2.wav"]
    before = (run / "hybrid" / "metrics.json").read_bytes()
    separation.main(tiny)  # finished: read, not run again
    assert (run / "hybrid" / "metrics.json").read_bytes() == before


def test_every_training_row_is_new_and_no_test_clip_is_heard(separation: ModuleType, tiny: list[str]) -> None:
    config, _ = parse_config(separation.Config, tiny)
    data = separation.build_data(config.data, config.training)
    assert len(data.train) == 4 * 2
    names = [{clip.name for clips in side.by_speaker.values() for clip in clips} for side in data[:2]]
    assert not names[0] & names[1]
    config, _ = parse_config(separation.Config, [*tiny, "--data.protocol", "open"])
    data = separation.build_data(config.data, config.training)
    assert sorted(data.train.by_speaker) == ["ann", "bob"]
    assert sorted(data.test.by_speaker) == ["cas", "dee"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stacks", "{hybrid: z}"], r"pattern: expected letters of mixers .*, found \['z'\]"),
        (["--sizes", "{other: {hidden_size: 4}}"], r"sizes: expected names among stacks .*, found \['other'\]"),
        (["--sizes", "{hybrid: {widht: 4}}"], r"sizes: expected keys of model for hybrid, found \['widht'\]"),
        (["--stacks", "{}"], "stacks: expected at least one pattern to train, such as {mossformer: m}, found none"),
        (["--training.steps", "0"], "steps: expected at least 1, found 0"),
    ],
)
def test_mistakes_come_first(
    separation: ModuleType, tiny: list[str], tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        separation.main([*tiny, *options])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", sorted((FOLDER / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_build(separation: ModuleType, tmp_path: Path, path: Path) -> None:
    """Every stack of every config on the meta device; stacks that are compared have the same size within 5 %."""
    config, _ = parse_config(separation.Config, ["--config", str(path)])
    config.training.arguments(tmp_path)
    sizes = []
    for name in config.stacks:
        with torch.device("meta"):
            model = separation.build_model(config, name)
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
        sizes.append(model.num_parameters())
    assert max(sizes) < 1.05 * min(sizes)
    if path.stem == "paper":
        assert config.model.num_hidden_layers == len(model.stack.layers) == 24
        assert (model.stack.mixers[0].dim, model.stack.mixers[0].group) == (512, 256)
    assert Path(config.output).name == path.stem
