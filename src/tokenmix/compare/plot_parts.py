"""What the plots of a comparison are made of: the look of stacks, panels on a grid, lines with bands, scales."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tokenmix.compare.formats import known

# Okabe and Ito's colours without yellow and black, which vanish on white and on black
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
Dashes = Literal["-", "--", "-.", ":"]
DASHES: tuple[Dashes, ...] = ("-", "--", "-.", ":")
INK, FAINT, RULE = "#1f2430", "#69707d", "#dcdfe4"  # of letters, of what is secondary, of lines between
_THEME = {INK: "var(--ink)", FAINT: "var(--faint)", RULE: "var(--rule)"}
RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tokenmix",
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "grid.linewidth": 0.6,
    "grid.color": RULE,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}
Panel = tuple[str, Callable[[Any], None]]
Text = Callable[[float], str]


class Style(NamedTuple):
    """How a stack is drawn, in every plot: its colour and its marker both tell it from others."""

    colour: str
    marker: str
    dashes: Dashes


@dataclass(frozen=True)
class Plot:
    """A plot of one or several panels.

    Attributes:
        name: of its files.
        title: what is drawn.
        caption: how to read it.
        panels: a title each, and the function that draws on axes.
        styles: of the stacks in the legend; empty for none.
    """

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    styles: Mapping[str, Style]

    def figure(self, panel: int | None = None) -> Any:
        """A matplotlib Figure of all panels with a legend, or of one without."""
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D

        panels = list(self.panels) if panel is None else [self.panels[panel]]
        columns = 2 if len(panels) in (2, 4) else min(3, len(panels))
        rows = math.ceil(len(panels) / columns)
        with matplotlib.rc_context(RC):
            figure = Figure(figsize=(4.2 * columns, 3.0 * rows + 0.4 * (panel is None)), layout="constrained")
            grid = list(figure.subplots(rows, columns, squeeze=False).flat)
            for axes, (title, draw) in zip(grid, panels, strict=False):
                draw(axes)
                if panel is None:
                    axes.set_title(title)
            for axes in grid[len(panels) :]:
                axes.remove()
            if panel is None and self.styles:
                handles = [Line2D([], [], color=c, marker=m, linestyle=d) for c, m, d in self.styles.values()]
                numbers = [str(i) for i in range(len(handles))]  # matplotlib skips labels that begin with _
                fit = min(len(handles), 2 * columns)
                legend = figure.legend(handles, numbers, loc="outside upper left", ncols=fit, frameon=False)
                for text, name in zip(legend.get_texts(), self.styles, strict=True):
                    text.set_text(name)
        return figure


def stack_styles(results: Mapping[str, Any]) -> dict[str, Style]:
    """How each stack is drawn, by name, in the order of the results.

    Example:
        >>> stack_styles({"stacks": {"attention": {}, "mamba2": {}}})["mamba2"].marker
        's'
    """
    names = dict.fromkeys([*results.get("stacks", {}), *(row["stack"] for row in results.get("summary", []))])
    n = len(COLOURS)
    return {name: Style(COLOURS[i % n], MARKERS[i % len(MARKERS)], DASHES[i // n % 4]) for i, name in enumerate(names)}


def svg_text(figure: Any, prefix: str, label: str) -> str:
    """A figure as an <svg> element to put into a page: its ids are its own, its greys follow the page's theme.

    Args:
        figure: of `Plot.figure`.
        prefix: of all ids, different for each figure of a page.
        label: what readers of screens say.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(RC):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), count=1, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    head, body = text[text.index("<svg") :].split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)

    def themed(tag: re.Match[str]) -> str:  # what stands between < and > only, never text
        inside = re.sub(r'(\s)id="', rf'\1id="{prefix}-', tag[0])
        inside = re.sub(r'(href="|url\()#', rf"\1#{prefix}-", inside)
        inside = re.sub(r"font: [^;\"]*?(\d[\d.]*px)[^;\"]*", r"font-size: \1", inside)
        for colour, variable in _THEME.items():
            inside = inside.replace(colour, variable)
        return inside

    body = re.sub(r"<[^>]*>", themed, body)
    return f'<svg {box[0] if box else ""} role="img" aria-label="{html.escape(label)}">{body.strip()}'


# ---------------------------------------------------------------------- on axes


