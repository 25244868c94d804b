"""What is written about separators: sounds, and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def write_sounds(folder: Path, model: Any, rows: Mapping[str, Tensor], rate: int) -> list[Path]:
    """WAV files of mixtures and of what a separator makes of them, each as loud as it can be.

    Args:
        folder: made if it is not there.
        model: a separator.
        rows: (N,) samples of mixtures by name.
        rate: samples a second.

    Returns:
        The files: <name>_mixture.wav, <name>_speaker_1.wav, <name>_speaker_2.wav and so on.

    Raises:
        ModuleNotFoundError: no `soundfile`, which the extra `speech` brings.
    """
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    training, files = model.training, []
    model.eval()
    for name, mixture in rows.items():
        sources = model(mixture[None].to(model.device)).sources[0].float().cpu()
        voices = {f"speaker_{place}": source for place, source in enumerate(sources, start=1)}
        for kind, samples in {"mixture": mixture, **voices}.items():
            files.append(folder / f"{name}_{kind}.wav")
            loud = 0.9 * samples / samples.abs().max().clamp(min=1e-8)
            soundfile.write(files[-1], loud.numpy(), rate)
    model.train(training)
    return files


def plot_separation(
    path: Path,
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    improvements: Mapping[str, Sequence[float]],
    bound: float,
) -> None:
    """Draw the loss of each model by step, and the share of test speakers above each improvement.

    Args:
        path: PNG to write.
        histories: the Trainer's log by model, with "loss" (minus the si_sdr in decibels) and "step".
        improvements: decibels of every speaker of every test mixture, by model.
        bound: mean improvement of an oracle.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, history in histories.items():
        lines = [line for line in history if "loss" in line]
        left.plot([line["step"] for line in lines], [line["loss"] for line in lines], label=name)
        found = sorted(improvements[name], reverse=True)
        right.plot(found, [place / len(found) for place in range(1, len(found) + 1)], label=name)
    for place, kind in ((0.0, "mixture"), (bound, "ideal mask, mean")):
        right.axvline(place, color="0.6", linestyle="--", linewidth=0.8)
        right.annotate(kind, (place, 1.0), rotation=90, ha="right", va="top", color="0.4", fontsize="small")
    left.set(xlabel="step", ylabel="training loss (-SI-SDR, dB)")
    right.set(xlabel="SI-SDRi (dB)", ylabel="share of test speakers above")
    left.legend()
    figure.savefig(path, dpi=120)
