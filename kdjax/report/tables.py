"""Tables of results: mean ± spread over seeds, gains with paired intervals, as text and as HTML."""

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdjax.report.intervals import Interval, paired_interval

SHARES = ("accuracy", "agreement", "attack_success", "calibration_error")  # written in per cent


class Column(NamedTuple):
    """A metric's heading and how it is written; `gain` adds a column against the baseline row."""

    metric: str
    heading: str
    percent: bool = False
    digits: int = 1
    gain: bool = False


class Gains(NamedTuple):
    """What rows gain over the baseline row in one column, in the unit of that column."""

    heading: str
    baseline: str
    percent: bool
    intervals: Mapping[str, Interval]


class Table(NamedTuple):
    """Headings and cells as text, and the gains as numbers.

    `str()` has fixed widths for a terminal or a pipe: headings over two lines, one line for a row.
    """

    headings: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    gains: tuple[Gains, ...] = ()

    def __str__(self):
        columns = []
        for i, (heading, column) in enumerate(zip(self.headings, self._columns(), strict=True)):
            cells = [text + " " * len(blank) for text, blank in column]
            lines = _two_lines(heading, max(map(len, cells), default=0))
            width = max(map(len, lines + cells))
            pad = str.ljust if i == 0 else str.rjust
            columns.append([pad(text, width) for text in [*lines, "-" * width, *cells]])
        lines = ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
        return "\n".join(lines if lines[0] else lines[1:])

    def to_html(self) -> str:
        """A `<table>`; the first column is the row's heading."""
        head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in self.headings)
        body = ""
        for name, *cells in zip(*self._columns(), strict=True):
            row = "".join(
                f"<td>{html.escape(text).replace('-', '−')}"
                + (f'<span class="blank">{html.escape(blank)}</span></td>' if blank else "</td>")
                for text, blank in cells
            )
            body += f'<tr><th scope="row">{html.escape(name[0])}</th>{row}</tr>\n'
        return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"

    def _columns(self):
        """[(text, what keeps its number under the numbers of the column)] by column."""
        names, *columns = zip(*self.cells, strict=True)
        yield [(name, "") for name in names]
        for column in columns:
            spreads = [text[text.index(" ±") :] for text in column if " ±" in text]
            blank = max(spreads, key=len, default="")
            bare = [text[-1:].isdigit() and " ±" not in text for text in column]
            yield [(text, blank if b else "") for text, b in zip(column, bare, strict=True)]


def results_table(
    rows: Sequence[Mapping[str, Any]], *, baseline: str, columns: Sequence[Column]
) -> Table:
    """The table of `results.json`'s rows; a metric that a row does not have is a dash.

    Spread is the sample standard deviation over seeds. A gain is the mean paired difference to the
    row named `baseline`, over the same seeds, with its 95 % interval; rows with other seeds have none.

    Args:
        rows: `{"name", "seeds", "metrics": {name: one value per seed}}`.
        baseline: the name of the row that gains are over.
        columns: what is shown, in this order.

    Returns:
        The table.

    Raises:
        ValueError: there is no row of the baseline's name.
    """
    base = next((row for row in rows if row["name"] == baseline), None)
    if base is None:
        raise ValueError(f"there is no row {baseline!r}; rows: {[row['name'] for row in rows]}")
    headings, gains = ["row"], []
    shown = [[row["name"]] for row in rows]
    for column in columns:
        headings.append(column.heading + ("\u00a0%" if column.percent else ""))
        for cells, row in zip(shown, rows, strict=True):
            cells.append(_cell(row["metrics"].get(column.metric), column))
        if column.gain:
            headings.append(f"gain over {baseline} [95\u00a0%]")
            intervals = {
                r["name"]: _gain(r, base, column) for r in rows if _paired(r, base, column)
            }
            gains.append(Gains(column.heading, baseline, column.percent, intervals))
            for cells, row in zip(shown, rows, strict=True):
                cells.append(_gain_cell(intervals.get(row["name"]), column))
    return Table(tuple(headings), tuple(map(tuple, shown)), tuple(gains))


def _cell(values, column):
    if values is None:
        return "–"
    scaled = np.asarray(values, float) * (100 if column.percent else 1)
    if np.isnan(scaled).any():
        return "nan"
    text = f"{scaled.mean():,.{column.digits}f}"
    if len(scaled) > 1 and column.digits and not (scaled == scaled[0]).all():
        text += f" ± {scaled.std(ddof=1):.{column.digits}f}"
    return text


def _paired(row, base, column):
    measured = column.metric in row["metrics"] and column.metric in base["metrics"]
    return row is not base and row["seeds"] == base["seeds"] and measured


def _gain(row, base, column):
    scale = 100 if column.percent else 1
    values, against = (np.asarray(r["metrics"][column.metric], float) for r in (row, base))
    return paired_interval(values * scale, against * scale)


def _gain_cell(interval, column):
    if interval is None:
        return "–"
    if math.isnan(interval.mean):
        return "nan"
    mean, low, high = (f"{bound:+.{column.digits}f}" for bound in interval)
    return mean if math.isnan(interval.low) else f"{mean} [{low}, {high}]"


def _two_lines(heading, width):
    """The heading over exactly two lines, the upper one empty for a short one.

    A no-break space holds a unit to its word. The width grows from `width` until two lines suffice.
    """
    lines = []
    while not lines or len(lines) > 2:
        lines = textwrap.wrap(heading, max(width, 1), break_long_words=False)
        width += 1
    return [line.replace("\u00a0", " ") for line in [""] * (2 - len(lines)) + lines]
