"""The table, what is said of it, and what changed since: computed by hand."""

from __future__ import annotations

import copy
import random

import pytest
from summary_cases import ABOUT, results, run, three, verdicts

from tokenmix.compare.baseline import against_baseline
from tokenmix.compare.findings import find
from tokenmix.compare.summary import best_rate, beyond_spread, summarise


def test_the_rate_is_chosen_by_validation_and_the_score_is_of_the_test():
    runs = [run("a", 0.01, seed, test=0.9, valid=0.5) for seed in (0, 1)]
    runs += [run("a", 0.1, seed, test=0.6, valid=0.7) for seed in (0, 1)]
    row = results(runs)["summary"][0]
    assert (row["learning_rate"], row["score"], row["valid"]) == (0.1, 0.6, 0.7)


def test_lower_is_better_turns_everything():
    found = {"tasks": {"recall": {**ABOUT, "higher_is_better": False, "references": {"guessing": 4.0}, "solved": None}}}
    found["runs"] = [*three("a", [2.0, 2.1, 1.9]), *three("b", [3.0, 3.1, 2.9]), *three("c", [4.0, 4.2, 3.9])]
    found["summary"] = summarise(found)
    assert verdicts(found) == {"a": "best", "b": "worse", "c": "at chance"}
    assert any("a is best, 2.000 ± 0.100" in sentence for sentence in find(found))


def test_a_rate_with_a_lost_seed_is_never_chosen():
    lost = run("a", 0.1, 1, None, status="diverged")
    lost["valid"] = None
    assert best_rate({0.1: [run("a", 0.1, 0, 1.0), lost], 0.01: three("a", [0.3, 0.3])}, True) == 0.01
    assert best_rate({0.1: [lost]}, True) is None
    row = results([run("a", 0.1, 0, 1.0), lost])["summary"][0]
    assert (row["verdict"], row["score"], row["failed"]) == ("failed", None, 1)


def test_a_rate_with_more_seeds_goes_before_a_lucky_one():
    assert best_rate({0.1: [run("a", 0.1, 0, 0.95)], 0.01: three("a", [0.9, 0.9, 0.9])}, True) == 0.01


def test_verdicts():
    found = results(
        [*three("best", [0.9, 0.92, 0.91]), *three("near", [0.88, 0.93, 0.9]), *three("far", [0.5, 0.6, 0.5])]
    )
    found["runs"] += three("blind", [0.25, 0.26, 0.24])
    found["summary"] = summarise(found)
    among = {"best": "among the best", "near": "among the best"}
    assert verdicts(found) == {**among, "far": "worse", "blind": "at chance"}
    alone = [*three("best", [0.9, 0.92, 0.91]), *three("far", [0.5, 0.6, 0.5])]
    assert verdicts(results(alone)) == {"best": "best", "far": "worse"}


def test_one_seed_makes_nobody_best():
    assert verdicts(results([run("a", 0.01, 0, 0.9), run("b", 0.01, 0, 0.5)])) == {"a": "one seed", "b": "one seed"}


def test_a_look_at_the_future_is_no_measure_for_others():
    runs = [*three("cheat", [1.0, 1.0, 1.0]), *three("honest", [0.6, 0.61, 0.62])]
    found = results(runs, portraits={"cheat": {"reads_future": True, "says_causal": True}})
    assert verdicts(found) == {"cheat": "best", "honest": "worse"}
    found["tasks"] = {"recall": {**ABOUT, "needs_causal": True}}
    found["summary"] = summarise(found)
    assert verdicts(found) == {"cheat": "not counted", "honest": "best"}


def test_welch():
    stats = pytest.importorskip("scipy.stats", reason="scipy comes with scikit-learn")
    a = [1.0, 1.2, 1.4]
    for shift in (0.1, 0.3, 0.4, 0.45, 0.5, 0.6, 1.0):
        b = [value + shift for value in (1.0, 1.2, 1.4)]
        assert beyond_spread(a, b) is bool(stats.ttest_ind(a, b, equal_var=False).pvalue < 0.05), shift
    assert beyond_spread([1.0, 1.0], [1.0, 1.0]) is False
    assert beyond_spread([1.0, 1.0], [0.9999, 0.9999]) is False
    assert beyond_spread([1.0, 1.0], [0.9, 0.9]) is True


def test_equal_stacks_are_seldom_called_different():
    generator = random.Random(0)
    draw = lambda: [generator.gauss(0.5, 0.1) for _ in range(3)]  # noqa: E731
    called = sum(bool(beyond_spread(draw(), draw())) for _ in range(2000))
    assert called / 2000 < 0.06


def test_a_constant_answer_is_at_chance():
    runs = [run("constant", 0.01, seed, 0.2527, answers=1024) for seed in range(3)]
    runs += [run("reads", 0.01, seed, 0.35, answers=1024) for seed in range(3)]
    assert verdicts(results(runs)) == {"constant": "at chance", "reads": "best"}
    prior = {**ABOUT, "references": {"guessing": 0.1, "most frequent": 0.25}, "blind": "most frequent"}
    found = {"tasks": {"recall": prior}, "runs": runs}
    assert {row["stack"]: row["verdict"] for row in summarise(found)} == {"constant": "at chance", "reads": "best"}


def test_the_next_rate_serves_where_a_later_seed_diverged():
    lost = run("a", 0.1, 1, None, status="diverged")
    assert best_rate({0.1: [run("a", 0.1, 0, 0.96), lost], 0.01: [run("a", 0.01, 0, 0.95)]}, True) == 0.01


def test_a_baseline_of_other_settings_says_so():
    before, after = results(three("a", [0.5, 0.51, 0.52])), results(three("a", [0.9, 0.91, 0.92]))
    shared = {"stacks": {"a": "x"}, "mixers": {"x": {"mixer": "gam"}}, "tasks": {"recall": {}}, "model": {}}
    before["config"], after["config"] = ({**shared, "protocol": {"steps": steps}} for steps in (10, 1000))
    after["baseline"] = against_baseline(after, before, "old.json")
    assert after["baseline"]["rows"][0]["note"] == "settings: protocol.steps 10 then, 1000 now"
    assert any("not only the code differs" in sentence for sentence in find(after))


CHANGES = {
    "better": ([0.5, 0.51, 0.52], [0.9, 0.91, 0.92]),
    "worse": ([0.9, 0.91, 0.92], [0.5, 0.51, 0.52]),
    "within the spread": ([0.5, 0.6, 0.7], [0.52, 0.62, 0.7]),
    "one seed": ([0.5], [0.9]),
}


@pytest.mark.parametrize("verdict", CHANGES)
def test_baseline(verdict):
    before, after = (results(three("a", scores)) for scores in CHANGES[verdict])
    (row,) = against_baseline(after, before, "old.json")["rows"]
    assert row["verdict"] == verdict
    assert row["change"] == pytest.approx(after["summary"][0]["score"] - before["summary"][0]["score"])


def test_baseline_of_other_tasks_and_stacks():
    before = results([*three("a", [0.5, 0.5]), *three("gone", [0.5, 0.5])])
    after = copy.deepcopy(results([*three("a", [0.5, 0.5]), *three("new", [0.5, 0.5])]))
    rows = {row["stack"]: row["verdict"] for row in against_baseline(after, before, "old.json")["rows"]}
    assert rows == {"a": "within the spread", "new": "new", "gone": "gone"}
    after["tasks"]["recall"]["spec"] = {"task": "recall", "pairs": [64]}
    rows = {row["stack"]: row["verdict"] for row in against_baseline(after, before, "old.json")["rows"]}
    assert rows["a"] == "other task"
