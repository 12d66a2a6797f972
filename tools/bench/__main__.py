"""Ratios measured side by side in one run: `python -m tools.bench SUITE [--json FILE]`.

A suite is a module of this package with a function `rows(only)` that returns dicts with `name`,
`ratio` and `spread`, and whatever else it measured. Times are interleaved: the reference is measured
again beside every candidate, so that a busy machine slows both.
"""

import argparse
import importlib
import json
import pathlib
import pkgutil
import sys

import tools.bench


def main(argv=None):
    suites = [
        m.name for m in pkgutil.iter_modules(tools.bench.__path__) if not m.name.startswith("_")
    ]
    parser = argparse.ArgumentParser("tools.bench", description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=suites, metavar="SUITE", help=", ".join(suites))
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument("--only", metavar="TEXT", default="", help="names that contain TEXT")
    flags = parser.parse_args(argv)
    rows = importlib.import_module(f"tools.bench.{flags.suite}").rows(flags.only)
    show(rows)
    if flags.json:
        pathlib.Path(flags.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def show(rows):
    """Prints rows as a table, the columns in the order of the first row."""
    if not rows:
        print("no rows")
        return
    columns = list(rows[0])
    cells = [columns] + [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[k]) for line in cells) for k in range(len(columns))]
    for line in cells:
        head = line[0].ljust(widths[0])
        print(head, *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)))


def _cell(value):
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.3e}"
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
