"""Start-up to the first step of the main job, cold and with the persistent compilation cache.

Each reading is a fresh process of `experiments.distill` on the demo's config with two steps for every
row, once with an empty folder for `--compilation_cache` and once more with what it left there.
`ratio` is the second one's time over the first one's: `first_step` until the first step is in
`metrics.jsonl` (the teacher's), `every_row` until the process ends, when every row has been compiled,
trained and evaluated.
"""

import pathlib
import subprocess
import sys
import tempfile
import time

from tools.bench import _timing

ROUNDS = 3
JOB = (
    "--config=configs/digits.py",
    "--config.run.steps=2",
    "--config.run.teacher.steps=2",
    "--config.place.log_every=1",
)


def rows(only=""):
    """One row an event whose name contains `only`."""
    cold, cached = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            cache = pathlib.Path(folder) / "cache"
            for number, times in enumerate((cold, cached)):
                times.append(start(pathlib.Path(folder) / str(number), cache))
    events = {"first_step": 0, "every_row": 1}
    return [
        {"name": name, **_timing.compared([t[i] for t in cached], [t[i] for t in cold])}
        for name, i in events.items()
        if only in name
    ]


def start(workdir, cache):
    """(seconds to the first logged step, seconds to the end) of one process."""
    command = [sys.executable, "-m", "experiments.distill", *JOB]
    command += [f"--workdir={workdir}", f"--compilation_cache={cache}"]
    logged = workdir / "metrics.jsonl"
    began = time.perf_counter()
    first = None
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            if first is None and logged.exists() and logged.stat().st_size:
                first = time.perf_counter() - began
            time.sleep(0.02)
        ended = time.perf_counter() - began
        if process.returncode or first is None:
            raise RuntimeError(process.stderr.read().decode()[-2000:])
    return first, ended
