"""Tables of results: mean ± spread over seeds, gains with paired intervals, as text and as HTML."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdjax.report.intervals import paired_interval


class Column(NamedTuple):
    """A metric's heading and how it is written; `gain` adds a column against the baseline row."""

    metric: str
    heading: str
    percent: bool = False
    digits: int = 1
    gain: bool = False


class Table(NamedTuple):
    """Headings and cells as text; `str()` is fixed width for a terminal or a pipe."""

    headings: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]

    def __str__(self):
        rows = [self.headings, *self.cells]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.headings))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]  # fmt: skip
        rule = "  ".join("-" * width for width in widths)
        return "\n".join([lines[0], rule, *lines[1:]])

    def to_html(self) -> str:
        """A `<table>`; the first column is the row's heading."""
        head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in self.headings)
        body = ""
        for name, *cells in self.cells:
            row = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            body += f'<tr><th scope="row">{html.escape(name)}</th>{row}</tr>\n'
        return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"


def results_table(
    rows: Sequence[Mapping[str, Any]], *, baseline: str, columns: Sequence[Column]
) -> Table:
    """The table of `results.json`'s rows; a metric that a row does not have is a dash.

    Spread is the sample standard deviation over seeds. A gain is the mean paired difference to the
    row named `baseline`, over the same seeds, with its 95 % interval; rows with other seeds have none.
    """
    base = next((row for row in rows if row["name"] == baseline), None)
    if base is None:
        raise ValueError(f"there is no row {baseline!r}; rows: {[row['name'] for row in rows]}")
    headings = ["row"]
    for column in columns:
        headings.append(column.heading + (" %" if column.percent else ""))
        if column.gain:
            headings.append(f"gain over {baseline} [95 %]")
    cells = []
    for row in rows:
        line = [row["name"]]
        for column in columns:
            line.append(_cell(row["metrics"].get(column.metric), column))
            if column.gain:
                line.append(_gain(row, base, column))
        cells.append(tuple(line))
    return Table(tuple(headings), tuple(cells))


def _cell(values, column):
    if values is None:
        return "–"
    scaled = np.asarray(values, float) * (100 if column.percent else 1)
    text = f"{scaled.mean():,.{column.digits}f}"
    if len(scaled) > 1 and column.digits and not (scaled == scaled[0]).all():
        text += f" ± {scaled.std(ddof=1):.{column.digits}f}"
    return text


def _gain(row, base, column):
    if row is base or row["seeds"] != base["seeds"] or column.metric not in row["metrics"]:
        return "–"
    scale = 100 if column.percent else 1
    values, against = (np.asarray(r["metrics"][column.metric], float) for r in (row, base))
    mean, low, high = paired_interval(values * scale, against * scale)
    text = f"{mean:+.{column.digits}f}"
    return (
        text if math.isnan(low) else f"{text} [{low:+.{column.digits}f}, {high:+.{column.digits}f}]"
    )
