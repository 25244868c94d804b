"""Parts of a comparison's page: plots, portraits, tasks, what was skipped, and how it was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenmix.compare.formats import bytes_text, count_text, known, listed, number_text, score_text
from tokenmix.compare.markup import Column, body, cell, config, esc, number, origin, pairs, prose, stack_name, table
from tokenmix.compare.page_tables import verdict
from tokenmix.compare.plot_parts import Plot, stack_styles, svg_text
from tokenmix.compare.plots import influence, make_plots
from tokenmix.compare.trust import mixer_name, reads_future

Results = Mapping[str, Any]
_LAWS = {"passed": "good", "broken": "bad", "not claimed": "plain", "not run": "plain"}
_BUDGET = {  # how the protocol makes stacks equal
    "parameters": "The inner width of the feed-forwards is set so that parameters are nearly as many as in {reference}",
    "flops": "The inner width of the feed-forwards is set so that a forward takes nearly the FLOPs of {reference}",
    "none": "Stacks are as large as the config says: nothing is held equal",
}
_PROTOCOL = {  # what a key of the protocol means
    "steps": "A run takes at most {} updates",
    "batch_size": "an update sees {} rows",
    "warmup_steps": "the learning rate rises over {} updates, then falls",
    "weight_decay": "weight decay is {}",
    "clip": "the norm of the gradient is held to {}",
    "evaluate_every": "a model is scored every {} updates",
    "valid_rows": "on {} validation rows of each case",
    "test_rows": "and at its end on {} test rows of each case",
}


def plots_section(results: Results) -> str:
    """All plots but the pictures of influence, each panel an inline drawing."""
    parts = []
    for plot in make_plots(results):
        if plot.name == "influence":  # stands in the portraits
            continue
        legend = "".join(f"<li>{stack_name(name, plot.styles)}</li>" for name in plot.styles)
        pictures = "".join(_picture(plot, i) for i in range(len(plot.panels)))
        grid = "plots even" if len(plot.panels) == 4 else "plots"
        head = f'<h3>{esc(plot.title)}</h3><p class="note">{esc(plot.caption)}</p>'
        parts.append(f'{head}<ul class="legend">{legend}</ul><div class="{grid}">{pictures}</div>')
    return "".join(parts)


def _picture(plot: Plot, panel: int, caption: bool = True) -> str:
    title = plot.panels[panel][0]
    above = f"<figcaption>{esc(title)}</figcaption>" if caption else ""
    drawn = svg_text(plot.figure(panel), f"{plot.name}-{panel}", f"{plot.title}: {title}")
    return f"<figure>{above}{drawn}</figure>"


def portraits_section(results: Results) -> str:
    """A card for each stack: what it reads, its reach and state, a picture of its influence, and its mixers' laws."""
    portraits, pictures = results.get("portraits") or {}, influence(results)
    places = {name: i for i, (name, _) in enumerate(pictures.panels)}
    cards = []
    for stack, portrait in portraits.items():
        reach, bounded = portrait.get("reach"), portrait.get("reach_bounded")
        further = "tokens back, never further" if bounded else "tokens back or more: no end was found"
        per_token = portrait.get("state_bytes_per_token")
        facts = {
            "layers": esc(_layers(results, stack)),
            "reads the future": _future(results, stack),
            "reach": f"{count_text(reach)} {further}" if known(reach) else "–",
            "state": esc(portrait.get("state_growth") or "none")
            + (f", {bytes_text(per_token)} a token" if known(per_token) and per_token else ""),
        }
        if portrait.get("error"):
            facts["error"] = f"{verdict('failed', {'failed': 'bad'})} {esc(portrait['error'])}"
        laws = "".join(
            _laws(mixer_name(results, stack, mixer), laws) for mixer, laws in (portrait.get("laws") or {}).items()
        )
        picture = _picture(pictures, places[stack], caption=False) if stack in places else ""
        name = stack_name(stack, stack_styles(results))
        facts = {key: value for key, value in facts.items() if value}
        cards.append(f'<article class="card"><h3>{name}</h3>{pairs(facts, "rows")}{picture}{laws}</article>')
    caption = f'<p class="note">{esc(pictures.caption)}</p>' if places else ""
    return f'{caption}<div class="cards">{"".join(cards)}</div>{origin(results, "portrait")}' if cards else ""


def _layers(results: Results, stack: str) -> str:
    """The letters of a stack's layers, and what each stands for."""
    about = (results.get("stacks") or {}).get(stack) or {}
    letters = str(about.get("letters") or about.get("pattern") or "")
    mixers = about.get("mixers") or {}
    told = [f"{x}: {mixers[x].get('mixer', '')}" for x in dict.fromkeys(letters) if isinstance(mixers.get(x), Mapping)]
    return f"{letters} ({', '.join(told)})" if told else letters


def _future(results: Results, stack: str) -> str:
    found = reads_future(results, stack)
    if found:
        says = {"found": "although its mixers say that they are causal", "declared": "as its mixers say"}[found]
        return f"{verdict('yes', {'yes': 'bad' if found == 'found' else 'plain'})} {says}"
    return "no" if (results["portraits"][stack]).get("reads_future") is False else "–"


