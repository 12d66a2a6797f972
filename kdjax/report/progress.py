"""Progress on long work: a bar on a terminal, plain lines elsewhere."""

import contextlib
import datetime
import math
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def progress(total: int, label: str) -> Iterator[Callable[..., None]]:
    """Gives `update(step, note="")`; the first call says where the work goes on from."""
    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _lines(total, label)
        return
    columns = [
        TextColumn("{task.description:>12}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    ]
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=total, note="")
        yield lambda step, note="": bar.update(task, completed=step, note=note)


def _lines(total, label):
    said = -math.inf
    began: tuple[float, int] | None = None

    def update(step, note=""):
        nonlocal said, began
        now = time.monotonic()
        began = began or (now, step)
        if now - said < SECONDS_BETWEEN_LINES and step < total:
            return
        said = now
        speed = ""
        if step > began[1]:
            rate = (step - began[1]) / max(now - began[0], 1e-9)
            left = datetime.timedelta(seconds=round((total - step) / rate))
            speed = f", {rate:.3g} steps/s" + (f", {left} left" if step < total else "")
        print(f"{label}: {step}/{total}{speed}  {note}".rstrip(), file=sys.stderr, flush=True)

    return update
