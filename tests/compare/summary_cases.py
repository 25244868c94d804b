"""Runs and results that tables and sentences are computed from."""

from __future__ import annotations

from tokenmix.compare.summary import summarise

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
