"""What a recipe that trained language models prints and draws."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenmix.data import Corpus, TokenBlocks
from tokenmix.training.report import RunResult, make_console, plot_losses, plot_max_logits, print_table
from tokenmix.training.score import score_baselines


def report_text(
    output: str | os.PathLike[str],
    results: Sequence[RunResult],
    columns: Mapping[str, tuple[str, str]],
    corpus: Corpus,
    train: TokenBlocks,
    test: TokenBlocks,
    baseline_bytes: int | None = None,
) -> None:
    """Draw the plots, and print the samples and the table beside n-gram baselines.

    Args:
        output: folder of the run; the plots and the counts of the n-grams are written there.
        results: of the trained models.
        columns: of the table, as in `print_table`.
        corpus: the text.
        train, test: its blocks.
        baseline_bytes: count n-grams in the first bytes of the training split only.
    """
    console, folder = make_console(), Path(output)
    ngrams = score_baselines(corpus, train, test, train_bytes=baseline_bytes, folder=folder)
    lines = {name: scores["bits_per_byte"] for name, scores in ngrams.items()}
    plot_losses(folder / "loss.png", results, lines, train.scored_bytes / train.scored_tokens)
    plot_max_logits(folder / "max_logits.png", results)
    for result in results:
        console.rule(f"sample of {result.name}")
        console.print(result.sample, markup=False, highlight=False)
    print_table(f"{corpus.name}, {test.scored_bytes:,} test bytes", results, columns, ngrams, console)
    console.print(f"Python {platform.python_version()}; {corpus.description}")
    console.print(f"Written to {folder}: config.yaml, loss.png, and for each model metrics.json and model/")