def _laws(mixer: str, laws: list[Mapping[str, Any]]) -> str:
    statuses = [law["status"] for law in laws]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    bodies = [
        body(
            [
                f'<th scope="row">{esc(law["number"])} {esc(law["law"])}{_law_note(law.get("note"))}</th>',
                cell(verdict(law["status"], _LAWS)),
                number(number_text(law.get("worst")), law.get("worst")),
                number(number_text(law.get("tolerance")) if known(law.get("worst")) else "–", law.get("tolerance")),
            ]
        )
        for law in laws
    ]
    columns = [Column("Law"), Column("Verdict"), Column("Worst", True), Column("Tolerance", True)]
    unfold = " open" if "broken" in statuses else ""
    inside = table(columns, bodies, f"Laws of {mixer}", kind="laws")
    return f"<details{unfold}><summary>Laws of <code>{esc(mixer)}</code>: {esc(counts)}</summary>{inside}</details>"


def _law_note(note: Any) -> str:
    return f'<span class="law">{esc(note)}</span>' if note else ""


def tasks_section(results: Results) -> str:
    """What each task asks, where it comes from, its references and its cases."""
    parts = []
    for i, (name, about) in enumerate(results["tasks"].items()):
        spans = about.get("spans") or {}
        cases = [f"{case}{f' (reads {spans[case]} back)' if known(spans.get(case)) else ''}" for case in about["cases"]]
        better = "higher is better" if about.get("higher_is_better", True) else "lower is better"
        solved = about.get("solved")
        facts = {
            "metric": esc(f"{about['metric']}, {better}"),
            "solved": f"from {number_text(solved)}" if known(solved) else "",
            "references": esc(
                ", ".join(f"{key} {score_text(x)}" for key, x in (about.get("references") or {}).items())
            ),
            str(about.get("vary", "cases")): esc(", ".join(cases)),
            "source": esc(about.get("source") or ""),
        }
        tree = (results.get("config") or {}).get("tasks")
        options = config(tree[name], "Config") if isinstance(tree, Mapping) and name in tree else ""
        kind = f' <span class="spread">{esc(about["task"])}</span>' if about.get("task", name) != name else ""
        listing = pairs({key: value for key, value in facts.items() if value})
        text = f"{prose(about.get('definition') or '')}{listing}{options}"
        parts.append(f'<article class="task" id="task-{i}"><h3>{esc(name)}{kind}</h3>{text}</article>')
    return "".join(parts)


def skipped_section(results: Results) -> str:
    """What was not run, and why."""
    columns = [Column("Task"), Column("Stack"), Column("Reason")]
    rows = results.get("skipped") or []
    bodies = [body([cell(esc(row[key])) for key in ("task", "stack", "reason")]) for row in rows]
    return table(columns, bodies, "What was not run, and why") if rows else ""


def method_section(results: Results) -> str:
    """How the runs were made and read, in words and as the config says it."""
    whole = results.get("config") or {}
    found = whole.get("protocol")
    protocol: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    runs = results["runs"]
    kept: dict[str, list[str]] = {}
    said = []
    if runs:
        for task in dict.fromkeys(run["task"] for run in runs):
            mine = [run for run in runs if run["task"] == task]
            rates, seeds = (sorted({run[key] for run in mine}) for key in ("learning_rate", "seed"))
            stacks = list(dict.fromkeys(run["stack"] for run in mine))
            said.append(
                f"{task}: {listed(stacks)}, at the learning rates {listed(rates, number_text)}, with the seeds "
                f"{listed(seeds)}: {len(mine)} runs; a seed fixes first weights and data."
            )
        if protocol.get("search") == "first seed":
            said.append("All learning rates are tried with the first seed, the best of them with the other seeds.")
        for entry in results.get("kept") or []:
            kept.setdefault(str(entry["task"]), []).append(str(entry["stack"]))
        if kept:
            named = "; ".join(f"{task}: {listed(stacks)}" for task, stacks in kept.items())
            said.append(f"These runs were made by earlier commands, each of which stands beside its run: {named}.")
        ended = [str(run.get("stopped") or run.get("status")) for run in runs]
        ends = {end: ended.count(end) for end in sorted(set(ended))}
        said.append(f"Runs ended for these reasons: {listed([f'{end} ({count})' for end, count in ends.items()])}.")
    said.append(
        "The learning rate of a stack is the one with the best mean validation score, of those tried with the most "
        "seeds; its score is the mean of the test scores of those runs, and ± is their standard deviation over seeds. "
        "A rate at which a run diverged or failed is not chosen. A stack is worse than the best, not among them, "
        "where Welch's t-test of their seeds says so at 5 % (one test a stack, not corrected for their number) and the "
        "means differ by 0.005 or more; at chance, where it is not above what can be had without reading the row by "
        "twice its standard error; not counted, where it reads the future and the task is given away by that. A run "
        "that ended early for 'no better' is scored with its last weights."
    )
    reference = protocol.get("reference") or next(iter(results["stacks"]), "the first")
    if protocol.get("budget") in _BUDGET:
        said.insert(0, _BUDGET[protocol["budget"]].format(reference=reference) + ".")
    words = [text.format(_value(protocol[key])) for key, text in _PROTOCOL.items() if protocol.get(key) is not None]
    if words:
        said.insert(2, f"{(line := '; '.join(words))[0].upper()}{line[1:]}. A task may replace these: see its config.")
    parts = "".join(f"<p>{esc(sentence)}</p>" for sentence in said)
    for key, title in {"protocol": "Protocol", "model": "Model", "costs": "Costs", "portrait": "Portraits"}.items():
        tree = protocol if key == "protocol" else whole.get(key)
        if isinstance(tree, Mapping) and tree:
            shown = {str(name): esc(_value(value)) for name, value in tree.items()}
            parts += f"<h3>{title}</h3>{pairs(shown)}"
    return parts + config(whole, "The whole config")


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(x) for x in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return json.dumps(value, default=str) if isinstance(value, Mapping) else str(value)