def draw_line(
    axes: Any, style: Style, points: Sequence[tuple[float, float | None, float | None]], width: float = 1.6
) -> list[float]:
    """Draw a line with a band, and say which values it has.

    Args:
        axes: of matplotlib.
        style: of the stack.
        points: place, value, and half the width of the band (None for none); those without a value are left out.
        width: of the line, in points.
    """
    real = [(x, y, spread or 0.0) for x, y, spread in points if known(y)]
    if not real:
        return []
    x, y, spread = zip(*real, strict=True)
    axes.plot(x, y, color=style.colour, marker=style.marker, linestyle=style.dashes, linewidth=width, markersize=4.5)
    if any(spread):
        low, high = ([value + sign * gap for value, gap in zip(y, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=style.colour, alpha=0.15, linewidth=0)
    return list(y)


def place_cases(axes: Any, cases: Sequence[str]) -> dict[str, float]:
    """Set up the lower axis for named cases: logarithmic where they are numbers, evenly spaced otherwise."""
    try:
        numbers = [float(case) for case in cases]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) <= 0:
        axes.set_xticks(range(len(cases)), cases)
        return {case: float(i) for i, case in enumerate(cases)}
    axes.set_xscale("log")
    axes.set_xticks(numbers, [f"{x:,g}" if x >= 1 else f"{x:g}" for x in numbers])
    axes.tick_params(axis="x", which="minor", labelbottom=False)
    axes.margins(x=0.08)
    return dict(zip(cases, numbers, strict=True))


def text_ticks(axis: Any, text: Text, values: Sequence[float]) -> None:
    """Labels of a logarithmic axis: powers of ten over many decades, and steps between them over few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    positive = [value for value in values if value > 0]
    decades = math.log10(max(positive) / min(positive)) if positive else 0.0
    if axis.get_scale() == "log":
        fine, coarse = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0), (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=fine if decades < 0.6 else coarse if decades < 2 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_formatter(NullFormatter())


def score_axis(axes: Any, about: Mapping[str, Any], scores: Sequence[float], prefix: str = "") -> None:
    """Label the axis of scores, and draw the references that are not far from them.

    Args:
        axes: of matplotlib.
        about: the task, as in the results.
        scores: that are drawn.
        prefix: of the metric's name.
    """
    from matplotlib.transforms import offset_copy

    if about["metric"] == "accuracy":
        low, high = 0.0, 1.0
    else:
        low, high = min(scores, default=0.0), max(scores, default=1.0)
        room = max(high - low, 0.05 * abs(high), 1e-9)
        low, high = low - 0.6 * room, high + 0.6 * room
        if scores:
            axes.set_ylim(low, high)
    last = -math.inf
    for name, value in sorted(about.get("references", {}).items(), key=lambda pair: pair[1] or 0.0):
        if known(value) and low <= value <= high:
            axes.axhline(value, color=FAINT, linestyle="--", linewidth=0.8, zorder=1)
            if value - last > 0.06 * (high - low):  # else the names would lie over each other
                above = offset_copy(axes.get_yaxis_transform(), axes.figure, y=2, units="points")
                look = {"ha": "right", "va": "bottom", "color": FAINT, "fontsize": 7.5, "in_layout": False}
                axes.text(1.0, value, name, transform=above, **look)
                last = value
    if about["metric"] == "accuracy":
        axes.set_ylim(-0.02, 1.05)
    better = "" if about.get("higher_is_better", True) else " (lower is better)"
    axes.set_ylabel(f"{prefix}{shortened(about['metric'])}{better}")


def shortened(text: str, most: int = 24) -> str:
    """A label that leaves room for its axes.

    Example:
        >>> shortened("mean reciprocal rank of the answer", 16)
        'mean reciprocal…'
    """
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def front(points: Sequence[tuple[float, float]], higher_is_better: bool) -> list[tuple[float, float]]:
    """The points (cost, score) that no other beats in one without losing in the other, by cost.

    Example:
        >>> front([(1, 0.5), (2, 0.4), (3, 0.9)], higher_is_better=True)
        [(1, 0.5), (3, 0.9)]
    """
    sign = 1 if higher_is_better else -1
    kept: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not kept or sign * score > sign * kept[-1][1]:
            kept.append((cost, score))
    return kept
