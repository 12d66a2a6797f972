"""`report.html`: one file with the table, the gains and learning curves; nothing is fetched."""

import html
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdjax.report import figures, files
from kdjax.report.tables import Column, Table

ACCURACY = Column("accuracy", "accuracy", percent=True)
LINE_KEYS = ("row", "step", "split")

STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #5d6771; --line: #dde1e5; --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ea; --soft: #9aa4ae; --line: #323a42; --page: #15191d; }
}
body { margin: 0 auto; max-width: 64rem; padding: 2.5rem 1.25rem 4rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 1.2rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .7rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .4rem .75rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; padding-left: 0; }
thead th { white-space: normal; vertical-align: bottom; color: var(--soft); font-weight: 600;
  font-size: .85rem; line-height: 1.3; border-bottom-color: var(--soft); }
.blank { visibility: hidden; }
.note { color: var(--soft); font-size: .9rem; max-width: 46rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; list-style: none; padding: 0;
  margin: 0 0 1rem; }
.legend i { display: inline-block; width: 1.6rem; margin-right: .5rem; vertical-align: .25em; }
.panels { display: grid; gap: 1.6rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
figure { margin: 0; break-inside: avoid; } figcaption { font-weight: 600; margin-bottom: .3rem; }
svg { display: block; width: 100%; height: auto; } svg text { font-family: inherit !important; }
details { margin-top: 2.6rem; } summary { font-size: 1.2rem; font-weight: 700; cursor: pointer; }
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
    metric: Column = ACCURACY,
) -> None:
    """Writes the report.

    Args:
        path: the file; it is replaced at once.
        title: the heading.
        table: from `results_table`; its gains are drawn.
        curves: the lines of `metrics.jsonl`. Rows named ROW-seedK, seeds trained in turn, are drawn
            as the one row that they are in the table.
        notes: what was run, by name.
        config: shown folded.
        metric: what is drawn of the validation split, where its lines have it.
    """
    rows = [name for name, *_ in table.cells]
    validation, training = (_by_row(curves, rows, split) for split in ("validation", "train"))
    looks = figures.looks(list(dict.fromkeys([*rows, *training, *validation])))
    terms = dict.fromkeys(
        key for own in training.values() for line in own for key in line if key not in LINE_KEYS
    )
    unit = " (%)" if metric.percent else ""
    overview = [
        _panel(f"Gain in {gain.heading} over {gain.baseline}", figures.gains(gain, looks))
        for gain in table.gains
    ]
    if any(metric.metric in line for own in validation.values() for line in own):
        progress = figures.curves(
            validation,
            metric.metric,
            f"validation {metric.heading}{unit}",
            looks,
            scale=100 if metric.percent else 1,
        )
        overview.append(_panel(f"Validation {metric.heading} while training", progress))
    losses = [
        _panel(term, figures.curves(training, term, "training loss", looks, log=True))
        for term in terms
    ]
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(note)}</dd>" for name, note in notes.items())
    settings = _text(json.dumps(files.plain(dict(config)), indent=2))
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title><style>{STYLE}</style></head><body>
<h1>{_text(title)}</h1>
<dl>{facts}</dl>
<h2>Results on the test split</h2>
<div class="scroll">{table.to_html()}</div>
<p class="note">Mean ± sample standard deviation over seeds. A gain is the mean difference, seed by
seed, with its 95 % t interval; gains in per cent are percentage points.</p>
<h2>Gains and learning curves</h2>
{_legend(looks)}
<div class="panels">{"".join(overview)}</div>
<p class="note">A whisker is the 95 % interval of a gain; one that crosses zero leaves its sign open.
A curve is the mean over seeds, its band the range from the lowest seed to the highest.</p>
<h2>Training losses</h2>
<div class="panels">{"".join(losses)}</div>
<p class="note">By term, before weights, on a logarithmic axis where all values are above zero.
Colours as above.</p>
<details><summary>Configuration</summary><pre>{settings}</pre></details>
</body></html>
"""
    files.write_atomically(Path(path), page)


def _text(value):
    return html.escape(str(value))


def _by_row(lines, rows, split):
    """{row: its lines of the split}, the seeds of a row together."""
    found = defaultdict(list)
    for line in lines:
        if line["split"] == split:
            name = line["row"]
            found[name if name in rows else re.sub(r"-seed\d+$", "", name)].append(line)
    return found


def _panel(caption, picture):
    return f"<figure><figcaption>{_text(caption)}</figcaption>{picture}</figure>\n"


def _legend(looks):
    items = (
        f'<li><i style="border-top: 3px {look.dash} {look.colour}"></i>{_text(name)}</li>'
        for name, look in looks.items()
    )
    return f'<ul class="legend">{"".join(items)}</ul>'
