"""What is said of results in words: computed by hand."""

from __future__ import annotations

import json

import pytest
from summary_cases import ABOUT, results, run, three

from tokenmix.compare.findings import find, group_findings
from tokenmix.compare.summary import summarise


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


def test_a_look_at_the_future_is_told():
    runs = three("cheat", [1.0, 1.0, 1.0])
    found = results(runs, portraits={"cheat": {"reads_future": True, "reach": 3, "reach_bounded": True}})
    found["tasks"] = {"recall": {**ABOUT, "needs_causal": True}}
    text = "\n".join(find(found))
    told = "Warning: cheat reads the future, found by trying, though its mixers say that they are causal, so its scores"
    assert f"{told} on recall are worth nothing" in text
    assert "no training can solve" not in text


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


# ---------------------------------------------------------------------- what decides, and what does not


def test_what_decides_comes_first_and_grounds_last():
    runs = [*three("wins", [1.0, 1.0, 0.995]), *three("lost", [0.5, 0.5, 0.5])]
    lost = {"lost": {"laws": {"{}": [{"number": 3, "law": "packing", "status": "broken"}]}}}
    found = find(results(runs, portraits=lost, config={"protocol": {"search": "first seed"}}))
    headings = list(group_findings(found, ["recall"]))
    assert headings == ["Warnings", "recall", "Grounds"]
    assert found[0].startswith("Warning: the mixer {} of lost breaks law 3 (packing)")
    assert group_findings(found, ["recall"])["recall"][0].startswith("wins solves it with every seed")
    assert found[-1].startswith("Grounds: the FLOPs of a forward of stacks on a task differ by at most 0.0 %")


def test_a_task_named_like_a_group_is_itself():
    assert group_findings(["Cost of it: a is best.", "Cost: b."], ["Cost of it"]) == {
        "Cost of it": ["a is best."],
        "Costs": ["b."],
    }


def test_solved_with_some_seeds_and_by_cases_is_one_sentence():
    cases = [{"2": 1.0, "4": 1.0}, {"2": 1.0, "4": 1.0}, {"2": 1.0, "4": 0.8}]
    runs = [run("a", 0.01, s, (c["2"] + c["4"]) / 2, cases=c) for s, c in enumerate(cases)]
    (sentence,) = [sentence for sentence in find(results(runs)) if "pairs 2" in sentence]
    assert "solved by a with 2 of 3 seeds; over all seeds, its mean is at that level for pairs 2, not for 4" in sentence
    never = [run("b", 0.01, s, 0.8, cases={"2": 1.0, "4": 0.6}) for s in range(3)]
    text = "\n".join(find(results(never)))
    assert "b solves it with no seed, but its mean is at that level for pairs 2, not for 4 (0.6)" in text


def test_no_difference_found_is_not_best():
    about = {**ABOUT, "solved": None}
    tied = {"tasks": {"recall": about}, "runs": [*three("a", [0.9, 0.92, 0.91]), *three("b", [0.88, 0.93, 0.9])]}
    tied["summary"] = summarise(tied)
    text = "\n".join(find(tied))
    assert "no difference found between a (0.910 ± 0.010) and b (0.903 ± 0.025)" in text
    assert " is best" not in text
    clear = {"tasks": {"recall": about}, "runs": [*three("a", [0.9, 0.92, 0.91]), *three("b", [0.5, 0.5, 0.51])]}
    clear["summary"] = summarise(clear)
    assert "recall: a is best, 0.910 ± 0.010 accuracy." in find(clear)


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ([0.3, 0.31, 0.32], "even a (0.310 ± 0.010) is barely above guessing (0.25), and far from 0.99"),
        ([0.25, 0.26, 0.24], "no better than guessing (0.25): nothing was learnt, so at these settings"),
        ([0.6, 0.61, 0.62], None),
        ([1.0, 1.0, 1.0], None),
    ],
)
def test_a_task_on_which_nothing_was_learnt_says_so(scores, told):
    text = "\n".join(find(results(three("a", scores))))
    assert ("at these settings the task tells" in text) is (told is not None)
    assert told is None or told in text


def test_barely_above_guessing_where_lower_is_better():
    about = {**ABOUT, "higher_is_better": False, "solved": None, "references": {"unigram": 4.0, "trigram": 2.0}}
    for score, expected in ((3.8, True), (3.0, False)):
        found = {"tasks": {"recall": about}, "runs": three("a", [score, score - 0.01, score + 0.01])}
        found["summary"] = summarise(found)
        assert ("barely above unigram (4), and far from 2" in "\n".join(find(found))) is expected


def test_an_edge_of_the_grid_is_told_of_those_at_chance_too():
    rates = (0.001, 0.003, 0.01)
    runs = [run("blind", rate, seed, 0.25, valid=rate) for rate in rates for seed in range(3)]
    runs += [run("solves", rate, seed, 1.0 if rate == 0.001 else 0.5) for rate in rates for seed in range(3)]
    runs += [run("inner", rate, seed, 0.8 if rate == 0.003 else 0.5) for rate in rates for seed in range(3)]
    text = "\n".join(find(results(runs)))
    assert "an edge of the grid for blind (0.01, at chance): a wider one may do better (so it is for solves" in text
    assert "inner (0.003" not in text.split("edge of the grid")[1].split("\n")[0]


