"""Runs the command of a row in its workdir, within a budget, and stores what it measured."""

import importlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tools.catalogue import measure
from tools.catalogue.rows import Row, load, save

ROOT = Path(__file__).parents[2]
UNITS = {"s": 1, "m": 60, "h": 3600}


class FailedError(RuntimeError):
    """A row that could not be measured; the message says why."""


class OutOfTimeError(RuntimeError):
    """The budget ended while a row was running: it has saved, and goes on the next time."""


def seconds(text: str) -> float:
    """A duration such as "90m", "45s" or "2h".

    >>> seconds("90m")
    5400.0
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found:
        raise ValueError(f"a duration is a number and s, m or h, got {text!r}")
    return float(found[1]) * UNITS[found[2]]


def command_of(row: Row, runs: Path, data: Path | None, *, again: bool = False) -> list[str]:
    """The row's command with this interpreter, its workdir and where its data are.

    What rows share (teachers, plain baselines) lies beside the workdirs; with `again` it is in the
    workdir, and trained anew as well.

    Raises:
        FailedError: a row without a command.
    """
    if not row["command"]:
        raise FailedError(f"{row['command_name']} has no recipe: its status is {row['status']}")
    words = shlex.split(row["command"])
    command = [sys.executable, *words[1:]] if words[0] == "python" else words
    if not is_experiment(row):
        return command
    command.append(f"--workdir={runs / row['command_name']}")
    found = re.search(r"--config=([\w/]+)\.py(?::(\S*))?", row["command"])
    if not found:
        raise FailedError(f"{row['command_name']}: {row['command']!r} names no --config")
    module = importlib.import_module(found[1].replace("/", "."))
    config = module.get_config(found[2] or "")
    if "shared" in config.place:
        shared = (runs / row["command_name"] if again else runs.parent) / "shared"
        command.append(f"--config.place.shared={shared}")
    name = config.run.get("data", {}).get("name", "")
    if data is not None and name and (data / name).is_dir():
        command.append(f"--config.run.data.manual_dir={data / name}")
    return command


def is_experiment(row: Row) -> bool:
    """Whether the row's command takes a config and a workdir, and leaves results there."""
    return "-m experiments." in row["command"]


def run(
    row: Row, path: Path, *, runs: Path, data: Path | None, again: bool, limit: float | None
) -> Row:
    """Measures a row and stores it in the catalogue at `path`; a covered row's command just runs.

    Args:
        row: from `load(path)`.
        runs: the folder of the workdirs.
        data: the folder of raw data sets, or None.
        again: drops the workdir first, so that everything is trained anew.
        limit: seconds after which the command is asked to save and stop.

    Returns:
        The row as it is stored now.

    Raises:
        FailedError: the command failed, or gave other numbers under the same conditions: nothing is
            stored then. OutOfTimeError.
    """
    workdir, command = runs / row["command_name"], command_of(row, runs, data, again=again)
    if again:
        shutil.rmtree(workdir, ignore_errors=True)
    print(shlex.join(command), flush=True)
    status, stopped = _call(command, limit)
    if stopped:
        raise OutOfTimeError(f"{row['command_name']} was stopped and goes on from {workdir}")
    if status:
        raise FailedError(f"{row['command_name']}: exit {status} of {shlex.join(command)}")
    if not is_experiment(row) or row["status"] == "covered":
        return row
    new = measure.read(workdir)
    different = measure.changed(row, new)
    if different:
        lines = "".join(f"\n  {line}" for line in different)
        raise FailedError(f"{row['command_name']} is not what was stored:{lines}")
    rows = load(path)  # again: another process may have stored a row meanwhile
    stored = next(each for each in rows if each["id"] == row["id"])
    stored.update(new)
    measure.decide(rows)
    save(rows, path)
    return stored


def run_all(path: Path, *, runs: Path, data: Path | None, budget: float | None) -> int:
    """Measures every row that has a recipe and no numbers yet; the exit status."""
    end, failed = None if budget is None else time.monotonic() + budget, []
    names = [
        row["command_name"] for row in load(path) if is_experiment(row) and not row["conditions"]
    ]
    for number, name in enumerate(names):
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            print(f"the budget is spent; {len(names) - number} rows are left: run it again")
            break
        row = next(each for each in load(path) if each["command_name"] == name)
        if row["status"] == "covered":
            continue
        try:
            stored = run(row, path, runs=runs, data=data, again=False, limit=left)
            print(f"{name}: {stored['status']}, {stored['result']}", flush=True)
        except OutOfTimeError as stopped:
            print(f"the budget is spent: {stopped}")
            break
        except FailedError as error:
            failed.append(name)
            print(f"error: {error}", file=sys.stderr, flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def _call(command: Sequence[str], limit: float | None) -> tuple[int, bool]:
    """(exit status, whether it was stopped for time)."""
    process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ))
    try:
        return process.wait(limit), False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait()
        return process.returncode, True
    except BaseException:
        process.kill()
        raise
