"""The main job as two processes of four devices each: the same numbers as on one device."""

import json
import socket
import subprocess

import launched
import numpy as np
import pytest

from experiments import setup
from kdjax.report.results import read_results
from kdjax.report.writers import read_metrics
from tools import checkpoint


def start(home, workdir, point, devices, flags=(), environment=()):
    return subprocess.Popen(
        launched.command(workdir, point, *flags),
        env={**launched.environment(home, devices), **dict(environment)},
        cwd=launched.ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finished(runs):
    ended = [(*run.communicate(timeout=500), run.returncode) for run in runs]
    for _, errors, code in ended:
        assert code == 0, errors[-3000:]
    return ended


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def slurm(number, port):
    """What srun sets for each of two tasks on one host."""
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number),
        "JAX_COORDINATOR_PORT": str(port),
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def alone(home):
    finished([start(home, home / "alone", "never", 1)])
    return home / "alone"


def check_like(workdir, alone):
    """Another layout is not the same bits, but the same run: as in test_resume."""
    for mine, theirs in zip(
        *(read_results(w / "results.json") for w in (workdir, alone)), strict=True
    ):
        assert mine["name"] == theirs["name"]
        assert mine["metrics"]["nll"] == pytest.approx(theirs["metrics"]["nll"], rel=1e-2)
        accuracy = np.subtract(mine["metrics"]["accuracy"], theirs["metrics"]["accuracy"])
        assert np.abs(accuracy).max() <= 0.01
    lines = [
        sorted((c["row"], c["split"], c["step"]) for c in read_metrics(w / "metrics.jsonl"))
        for w in (workdir, alone)
    ]
    assert lines[0] == lines[1]  # every line once: one process writes


@pytest.mark.full
def test_two_processes_measure_what_one_device_does(home, alone):
    port = free_port()
    where = [f"--coordinator=localhost:{port}", "--processes=2"]
    first, second = finished(
        [start(home, home / "two", "never", 4, [*where, f"--process={i}"]) for i in range(2)]
    )
    printed = [
        [t for t in out.splitlines() if not t.startswith("[Gloo]")] for out in (first[0], second[0])
    ]
    assert printed[0][-1].startswith("report:") and printed[1] == []
    assert "2 processes" in json.loads((home / "two" / "config.json").read_text())["layout"]
    check_like(home / "two", alone)


@pytest.mark.full
def test_a_run_of_two_processes_stops_together_and_goes_on_as_one(home, alone):
    """Only one of the two is told to stop; the processes know of each other from SLURM alone."""
    port = free_port()
    points = ("sigterm", "never")
    ended = finished(
        [start(home, home / "moved", points[i], 4, (), slurm(i, port)) for i in range(2)]
    )
    assert all("the same command goes on from here" in errors for _, errors, _ in ended)
    assert not (home / "moved" / "results.json").exists()
    before = [
        checkpoint.describe(r)["step"] for r in checkpoint.rows(home / "moved" / "checkpoints")
    ]
    assert before[-1] < 30
    ((_, errors, _),) = finished([start(home, home / "moved", "never", 1)])
    assert "resuming with layout = \"pjit {'data': 1} cpu\", was" in errors
    check_like(home / "moved", alone)


@pytest.mark.parametrize(
    "given, message",
    [
        (("", 2, None), "need --coordinator"),
        (("localhost:1", None, None), "needs --processes and --process"),
        (("localhost:1", 2, 2), "not one of 2, from 0"),
    ],
)
def test_flags_that_do_not_say_which_process_are_refused(given, message):
    with pytest.raises(setup.ConfigError, match=message):
        setup.join_processes(*given)


def test_one_process_is_the_rule():
    assert not setup._launched_as_several({"SLURM_NTASKS": "4"})  # a batch script, not an srun task
    assert not setup._launched_as_several({"SLURM_STEP_NUM_TASKS": "1"})
    assert setup._launched_as_several({"OMPI_COMM_WORLD_SIZE": "2"})
