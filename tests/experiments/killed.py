"""Runs an experiment and kills the process with SIGKILL at a named point.

    python killed.py POINT EXPERIMENT [flags]

A point is where real code is entered; nothing is replaced before that.
"""

import importlib
import os
import signal
import sys

from orbax.checkpoint import checkpoint_manager
from orbax.checkpoint._src.path import atomicity

from experiments import setup, train_teacher
from kdjax.report import files
from kdjax.train import checkpoints


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def nth(count, function):
    """Calls through `count - 1` times and dies at the next one."""
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        return die() if calls == count else function(*args, **kwargs)

    return wrapped


def arm(point):
    save = checkpoints.Checkpoints.save
    if point == "before_first_save":
        checkpoints.Checkpoints.save = nth(1, save)
    elif point == "while_writing":  # the files are there, the folder is not renamed yet
        kind = atomicity.AtomicRenameTemporaryPath
        kind.finalize = nth(4, kind.finalize)
    elif point == "before_retention":  # the new step is renamed, the old one not yet deleted
        manager = checkpoint_manager.CheckpointManager
        finish = manager._finalize_checkpoint

        def finalize(self, step):
            finish(self, step)
            if len([path for path in self.directory.iterdir() if path.name.isdigit()]) > 2:
                die()

        manager._finalize_checkpoint = finalize
    elif point == "in_final_evaluation":
        train_teacher.measured = nth(3, train_teacher.measured)  # teacher, first row, second row
    elif point == "while_writing_report":
        write = files.write_atomically

        def half(path, text):
            if path.name == "report.html":
                path.with_name("report.html.tmp").write_text(text[: len(text) // 2])
                die()
            write(path, text)

        files.write_atomically = half
    elif point == "sigterm":
        save_in_turn = iter([False, False, True] + [False] * 99)

        def terminated(self, *args, **kwargs):
            if next(save_in_turn):
                os.kill(os.getpid(), signal.SIGTERM)
            return save(self, *args, **kwargs)

        checkpoints.Checkpoints.save = terminated
    elif point != "never":
        raise SystemExit(f"no such point: {point}")


if __name__ == "__main__":
    arm(sys.argv[1])
    module = importlib.import_module(sys.argv[2])
    sys.argv = [sys.argv[2], *sys.argv[3:]]
    setup.launch(module.main)
