"""What a recipe that trained speech models prints and draws."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tokenmix.training.report import RunResult, make_console, print_table
from tokenmix.training.speech_data import TaskData

COLUMNS = {
    "cer": ("CER", ".3f"),
    "wer": ("WER", ".3f"),
    "parameters": ("parameters", ",.0f"),
    "train_seconds": ("train s", ",.0f"),
    "real_time_factor": ("RTF", ".4f"),
}


def report_speech(
    output: str | os.PathLike[str],
    results: Mapping[str, Sequence[RunResult]],
    data: Mapping[str, TaskData],
    baselines: Callable[[Sequence[str], Sequence[str]], Mapping[str, Mapping[str, float]]],
) -> None:
    """Print a table for each test split of each task, some transcripts, and draw the curves.

    Args:
        output: folder of the run; `curves.png` is written there.
        results: by task, of its models. Metrics of a split have its name before them: "test/cer".
        data: by task, what was trained on and tested.
        baselines: scores of trivial answers, from the training texts and the test texts.
    """
    console, folder = make_console(), Path(output)
    for task, runs in results.items():
        for result in runs:
            console.rule(f"{task}: {result.name}")
            console.print(result.sample, markup=False, highlight=False)
    for task, runs in results.items():
        for split, tests in data[task].tests.items():
            said = [clip.text for clip in tests.clips]
            shown = [_of_split(result, split) for result in runs]
            title = f"{task}, {split}: {len(tests):,} clips"
            print_table(title, shown, COLUMNS, baselines(data[task].train_texts, said), console)
        for result in runs:
            if bad := int(result.metrics.get("bad_files", 0)):
                console.print(f"{result.name}, {task}: {bad} bad files were left out of training")
    plot_curves(folder / "curves.png", results)
    console.print(f"Python {platform.python_version()}; CER, WER: wrong characters and words (jiwer), lower is better.")
    console.print("RTF: seconds of the model's work a second of audio, in batches, beside whatever else ran.")
    console.print(f"Written to {folder}: config.yaml, curves.png, and for each model and task metrics.json and model/")


def _of_split(result: RunResult, split: str) -> RunResult:
    own = {key.split("/", 1)[1]: value for key, value in result.metrics.items() if key.startswith(f"{split}/")}
    shared = {key: value for key, value in result.metrics.items() if "/" not in key}
    return RunResult(result.name, shared | own)


def write_examples(pairs: Sequence[tuple[str, str]], count: int = 5) -> str:
    """The first few different true texts, each above what was first written for it.

    Example:
        >>> print(write_examples([("one two", "on two"), ("one two", "one two")]))
        said:    one two
        written: on two
    """
    first: dict[str, str] = {}
    for said, written in pairs:
        first.setdefault(said, written)
    return "\n".join(f"said:    {said}\nwritten: {written}" for said, written in list(first.items())[:count])


def plot_curves(path: str | os.PathLike[str], results: Mapping[str, Sequence[RunResult]]) -> None:
    """Draw training loss and the validation's error rates against updates, a column of panels a task.

    Args:
        path: PNG to write.
        results: by task, of its models, with their history.
    """
    from matplotlib.figure import Figure

    keys = {"loss": "training loss", "eval_cer": "validation CER", "eval_wer": "validation WER"}
    figure = Figure(figsize=(3.6 * len(results), 7.5), layout="constrained")
    panels = figure.subplots(len(keys), len(results), squeeze=False)
    for column, (task, runs) in enumerate(results.items()):
        for row, (key, label) in enumerate(keys.items()):
            axes = panels[row][column]
            for result in runs:
                lines = [line for line in result.history if key in line]
                if lines:
                    axes.plot([line["step"] for line in lines], [line[key] for line in lines], label=result.name)
            axes.set(ylabel=label if column == 0 else "", xlabel="update" if row == len(keys) - 1 else "")
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            if row == 0:
                axes.set_title(task)
            if row == 0 and axes.lines:
                axes.legend(fontsize="small")
    figure.savefig(Path(path), dpi=110)
