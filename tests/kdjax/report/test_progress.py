"""Progress as a pipe and as a terminal see it."""

import io
import re

import pytest

from kdjax.report import progress as module
from kdjax.report.progress import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when told."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_a_pipe_gets_a_line_every_ten_seconds_and_the_last_one(clock, capsys):
    with progress(1100, "kd") as update:
        update(0)
        for step in range(50, 1101, 50):
            clock(2.0)
            update(step, f"loss {step / 1000:g}")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "kd: 0/1100",
        "kd: 250/1100, 25 steps/s, 0:00:34 left  loss 0.25",
        "kd: 500/1100, 25 steps/s, 0:00:24 left  loss 0.5",
        "kd: 750/1100, 25 steps/s, 0:00:14 left  loss 0.75",
        "kd: 1000/1100, 25 steps/s, 0:00:04 left  loss 1",
        "kd: 1100/1100, 25 steps/s  loss 1.1",
    ]


def test_a_resumed_run_counts_its_speed_from_where_it_goes_on(clock, capsys):
    with progress(90_000, "alone") as update:
        update(60_000)
        clock(20.0)
        update(60_010)
    assert capsys.readouterr().err.splitlines() == [
        "alone: 60000/90000",
        "alone: 60010/90000, 0.5 steps/s, 16:39:40 left",
    ]


def test_a_finished_run_says_so_once(capsys):
    with progress(30, "alone") as update:
        update(30)
    assert capsys.readouterr().err == "alone: 30/30\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_with_the_label_and_note_as_they_are(monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stderr", terminal)
    with progress(40, "kd[bold]") as update:
        update(10)
        update(40, "loss[0] 0.5")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    assert "kd[bold]" in shown and "40/40" in shown and "loss[0] 0.5" in shown
    assert "━" in shown and "steps/s" not in shown


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stderr", terminal)
    with progress(40, "kd") as update:
        update(10)
    assert terminal.getvalue() == "kd: 10/40\n"
