"""`results.json`: a list of rows `{"name", "seeds", "metrics": {name: one value per seed}}`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdjax.report import files


def write_results(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes the rows at once; values that are not finite are kept as "nan", "inf", "-inf".

    Raises:
        ValueError: a metric that does not have one value per seed.
    """
    for row in rows:
        for name, values in row["metrics"].items():
            if len(values) != len(row["seeds"]):
                raise ValueError(
                    f"row {row['name']!r}: {name} has {len(values)} values for {row['seeds']}"
                )
    files.write_atomically(Path(path), files.dumps(list(rows), indent=1))


def read_results(path: Path) -> list[dict[str, Any]]:
    """The rows of a file written by `write_results`."""
    rows = json.loads(Path(path).read_text(encoding="utf-8"))
    return [
        {**row, "metrics": {k: files.number(v) for k, v in row["metrics"].items()}} for row in rows
    ]
