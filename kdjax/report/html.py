"""`report.html`: one file with the table, learning curves and gains; nothing is fetched from outside."""

import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from kdjax.report import files
from kdjax.report.tables import Table

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Okabe and Ito's palette: told apart with any colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777", "#B8A800")

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --line: #d6dbe0; --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa4ae; --line: #3a424a; --page: #14181c; }
  figure svg { background: #fff; border-radius: 6px; }
}
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.25rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1.2rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .4rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; padding-left: 0; }
thead th { white-space: normal; vertical-align: bottom; color: var(--soft); font-weight: 600;
  font-size: .85rem; }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; }
figcaption, .note { color: var(--soft); font-size: .9rem; }
pre { overflow-x: auto; font-size: .85rem; }
"""


def write_report(
    path: Path,
    *,
    title: str,
    table: Table,
    curves: Sequence[Mapping[str, Any]],
    notes: Mapping[str, str],
    config: Mapping[str, Any],
) -> None:
    """Writes the report.

    Args:
        path: the file; it is replaced at once.
        title: the heading.
        table: from `results_table`.
        curves: the lines of `metrics.jsonl`.
        notes: what was run, by name.
        config: shown folded.
    """
    names = list(dict.fromkeys(line["row"] for line in curves))
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}
    listed = "".join(
        f"<dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd>" for k, v in notes.items()
    )
    settings = html.escape(json.dumps(files.plain(dict(config)), indent=2))
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<dl>{listed}</dl>
<h2>Results on the test split</h2>
<div class="scroll">{table.to_html()}</div>
<p class="note">Mean ± sample standard deviation over seeds. A gain is the mean difference, seed by
seed, with its 95 % t interval.</p>
<h2>Learning curves</h2>
<figure>{_validation(curves, colours)}<figcaption>Validation accuracy while training: the mean over
seeds, and the range from the lowest to the highest.</figcaption></figure>
<figure>{_losses(curves, colours)}<figcaption>Training loss by term, before weights, mean over
seeds.</figcaption></figure>
<h2>Configuration</h2>
<details><summary>all settings</summary><pre>{settings}</pre></details>
</body></html>
"""
    files.write_atomically(Path(path), text)


def _validation(curves, colours):
    figure, axes = plt.subplots(figsize=(8.2, 4.2))
    for name, colour in colours.items():
        lines = [c for c in curves if c["row"] == name and c["split"] == "validation"]
        _band(axes, lines, "accuracy", name, colour, scale=100)
    axes.set(xlabel="step", ylabel="validation accuracy (%)")
    axes.legend(frameon=False, loc="lower right")
    return _svg(figure)


def _losses(curves, colours):
    trained = [c for c in curves if c["split"] == "train"]
    terms = list(dict.fromkeys(k for c in trained for k in c if k not in ("row", "step", "split")))
    columns = min(2, max(1, len(terms)))
    rows = max(1, -(-len(terms) // columns))
    figure, grid = plt.subplots(rows, columns, figsize=(8.2, 2.7 * rows), squeeze=False)
    for axes in grid.flat[len(terms) :]:
        axes.set_axis_off()
    for axes, term in zip(grid.flat, terms, strict=False):
        for name, colour in colours.items():
            _band(axes, [c for c in trained if c["row"] == name and term in c], term, name, colour)
        axes.set_yscale("log")
        axes.set(xlabel="step", title=term)
        axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _band(axes, lines, metric, label, colour, scale=1.0):
    if not lines:
        return
    steps = [line["step"] for line in lines]
    values = np.array([np.atleast_1d(line[metric]) for line in lines], float) * scale
    axes.plot(steps, values.mean(axis=1), color=colour, label=label, linewidth=1.8)
    if values.shape[1] > 1:
        axes.fill_between(
            steps, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.15, linewidth=0
        )


def _svg(figure):
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
    figure.tight_layout()
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kdjax"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]
