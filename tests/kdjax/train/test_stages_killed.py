"""A repetition with a pool, killed for real in the middle of a round."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import continual

from kdjax.networks.fingerprint import fingerprint
from kdjax.train import run_stages, train_stage

HERE = Path(__file__).parent


def test_a_killed_repetition_with_a_pool_ends_with_the_same_bits(tmp_path):
    def run(chunks):
        return subprocess.run(
            [sys.executable, HERE / "continual.py", tmp_path, str(chunks)],
            check=False, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parents[2])},
        )  # fmt: skip

    assert run(5).returncode == -signal.SIGKILL  # in the third round of five
    assert "task" in os.listdir(tmp_path) and "60" not in os.listdir(tmp_path / "task")
    done = run(0)
    assert done.returncode == 0, done.stderr[-3000:]
    whole = run_stages(
        continual.sequence(continual.replayed),
        functools.partial(train_stage, seeds=0, mesh=continual.MESH),
    )
    expected = fingerprint(whole["params"]), fingerprint(whole["memory"])
    assert tuple(done.stdout.split()) == expected
