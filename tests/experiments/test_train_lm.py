"""A teacher that is trained once, for other runs to take."""

import json

import jax
import numpy as np
import pytest

from configs import lm
from experiments import distill_lm, setup, train_lm


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for number in range(6):
        lines = [f"def f{number}_{i}(x):\n    return x + {number * i}\n" for i in range(60)]
        (folder / f"{number}.py").write_text("\n".join(lines))
    config = lm.get_config("tiny")
    run = config.run
    run.data.name, run.data.validation, run.data.test = str(folder), 0.15, 0.15
    run.data.rows, run.data.evaluated, run.data.length = 32, 4, 16
    run.batch = run.teacher.batch = 8
    run.teacher.steps, run.teacher.optimiser.warmup = 3, 0.0
    return config


@pytest.mark.full
def test_a_teacher_is_trained_once_and_taken_from_its_workdir(config, tmp_path, capsys):
    train_lm.main(config, tmp_path / "teacher")
    (row,) = json.loads((tmp_path / "teacher" / "results.json").read_text())
    assert row["name"] == "teacher" and "teacher" in capsys.readouterr().out
    taken = config.copy_and_resolve_references()
    taken.run.teacher.workdir = str(tmp_path / "teacher")
    data = train_lm.build_data(taken)
    network = distill_lm.build_networks(taken, data)["teacher"]
    stage = train_lm.build_stage(taken, data, network)
    run = setup.open_run(taken, tmp_path / "student", data.fingerprint)
    frozen, digest, again = train_lm.obtain_teacher(taken, run, data, stage, network)
    assert not (tmp_path / "student" / "checkpoints").exists()
    for metric, values in row["metrics"].items():
        np.testing.assert_allclose(again["metrics"][metric], values, rtol=1e-6)
    assert len(digest) == 64 and jax.tree.leaves(frozen["teacher"])
    taken.run.teacher.workdir = str(tmp_path / "nowhere")
    with pytest.raises(setup.ConfigError, match="run.teacher.workdir: there is no trained"):
        train_lm.obtain_teacher(taken, run, data, stage, network)


def test_all_measures_are_over_tokens_of_the_held_out_documents(config):
    data = train_lm.build_data(config)
    kept = {name for part in data.documents for name in part}
    assert len(kept) == 6
    tokens = data.validation["teacher"]["tokens"]
    train = {tuple(row) for row in data.rows["tokens"].tolist()}
    held = {tuple(row) for row in np.asarray(tokens).reshape(-1, 16).tolist()}
    assert held and not train & held
