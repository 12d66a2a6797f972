"""Pictures of a run as SVG text: gains with their intervals, and curves over the steps.

A row looks the same in every picture. Ink, soft ink and lines are the page's: `currentColor` and the
custom properties `--soft` and `--line`, so that a picture suits a light and a dark page.
"""

import html
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from kdjax.report.tables import Gains

# Okabe and Ito's palette, told apart with any colour vision; black and yellow make way for a grey.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#808080")
DASHES = {"solid": "-", "dashed": "--", "dotted": ":"}

# Colours that nothing else has, exchanged for the page's once the picture is text.
INK, SOFT, LINE = "#010203", "#040506", "#070809"
PAGE = {INK: "currentColor", SOFT: "var(--soft)", LINE: "var(--line)"}

WIDTH, HEIGHT = 5.0, 3.0
SETTINGS: dict[Any, Any] = {
    "font.size": 10,
    "text.color": INK, "text.parse_math": False,
    "axes.edgecolor": SOFT, "axes.labelcolor": INK, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": LINE, "grid.linewidth": 0.7,
    "xtick.color": SOFT, "ytick.color": SOFT, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "lines.linewidth": 1.8, "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
}  # fmt: skip


class Look(NamedTuple):
    """How a row is drawn: its colour, and its line as CSS names it."""

    colour: str
    dash: str


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for every row, in order; the first 21 differ."""
    every = [Look(colour, dash) for dash in DASHES for colour in PALETTE]
    return {name: every[i % len(every)] for i, name in enumerate(names)}


def gains(column: Gains, looks: Mapping[str, Look]) -> str:
    """Dot and whisker: the mean gain of every row with its interval, against a line at zero."""
    shown = {name: gain for name, gain in column.intervals.items() if np.isfinite(gain.mean)}
    with matplotlib.rc_context(SETTINGS):
        figure = Figure((WIDTH, max(HEIGHT, 0.3 * len(shown) + 0.8)), layout="constrained")
        axes = figure.subplots()
        for place, (name, gain) in enumerate(shown.items()):
            colour = looks[name].colour
            axes.plot([gain.low, gain.high], [place, place], color=colour, linewidth=2.2)
            axes.plot(gain.mean, place, "o", color=colour, markersize=7)
        axes.axvline(0, color=SOFT, linewidth=1.2, zorder=0.9)
        axes.set_yticks(range(len(shown)), list(shown))
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("percentage points" if column.percent else column.heading)
        return _svg(
            figure, f"{column.heading}: gain over {column.baseline} by row, with its interval"
        )


def curves(
    lines: Mapping[str, Sequence[Mapping[str, Any]]],
    metric: str,
    label: str,
    looks: Mapping[str, Look],
    *,
    scale: float = 1.0,
    log: bool = False,
) -> str:
    """A metric over the steps: the mean of every row over its seeds, and their range as a band.

    Args:
        lines: `{row: its lines}`; seeds that wrote lines of their own are taken together.
        metric: what is drawn; lines without it are passed over, and so is what is not finite.
        label: of the vertical axis.
        looks: from `looks`.
        scale: multiplies the metric.
        log: a logarithmic axis, if all that is drawn is above zero.
    """
    series = {name: _over_seeds(own, metric, scale) for name, own in lines.items()}
    series = {name: points for name, points in series.items() if points.size}
    with matplotlib.rc_context(SETTINGS):
        figure = Figure((WIDTH, HEIGHT), layout="constrained")
        axes = figure.subplots()
        for name, (steps, mean, low, high) in series.items():
            colour, dash = looks[name]
            axes.plot(steps, mean, DASHES[dash], color=colour)
            if (low < high).any():
                axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.grid(axis="x", visible=False)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlim(left=0)
        axes.set(xlabel="training step", ylabel=label)
        lowest = min((points[2].min() for points in series.values()), default=0.0)
        if log and lowest > 0:
            _log_axis(axes, lowest, max(points[3].max() for points in series.values()))
        return _svg(figure, f"{metric}: {label} over training steps")


def _over_seeds(lines, metric, scale):
    """[4, steps]: step, and the mean, lowest and highest finite value of it."""
    values = defaultdict(list)
    for line in lines:
        if metric in line:
            own = np.atleast_1d(np.asarray(line[metric], float)) * scale
            values[line["step"]].extend(own[np.isfinite(own)])
    points = [(step, np.mean(v), min(v), max(v)) for step, v in sorted(values.items()) if v]
    return np.array(points, float).T


def _log_axis(axes, low, high):
    axes.set_yscale("log")
    decades = np.log10(high / low)
    marked = (1,) if decades > 2 else (1, 3) if decades > 1 else (1, 2, 3, 5)
    locator = ticker.LogLocator(subs=marked, numticks=6)
    axes.yaxis.set_major_locator(locator if decades > 0.5 else ticker.MaxNLocator(5))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(ticker.NullLocator())


def _svg(figure, description):
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # The salt keeps identifiers of several pictures on one page apart, and the same on every run.
    with matplotlib.rc_context({"svg.hashsalt": description}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text, count=2)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    for ours, theirs in PAGE.items():
        text = text.replace(ours, theirs)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)
