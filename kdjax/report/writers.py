"""Metrics as they come: JSON lines, and the same as TensorBoard events."""

import json
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from kdjax.report import files

_KEYS = ("row", "step", "split")


class MetricWriter:
    """Appends to WORKDIR/metrics.jsonl and to WORKDIR/events/ROW/seed_K/SPLIT.

    A line is `{"row", "step", "split", metric: number, or a list with one per seed}`. No file is held
    open: what was written is on disk whenever the process dies.
    """

    def __init__(self, workdir: Path):
        self._workdir = Path(workdir)
        self._path = self._workdir / "metrics.jsonl"
        # A file of its own for every writer: readers give up on a file at the first torn record.
        self._event_file = f"events.out.tfevents.{time.time_ns()}"

    def write(self, row: str, step: int, values: Mapping[str, Any], split: str = "train") -> None:
        """One line, on disk when this returns.

        Raises:
            ValueError: a metric named like a key of the line.
        """
        taken = [name for name in values if name in _KEYS]
        if taken:
            raise ValueError(f"a metric cannot be named {taken[0]!r}; taken are {', '.join(_KEYS)}")
        numbers = {name: np.atleast_1d(np.asarray(v, float)) for name, v in values.items()}
        for seed in range(max(map(len, numbers.values()), default=0)):
            summary = Summary(
                value=[
                    Summary.Value(tag=name, simple_value=v[seed])
                    for name, v in numbers.items()
                    if seed < len(v)
                ]
            )
            folder = self._workdir / "events" / row / f"seed_{seed}" / split
            self._append_event(folder, Event(step=int(step), summary=summary))
        line = files.dumps({"row": row, "step": int(step), "split": split, **values})
        with self._path.open("a+b") as file:
            torn = ""
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                torn = "" if file.read(1) == b"\n" else "\n"
            file.write(f"{torn}{line}\n".encode())

    def rewind(self, row: str, step: int, split: str | None = None) -> None:
        """Drops what `row` wrote after `step` (in one split, or all), and a line that was cut off.

        A run that goes on from a checkpoint writes these steps again. Event files only grow: they are
        told that a session restarts, at which TensorBoard forgets the later steps.
        """
        for folder in (self._workdir / "events" / row).glob("seed_*/*"):
            if split in (None, folder.name):
                self._append_event(folder, _session_start(step + 1))
        if not self._path.exists():
            return

        def kept(line):
            same = line["row"] == row and split in (None, line["split"])
            return not same or line["step"] <= step

        lines = [files.dumps(line) for line in read_metrics(self._path) if kept(line)]
        files.write_atomically(self._path, "".join(line + "\n" for line in lines))

    def _append_event(self, folder, event):
        events = [event]
        if not (folder / self._event_file).exists():
            events.insert(0, Event(file_version="brain.Event:2"))
        if not folder.exists():
            folder.mkdir(parents=True)
            # TensorBoard takes the first start of a run for its beginning, only later ones restart.
            events.insert(1, _session_start(0))
        with (folder / self._event_file).open("ab") as file:
            for each in events:
                each.wall_time = time.time()
                file.write(_record(each.SerializeToString()))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a line that a kill cut off is left out."""
    lines = []
    for text in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        lines.append({k: v if k in _KEYS else files.number(v) for k, v in line.items()})
    return lines


def _session_start(step):
    return Event(step=step, session_log=SessionLog(status=SessionLog.START))


def _record(data):
    """A TFRecord: the length and the data, each followed by its masked CRC-32C."""
    header = struct.pack("<Q", len(data))
    checks = (struct.pack("<I", masked_crc32c(part)) for part in (header, data))
    return header + next(checks) + data + next(checks)
