"""The table, what is said of it, and what changed since: computed by hand."""

from __future__ import annotations

import copy
import random

import pytest

from tokenmix.compare.baseline import against_baseline
from tokenmix.compare.findings import find
from tokenmix.compare.summary import best_rate, beyond_spread, summarise

ABOUT = {
    "metric": "accuracy",
    "higher_is_better": True,
    "solved": 0.99,
    "references": {"guessing": 0.25, "optimum": 1.0},
    "vary": "pairs",
    "cases": ["2", "4"],
    "spans": {"2": 3, "4": 7},
    "spec": {"task": "recall"},
}


def run(stack, rate, seed, test, valid=None, **more):
    return {
        "task": "recall",
        "stack": stack,
        "learning_rate": rate,
        "seed": seed,
        "status": "finished",
        "test": test,
        "valid": test if valid is None else valid,
        "cases": {} if test is None else {"2": min(1.0, test + 0.1), "4": test - 0.1},
        "seconds": 1.0,
        "parameters": 100,
        "flops": 1000,
        **more,
    }


def results(runs, **more):
    found = {"tasks": {"recall": ABOUT}, "runs": runs, "skipped": [], **more}
    found["summary"] = summarise(found)
    return found


def three(stack, scores, rate=0.01):
    return [run(stack, rate, seed, score) for seed, score in enumerate(scores)]


def verdicts(found):
    return {row["stack"]: row["verdict"] for row in found["summary"]}


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
    assert verdicts(found) == {"best": "best", "near": "level with the best", "far": "worse", "blind": "at chance"}


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


def test_nearly_solved_is_no_crash():
    runs = [run("a", 0.01, seed, score, cases={"2": score, "4": score}) for seed, score in enumerate([1.0, 1.0, 0.98])]
    assert any("solved by a with 2 of 3" in sentence for sentence in find(results(runs)))


def test_a_diverged_rate_counts_as_tried():
    runs = [run("a", rate, seed, 0.5 + rate) for rate in (0.001, 0.003) for seed in range(3)]
    runs += [run("a", 0.01, seed, None, status="diverged") for seed in range(3)]
    text = "\n".join(find(results(runs)))
    assert "edge of the grid" not in text
    assert "learning rates tried" not in text
    assert "failed or diverged: a on recall (3)" in text


def test_the_next_rate_serves_where_a_later_seed_diverged():
    lost = run("a", 0.1, 1, None, status="diverged")
    assert best_rate({0.1: [run("a", 0.1, 0, 0.96), lost], 0.01: [run("a", 0.01, 0, 0.95)]}, True) == 0.01


def test_a_look_at_the_future_is_told():
    runs = three("cheat", [1.0, 1.0, 1.0])
    found = results(runs, portraits={"cheat": {"reads_future": True, "reach": 3, "reach_bounded": True}})
    found["tasks"] = {"recall": {**ABOUT, "needs_causal": True}}
    text = "\n".join(find(found))
    assert "cheat reads the future, so its scores on recall are worth nothing" in text
    assert "no training can solve" not in text


def test_a_baseline_of_other_settings_says_so():
    before, after = results(three("a", [0.5, 0.51, 0.52])), results(three("a", [0.9, 0.91, 0.92]))
    shared = {"stacks": {"a": "x"}, "mixers": {"x": {"mixer": "gam"}}, "tasks": {"recall": {}}, "model": {}}
    before["config"], after["config"] = ({**shared, "protocol": {"steps": steps}} for steps in (10, 1000))
    after["baseline"] = against_baseline(after, before, "old.json")
    assert after["baseline"]["rows"][0]["note"] == "settings: protocol.steps 10 then, 1000 now"
    assert any("not only the code differs" in sentence for sentence in find(after))


def test_findings_follow_the_numbers():
    runs = [*three("wins", [1.0, 1.0, 0.995]), *three("half", [1.0, 0.5, 0.5]), *three("blind", [0.2, 0.25, 0.3])]
    portraits = {
        "blind": {"reach": 4, "reach_bounded": True, "reach_known": True},
        "wins": {"reach": 1023, "reach_bounded": False},
    }
    text = "\n".join(find(results(runs, portraits=portraits)))
    assert "wins solves it with every seed" in text
    assert "solved by half with 1 of 3" in text
    assert "blind (0.250 ± 0.050) is no better than guessing (0.25)" in text
    assert "blind reads 4 tokens back and no further, and some answers need 7 (pairs 4)" in text
    assert "only 1 learning rate tried" in text
    assert "wins reads" not in text
    worse = "\n".join(find(results([*three("wins", [0.5, 0.5, 0.5]), *three("blind", [0.2, 0.25, 0.3])])))
    assert "nothing solves it" in worse
    assert "no stack reaches optimum (1)" in worse


def test_findings_of_costs():
    rows = [
        {"stack": stack, "length": length, "flops": length**power, "state_bytes": size * length if size else 64}
        | {"forward_ratio": 0.5, "forward_bytes_ratio": None}
        for stack, power, size in (("attention", 2, 8), ("mamba", 1, 0))
        for length in (256, 512, 1024)
    ]
    growth = {
        "attention": {"flops": 2.0, "forward_seconds": 1.8, "state_bytes": 1.0},
        "mamba": {"flops": 1.0, "forward_seconds": 1.1, "state_bytes": 0.0},
    }
    text = "\n".join(
        find(results(three("mamba", [1, 1, 1]), costs={"reference": "attention", "rows": rows, "growth": growth}))
    )
    assert "the FLOPs of a forward grow linearly or less for mamba (L^1.00), faster for attention (L^2.00)" in text
    assert "does not grow with the length for mamba (64 bytes)" in text
    assert "it grows for attention (8,192 bytes), at 1024 tokens" in text
    growth["mamba"] = {"flops": 2.0, "forward_seconds": 2.0, "state_bytes": 0.9}
    text = "\n".join(
        find(results(three("mamba", [1, 1, 1]), costs={"reference": "attention", "rows": rows, "growth": growth}))
    )
    assert "linearly" not in text
    assert "does not grow" not in text


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
