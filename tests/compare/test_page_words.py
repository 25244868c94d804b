"""What the page and the console say beside the numbers: what was really run, and which numbers mean nothing."""

from __future__ import annotations

import copy
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from compare_cases import stop_drawing
from report_cases import STACKS, make_results
from rich.console import Console

from tokenmix.compare.page import write_page
from tokenmix.compare.plots import make_plots
from tokenmix.compare.report import print_tables


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return make_results()


@pytest.fixture
def results(made: dict[str, Any]) -> dict[str, Any]:
    """Results of one task, whose page is quick to write."""
    found = copy.deepcopy(made)
    for key in ("runs", "summary"):
        found[key] = [row for row in found[key] if row["task"] == "recall"]
    return found | {"tasks": {"recall": found["tasks"]["recall"]}}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    stop_drawing(monkeypatch)


def page(results: dict[str, Any], folder: Path) -> str:
    """The page without what no reader sees: markup, scripts, and the data at its end."""
    text = write_page(results, folder / "page.html").read_text(encoding="utf-8")
    text = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def printed(results: dict[str, Any], **more: Any) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    print_tables(results, console, **more)
    return console.export_text()


def break_law(results: dict[str, Any], stack: str, number: int, law: str) -> None:
    """Let each mixer of a stack break a law."""
    broken = {"number": number, "law": law, "status": "broken", "worst": 1.0, "tolerance": 0.0, "note": ""}
    laws = {json.dumps(mixer): [broken] for mixer in STACKS[stack][1].values()}
    results["portraits"][stack] = {**results["portraits"][stack], "laws": laws}


# ---------------------------------------------------------------------- what was run


def test_the_lead_counts_what_was_run_for_a_stack_and_task(results: dict[str, Any], tmp_path: Path) -> None:
    assert "36 runs, for a stack and task 3 learning rates with 3 seeds each" in page(results, tmp_path)
    fewer = [run for run in results["runs"] if run["stack"] == "hybrid" or run["learning_rate"] < 0.01]
    assert "for a stack and task up to 3 learning rates with 3 seeds each" in page(results | {"runs": fewer}, tmp_path)
    first = [run for run in results["runs"] if run["seed"] == 0 or run["learning_rate"] == 0.003]
    results["config"]["protocol"]["search"] = "first seed"
    told = "for a stack and task 3 learning rates with the first seed, and the best of them with 3 seeds"
    assert told in page(results | {"runs": first}, tmp_path)


def test_the_page_says_what_earlier_commands_made(results: dict[str, Any], tmp_path: Path) -> None:
    results["kept"] = [{"task": "recall", "stack": "mamba2"}, {"task": "recall", "stack": "hybrid"}]
    told = "made by earlier commands, each of which stands beside its run: recall: mamba2 and hybrid."
    assert told in page(results, tmp_path)


def test_findings_stand_under_headings_and_grounds_are_folded(results: dict[str, Any], tmp_path: Path) -> None:
    html = write_page(results, tmp_path / "page.html").read_text(encoding="utf-8")
    section = html.split('<section id="findings"')[1].split("</section>")[0]
    assert re.findall(r"<h3>(.*?)</h3>", section) == ["Warnings", "recall"]
    assert "<summary>Grounds: 1 thing that these rest on</summary>" in section
    assert "Grounds: sizes" not in section
    text = printed(results)
    assert [text.index(f"\n{heading}\n") for heading in ("Warnings", "recall", "Grounds")] == sorted(
        text.index(f"\n{heading}\n") for heading in ("Warnings", "recall", "Grounds")
    )


def test_the_console_prints_the_tasks_that_were_asked(made: dict[str, Any]) -> None:
    assert "text: bits/byte" in printed(made)
    assert "recall: accuracy" not in printed(made, tasks=["text"])
    assert "no difference found between hybrid" not in printed(made, tasks=["text"])


def test_flops_name_the_length_and_first_calls_are_explained(results: dict[str, Any], tmp_path: Path) -> None:
    text = page(results, tmp_path)
    assert "26 M at 64" in text
    assert "First call is the first forward at that length" in text


# ---------------------------------------------------------------------- what means nothing


@pytest.mark.parametrize(
    ("says_causal", "beside", "card"),
    [
        (True, "reads the future", "although its mixers say that they are causal"),
        (False, "reads the future, as declared", "as its mixers say"),
    ],
)
def test_a_look_at_the_future_stands_beside_the_verdict(
    results: dict[str, Any], says_causal: bool, beside: str, card: str, tmp_path: Path
) -> None:
    assert "reads the future" not in page(results, tmp_path).split("Portraits")[0]
    results["portraits"]["hybrid"] |= {"reads_future": True, "says_causal": says_causal}
    html = write_page(results, tmp_path / "page.html").read_text(encoding="utf-8")
    kind = "bad" if says_causal else "plain"
    badge = f'<span class="verdict level">among the best</span> <span class="verdict {kind}">{beside}</span>'
    assert html.count(badge) == 1
    assert card in html
    assert f"among the best, {'reads the future' if says_causal else 'reads the future as declared'}" in printed(
        results
    )


def test_state_and_step_of_what_does_not_stream_are_not_shown(results: dict[str, Any], tmp_path: Path) -> None:
    before = page(results, tmp_path)
    assert "33.3 kB" in before
    for stack in ("mamba2", "sliding window"):
        break_law(results, stack, 5, "streaming")
    text = page(results, tmp_path)
    costs = text.split("Costs by length")[1].split("Growth exponents")[0]
    assert costs.count("breaks streaming") == 2 * 5
    assert "33.3 kB" not in costs
    assert "Without state and decoding of mamba2 and sliding window, whose laws are broken." in text
    assert "breaks streaming" in printed(results)
    assert "33,280" not in printed(results)


def test_plots_of_decoding_leave_out_what_does_not_stream(results: dict[str, Any]) -> None:
    def lines() -> dict[str, int]:
        (costs,) = [plot for plot in make_plots(results) if plot.name == "costs"]
        figures = {title: costs.figure(number) for number, (title, _) in enumerate(costs.panels)}
        return {title: len(figure.axes[0].lines) for title, figure in figures.items()}

    before = lines()
    break_law(results, "mamba2", 4, "causality")
    after = lines()
    changed = {title for title in before if after[title] != before[title]}
    assert changed == {"State", "Time of one step of decoding"}
    assert all(after[title] == before[title] - 1 for title in changed)


def test_growth_of_few_lengths_is_not_shown(results: dict[str, Any], tmp_path: Path) -> None:
    assert "Growth exponents" in page(results, tmp_path)
    assert "time grows as" in printed(results)
    rows = [row for row in results["costs"]["rows"] if row["length"] <= 1024]
    results["costs"] = {**results["costs"], "rows": rows}
    assert "Growth exponents" not in page(results, tmp_path)
    assert "time grows as" not in printed(results)


def test_laws_name_the_layer_they_are_of(results: dict[str, Any], tmp_path: Path) -> None:
    text = page(results, tmp_path)
    assert "layers ma (m: mamba2, a: attention)" in text
    assert "Laws of m (mamba2, state_size 64)" in text
    assert "Laws of a (attention, heads 4)" in text
