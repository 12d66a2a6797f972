"""The rows of the catalogue: one JSON object a line, read, found by name, and written at once.

Beside what says what a work is, a row has `command_name`, `status`, `command` (what shows or measures
it), `data`, `seeds`, `baseline`, `result` (in words), `note` (what a missing effect would need),
`difference` (the first claim: `mean`, `low`, `high`), `differences` (every comparison), `measured`
(values by seed), `adjusted_p`, `cost` and `conditions`. What was never measured is empty, and
`difference` holds nulls.
"""

import difflib
import json
from pathlib import Path
from typing import Any

from kdjax.report import files

PATH = Path(__file__).parents[2] / "configs" / "catalogue.jsonl"
STATUSES = ("works", "no-effect", "covered", "runs", "todo")
EMPTY: dict[str, Any] = {
    "status": "todo",
    "command": "",
    "data": "",
    "seeds": [],
    "baseline": "",
    "result": "",
    "note": "",
    "difference": {"mean": None, "low": None, "high": None},
    "differences": [],
    "measured": {},
    "adjusted_p": None,
    "cost": {},
    "conditions": {},
}

Row = dict[str, Any]


def load(path: Path = PATH) -> list[Row]:
    """All rows, in the order of the file."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def save(rows: list[Row], path: Path = PATH) -> None:
    """Replaces the file at once."""
    lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    files.write_atomically(Path(path), lines)


def find(rows: list[Row], name: str) -> Row:
    """The row of an id or a command name.

    Raises:
        KeyError: neither; the message has the nearest names.
    """
    for row in rows:
        if name in (row["id"], row["command_name"]):
            return row
    names = [row[key] for row in rows for key in ("id", "command_name")]
    near = difflib.get_close_matches(name.lower(), names, 3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise KeyError(f"there is no row {name!r}{hint} `list` shows all.")
