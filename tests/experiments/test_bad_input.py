"""What a user can get wrong is answered by name before anything is trained or written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import digits
from experiments import distill, setup, train_teacher

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--config.run.stepz=3", r"stepz.*steps"),
        ("--config.run.rows.kd.temperature=0.0", r"run\.rows\.kd: temperature must be above 0"),
        ("--config.run.steps=many", r"steps.*many"),
    ],
)
def test_the_command_answers_without_a_traceback(flag, message, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.distill", "--config=configs/digits.py:tiny",
         f"--workdir={tmp_path / 'w'}", flag],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    assert re.search(message, done.stderr, re.DOTALL), done.stderr[-3000:]
    assert not (tmp_path / "w").exists()


CASES = {
    "run.rows.kd.weight=1.5": "run.rows.kd: weight must be between 0 and 1, got 1.5",
    "run.rows.hint.student_feature=hidden9": "no feature 'hidden9'.*hidden1",
    "run.rows.hint.teacher_feature=stage7": "no feature 'stage7'.*stage1",
    "run.rows.kd.method=kdd": "run.rows.kd.method is 'kdd'; did you mean 'kd'",
    "run.student.network.name=resnet21": "'resnet21'; did you mean 'resnet",
    "run.student.optimiser.name=adamm": "did you mean 'adam",
    "run.student.optimiser.learning_rate=-1.0": "learning_rate must be above 0, got -1.0",
    "run.data.name=fashion_mnist": "fashion_mnist.*not",
    "run.data.labelled=100000": "labelled must be between 1 and",
    "run.data.augment=flip": "run.data.augment is 'flip'",
    "run.steps=0": "run.steps must be above 0, got 0",
    "run.seeds=0": "run.seeds must be above 0, got 0",
    "run.batch=0": "batch_size must be at least 1, got 0",
    "run.teacher.workdir=nowhere": "no trained 'teacher' in nowhere",
    "place.mesh=data=3": "place.mesh: .*does not divide",
    "place.how=xmap": "place.how must be 'pjit' or 'pmap', got xmap",
    "place.save_every=0": "place.save_every must be above 0, got 0",
    "run.baseline=nothing": "run.baseline is 'nothing'",
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("change", CASES)
def test_the_config_is_refused_by_key(change, data_dir, tmp_path):
    key, value = change.split("=", 1)
    config = digits.get_config("tiny")
    config.run.data.data_dir = str(data_dir)
    *parents, last = key.split(".")
    part = config
    for name in parents:
        part = part[name]
    part[last] = type(part[last])(value)
    with pytest.raises(setup.ConfigError) as error:
        distill.main(config, tmp_path / "w")
    assert re.search(CASES[change], str(error.value), re.DOTALL), str(error.value)
    assert not (tmp_path / "w" / "checkpoints").exists()


def test_an_option_that_a_method_does_not_have_is_refused():
    with pytest.raises(setup.ConfigError, match="'temprature'; did you mean 'temperature'"):
        setup.build_method("run.rows.kd", ConfigDict({"method": "kd", "temprature": 3.0}))


def test_shapes_that_a_linear_projector_cannot_map_are_refused(data_dir, tmp_path):
    config = digits.get_config("tiny")
    config.run.data.data_dir = str(data_dir)
    config.run.rows.hint.teacher_feature = "stage1"
    with pytest.raises(setup.ConfigError, match=r"run.rows.hint: .*'hidden1'.*\(1, 16\).*'stage1'"):
        distill.main(config, tmp_path / "w")


def test_teacher_and_student_of_different_class_counts_are_refused(data_dir, tmp_path):
    """The teacher comes from another workdir, where it was trained for five classes."""
    rng = np.random.default_rng(0)
    path = tmp_path / "five.npz"
    images = rng.integers(0, 255, (200, 8, 8, 1)).astype(np.uint8)
    np.savez(path, image=images, label=np.arange(200).astype(np.int32) % 5)
    five = digits.get_config("tiny")
    five.run.data.name, five.run.teacher.steps = str(path), 2
    train_teacher.main(five, tmp_path / "five")
    config = digits.get_config("tiny")
    config.run.data.data_dir = str(data_dir)
    config.run.teacher.workdir, config.run.teacher.steps = str(tmp_path / "five"), 2
    with pytest.raises(setup.ConfigError, match="run.teacher.workdir: .*another state"):
        distill.main(config, tmp_path / "w")
