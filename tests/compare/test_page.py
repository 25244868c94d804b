"""The page refers to nothing outside, shows every number, and is safe whatever the results hold."""

import copy
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_cases import make_results

from tokenmix.compare.formats import score_text, spread_text
from tokenmix.compare.page import write_page

HOSTILE = '</script><script>alert(1)</script><img src="http://x.org/a.png" onerror=alert(1)>"\'&{{script}}'
VOID = {"meta", "link", "img", "input", "br", "hr", "path", "use", "circle"}


class Page(HTMLParser):
    """Elements with their attributes, the text of each kind of place, and whether tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, str] = {}
        self.cells: list[str] = []
        self.inside: list[int] = []  # cells within cells
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag in ("td", "th"):
            self.inside.append(len(self.cells))
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        place = self.open[-1] if self.open else ""
        self.texts[place] = self.texts.get(place, "") + data
        if self.inside:
            self.cells[self.inside[-1]] += data


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return make_results()


@pytest.fixture(scope="module")
def text(results: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_page(results, tmp_path_factory.mktemp("page") / "new" / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


@pytest.fixture
def small(results: dict[str, Any]) -> dict[str, Any]:
    """Results without plots, which are quick to write."""
    return copy.deepcopy(results) | {"runs": [], "costs": None, "portraits": None, "tasks": {}, "summary": []}


def test_well_formed(page: Page) -> None:
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    inner = [attributes["href"] for tag, attributes in page.elements if tag in ("a", "use") and "href" in attributes]
    inner += [attributes["xlink:href"] for tag, attributes in page.elements if tag == "use"]
    assert {target[1:] for target in inner if target} <= {*ids}


def test_nothing_from_outside(page: Page) -> None:
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                assert value is not None
                assert value.startswith(("#", "data:")), (tag, name, value)
            if value and "url(" in value:
                assert re.findall(r"url\(([^)]*)\)", value) == re.findall(r"url\((#[^)]*)\)", value)
    assert "url(" not in page.texts["style"]
    assert "@import" not in page.texts["style"]
    script = page.texts["script"].split('"use strict"')[1]
    assert not re.search(r"https?:|fetch|XMLHttp|import\(|eval|innerHTML", script)
    (policy,) = [attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy.split("script-src")[1].split(";")[0]


def test_every_number_of_the_summary(results: dict[str, Any], page: Page) -> None:
    values = [float(attributes["data-value"]) for _, attributes in page.elements if attributes.get("data-value")]  # type: ignore[arg-type]
    cells = {" ".join(cell.split()) for cell in page.cells}
    for row in results["summary"]:
        for mean, spread in [(row["score"], row["spread"]), *row["cases"].values(), *row["by_learning_rate"].values()]:
            assert f"{score_text(mean)} ± {spread_text(spread)}" in cells
            assert mean in values
        assert " ".join(score_text(score) for score in row["scores"]) in cells
        assert {row["learning_rate"], row["parameters"], row["flops"], row["seconds"]} <= {*values}
        assert row["verdict"] in cells
    for about in results["tasks"].values():
        for name, value in about["references"].items():
            assert name in cells
            assert value in values


def test_every_run_has_its_command_folder_and_config(results: dict[str, Any], page: Page) -> None:
    for run in results["runs"]:
        assert run["command"] in page.texts["code"]
        assert run["folder"] in page.texts["span"]
    configs = page.texts["pre"]
    assert configs.count('"feed_forward_dim": 169') == 2  # that of attention, once a task
    assert '"task": {"task": "recall", "pairs": [4, 8, 16]}' in configs
    assert page.texts["code"].count(results["command"]) >= 3  # above, and under costs and portraits


def test_findings_costs_portraits_and_tasks(results: dict[str, Any], text: str, page: Page) -> None:
    for sentence in results["findings"]:
        assert sentence.partition(": ")[2] in page.texts["li"]
    cells = "\n".join(page.cells)
    for shown in ("out of memory: 7.1 GB asked for, 6.0 GB free", "×0.11", "33.3 kB", "2 padding", "broken"):
        assert shown in cells, shown
    assert "15 tokens back, never further" in page.texts["dd"]
    assert "23 tokens back or more" in page.texts["dd"]
    assert "it reads the future" in cells
    assert "4 (reads 8 back)" in page.texts["dd"]
    assert "at most 2274 updates" in page.texts["p"]
    assert text.count("<svg viewBox") == 4 + 2 + 2 + 6 + 2 + 4  # quality, rates, costs, curves, influence


def test_results_are_inside(results: dict[str, Any], text: str) -> None:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.S)
    assert found is not None
    assert json.loads(found[1]) == json.loads(json.dumps(results))


@pytest.mark.filterwarnings("error")
def test_hostile_names(results: dict[str, Any], tmp_path: Path) -> None:
    def poison(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {names.get(key, key): poison(value) for key, value in tree.items()}
        return (
            [poison(value) for value in tree]
            if isinstance(tree, list)
            else names.get(tree, tree)
            if isinstance(tree, str)
            else tree
        )

    names = {
        name: f"{name} {HOSTILE}" for name in ("recall", "mamba2", "best", "solved", "one of 4 values", "pairs", "x86")
    }
    bad = poison(copy.deepcopy(results))
    bad["summary"] = [row | {"cases": {}} for row in bad["summary"]]
    for about in bad["tasks"].values():
        about |= {"definition": HOSTILE, "source": HOSTILE, "metric": HOSTILE, "solved": 0.99}
    for row in bad["runs"]:
        row |= {"command": HOSTILE, "folder": HOSTILE}
    bad |= {"findings": [HOSTILE], "command": HOSTILE, "skipped": [dict.fromkeys(("task", "stack", "reason"), HOSTILE)]}
    bad["baseline"]["path"] = bad["costs"]["reference"] = HOSTILE
    bad["portraits"]["attention"]["laws"] = {
        HOSTILE: [{"number": 1, "law": HOSTILE, "status": HOSTILE, "note": HOSTILE}]
    }
    bad["config"]["protocol"][HOSTILE] = {HOSTILE: HOSTILE}
    whole = Page(text := write_page(bad, tmp_path / "bad.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in whole.elements].count("script") == 2
    assert "img" not in [tag for tag, _ in whole.elements]
    test_nothing_from_outside(whole)
    assert HOSTILE in whole.texts["li"]
    assert HOSTILE in whole.texts["code"]
    assert HOSTILE in whole.texts["text"]  # names in plots
    assert json.loads(whole.texts["script"].partition('"use strict"')[0])["findings"] == [HOSTILE]
    assert text.count('"use strict"') == 1  # {{script}} in a name is no place for the script


def test_what_is_missing(results: dict[str, Any], small: dict[str, Any], tmp_path: Path) -> None:
    def sections(given: dict[str, Any]) -> list[str | None]:
        written = Page(write_page(given, tmp_path / "small.html").read_text(encoding="utf-8"))
        return [attributes["id"] for tag, attributes in written.elements if tag == "section"]

    bare = {key: small[key] for key in ("tasks", "stacks", "runs", "summary")}
    assert sections(bare) == ["results", "method", "raw"]
    assert sections(small | {"baseline": None, "skipped": [], "findings": []}) == ["results", "method", "raw"]
    nothing = dict.fromkeys(
        ("score", "spread", "valid", "learning_rate", "parameters", "flops", "seconds", "solved_runs", "verdict")
    )
    row = results["summary"][0] | nothing | {"scores": [], "cases": {"4": [None, None]}, "by_learning_rate": {}}
    row["score"] = math.nan
    runs = [results["runs"][0] | dict.fromkeys(("valid", "test", "seconds", "flops", "parameters")) | {"history": []}]
    part = bare | {"tasks": results["tasks"], "summary": [row], "runs": runs}
    part["costs"] = {"rows": [{"stack": "attention", "length": 64, "state_bytes": None, "flops": 10}]}
    part["portraits"] = {"attention": {"influence": None, "state_growth": None}}
    assert sections(part) == ["results", "costs", "portraits", "tasks", "method", "raw"]


def test_what_failed_and_what_a_task_replaces(results: dict[str, Any], tmp_path: Path) -> None:
    changed = copy.deepcopy(results) | {"costs": None, "portraits": {"mamba2": {"error": "ValueError: no window"}}}
    changed["config"]["tasks"]["recall"]["training"] = {"steps": 77}
    changed["tasks"]["recall"]["definition"] = "First line\nof two.\n\n    k1 v1 k2\n    -  -  v1\n\nLast."
    changed["baseline"]["rows"][0]["note"] = "the same score of every seed"
    keys = ("task", "stack", "learning_rate", "seed", "parameters", "feed_forward_dim", "flops", "folder", "command")
    failed = {key: changed["runs"][0][key] for key in keys} | {"status": "failed", "error": "RuntimeError: no memory"}
    changed["runs"] = [failed, *changed["runs"][9:]]  # attention has failed on recall
    empty = dict.fromkeys(("learning_rate", "valid", "score", "spread", "seconds"))
    empty |= {"scores": [], "seeds": 0, "solved_runs": 0, "cases": {}, "by_learning_rate": {}, "verdict": "failed"}
    changed["summary"][0] |= empty
    written = Page(write_page(changed, tmp_path / "failed.html").read_text(encoding="utf-8"))
    assert "failed RuntimeError: no memory" in written.cells
    assert written.cells.count("failed") == 1  # the verdict
    assert "ValueError: no window" in written.texts["dd"]
    assert (
        written.texts["pre"].count('"steps": 77') == 4 + 2
    )  # resolved for each stack, in the task's config and in the whole
    assert "First line of two." in written.texts["p"]
    assert "k1 v1 k2\n-  -  v1" in written.texts["pre"]
    assert "within the spread the same score of every seed" in written.cells
    assert "failed (1)" in written.texts["p"]


def test_refusals(small: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="results: expected format 1, found 2"):
        write_page(small | {"format": 2}, tmp_path / "page.html")
    with pytest.raises(ValueError, match="found no runs and summary"):
        write_page({"tasks": {}, "stacks": {}}, tmp_path / "page.html")
    with pytest.raises(TypeError, match="results: expected a mapping"):
        write_page(None, tmp_path / "page.html")  # type: ignore[arg-type]
    assert not [*tmp_path.iterdir()]
