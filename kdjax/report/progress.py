"""Progress on long work: a bar on a terminal, plain lines elsewhere."""

import contextlib
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
    if console.is_terminal:
        columns = [
            TextColumn("{task.description:>12}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        ]
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(label, total=total, note="")
            yield lambda step, note="": bar.update(task, completed=step, note=note)
    else:
        yield _lines(total, label)


def _lines(total, label):
    said = -SECONDS_BETWEEN_LINES
    began: tuple[float, int] | None = None

    def update(step, note=""):
        nonlocal said, began
        now = time.monotonic()
        if began is None:
            began = (now, step)
        due = now - said >= SECONDS_BETWEEN_LINES or step >= total
        if not due:
            return
        said = now
        rate = (step - began[1]) / max(now - began[0], 1e-9)
        speed = f", {rate:.0f} steps/s" if step > began[1] else ""
        print(f"{label}: {step}/{total}{speed}  {note}".rstrip(), file=sys.stderr, flush=True)

    return update
