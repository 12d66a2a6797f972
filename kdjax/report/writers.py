"""Metrics as they come: JSON lines, and the same as TensorBoard events."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from kdjax.report import files


class MetricWriter:
    """Appends to WORKDIR/metrics.jsonl and to WORKDIR/events/ROW/seed_K.

    A line is `{"row", "step", "split", metric: number, or a list with one per seed}`.
    """

    def __init__(self, workdir: Path):
        self._workdir = Path(workdir)
        self._path = self._workdir / "metrics.jsonl"
        self._events: dict[tuple[str, int], SummaryWriter] = {}

    def write(self, row: str, step: int, values: Mapping[str, Any], split: str = "train") -> None:
        """One line, on disk when this returns."""
        line = files.dumps({"row": row, "step": int(step), "split": split, **values})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        for name, value in values.items():
            for seed, number in enumerate(np.atleast_1d(np.asarray(value))):
                self._writer(row, seed).add_scalar(f"{split}/{name}", float(number), int(step))

    def rewind(self, row: str, step: int, split: str | None = None) -> None:
        """Drops what `row` wrote after `step` (in one split, or all), and a line that was cut off.

        A run that goes on from a checkpoint writes these steps again.
        """
        if not self._path.exists():
            return

        def kept(line):
            same = line["row"] == row and split in (None, line["split"])
            return not same or line["step"] <= step

        lines = [files.dumps(line) for line in read_metrics(self._path) if kept(line)]
        files.write_atomically(self._path, "".join(line + "\n" for line in lines))

    def close(self) -> None:
        """Flushes the event files."""
        for writer in self._events.values():
            writer.close()
        self._events.clear()

    def _writer(self, row, seed):
        if (row, seed) not in self._events:
            folder = self._workdir / "events" / row / f"seed_{seed}"
            self._events[row, seed] = SummaryWriter(str(folder))
        return self._events[row, seed]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that a kill cut off is left out."""
    lines = []
    for text in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        lines.append({key: files.number(value) for key, value in line.items()})
    return lines