def test_sizes_that_differ_name_the_task():
    more = {"recall": ABOUT, "other": ABOUT}
    runs = [*three("a", [0.5, 0.5, 0.5]), *three("b", [0.5, 0.5, 0.5])]
    runs += [{**run_, "task": "other", "flops": 1590 if run_["stack"] == "b" else 1000} for run_ in runs]
    found = {"tasks": more, "runs": runs}
    found["summary"] = summarise(found)
    assert (
        "Grounds: the FLOPs of a forward of stacks on a task differ by at most 59.0 % (on other, a the fewest and b "
        "the most)." in find(found)
    )


# ---------------------------------------------------------------------- costs


def costs(lengths, **states):
    """Costs of attention and mamba2 at some lengths; `states` are state bytes of others."""
    stacks = {"attention": (2, lambda n: 8 * n), "mamba2": (1, lambda n: 64)}
    stacks |= {name: (1, lambda n, size=size: size) for name, size in states.items()}
    rows = [
        {
            "stack": name,
            "length": n,
            "flops": n**power,
            "state_bytes": state(n),
            "forward_ratio": 0.5,
            "step_ratio": 0.1,
        }
        for name, (power, state) in stacks.items()
        for n in lengths
    ]
    growth = {
        name: {"flops": float(power), "forward_seconds": 1.1 * power, "state_bytes": float(name == "attention")}
        for name, (power, _) in stacks.items()
    }
    return {"reference": "attention", "rows": rows, "growth": growth}


LONG = (256, 512, 1024, 2048)


def test_findings_of_costs():
    found = results(three("mamba2", [1, 1, 1]), costs=costs(LONG))
    text = "\n".join(find(found))
    assert "the FLOPs of a forward grow linearly or less for mamba2 (L^1.00), faster for attention (L^2.00)" in text
    assert "State: from 256 to 2048 tokens, what is kept to decode does not grow with the length for mamba2 (64" in text
    assert "it grows for attention (16,384 bytes), at the longest" in text
    assert "a decoding step's time after 2048 tokens, with attention's as 1: mamba2 0.1." in text
    assert "how costs grow is not said" not in text
    found["costs"]["growth"]["mamba2"] = {"flops": 2.0, "forward_seconds": 2.0, "state_bytes": 0.9}
    text = "\n".join(find(found))
    assert "linearly" not in text
    assert "does not grow" not in text


@pytest.mark.parametrize("lengths", [(64, 128), (128, 256, 512, 1024), (512, 1024, 2048)])
def test_growth_is_not_told_of_few_or_short_lengths(lengths):
    text = "\n".join(find(results(three("mamba2", [1, 1, 1]), costs=costs(lengths))))
    assert "linearly or less" not in text
    assert "grows linearly" not in text
    assert "faster for" not in text
    assert f"Grounds: how costs grow is not said: they were measured at {lengths[0]}" in text


def test_growth_is_not_told_of_the_one_that_failed_early():
    found = results(three("mamba2", [1, 1, 1]), costs=costs(LONG))
    for row in found["costs"]["rows"]:
        if row["stack"] == "attention" and row["length"] > 512:
            row["error"] = "out of memory"
    text = "\n".join(find(found))
    assert "grow linearly or less for mamba2 (L^1.00)." in text
    assert "how costs of attention grow is not said: they were measured at 256 and 512 tokens" in text


@pytest.mark.parametrize("law", [{"number": 4, "law": "causality"}, {"number": 5, "law": "streaming"}])
def test_nothing_is_said_of_the_state_of_what_does_not_stream(law):
    spec = {"mixer": "my.py:Broken"}
    portraits = {"empty": {"laws": {json.dumps(spec): [{**law, "status": "broken"}]}}}
    stacks = {"empty": {"pattern": "e", "mixers": {"e": spec}}}
    more = {"costs": costs(LONG, empty=0), "portraits": portraits, "stacks": stacks}
    text = "\n".join(find(results(three("empty", [1, 1, 1]), **more)))
    assert "does not grow with the length for mamba2 (64 bytes)." in text
    assert f"State: nothing is said of empty, in state or decoding step: what breaks the law of {law['law']}" in text
    assert "a decoding step's time after 2048 tokens, with attention's as 1: mamba2 0.1." in text
    assert f"the mixer e (my.py:Broken) of empty breaks law {law['number']} ({law['law']})" in text
    portraits["empty"]["laws"][json.dumps(spec)][0]["status"] = "passed"
    assert "for mamba2 (64 bytes) and empty (0 bytes)." in "\n".join(find(results(three("empty", [1, 1, 1]), **more)))


def test_a_broken_mixer_is_told_once_whatever_stacks_it_is_in():
    spec = {"mixer": "gam", "slots": 1}
    laws = {json.dumps(spec): [{"number": 5, "law": "streaming", "status": "broken"}]}
    stacks = {name: {"pattern": f"c{name[0]}", "mixers": {"c": spec}} for name in ("attention", "linear")}
    found = results(three("attention", [1, 1, 1]), portraits={key: {"laws": laws} for key in stacks}, stacks=stacks)
    told = [sentence for sentence in find(found) if "breaks law" in sentence]
    assert told == [
        "Warning: the mixer c (gam, slots 1) of attention and linear breaks law 5 (streaming): their scores may rest "
        "on that."
    ]
