"""Sharding rules in a config: another placement of the same run."""

import jax
import numpy as np
import pytest
import small_config

from experiments import distill, setup
from kdjax.report.results import read_results

RULES = {
    "teacher": (("dense1/kernel", (None, "fsdp")), ("head/kernel", ("fsdp",))),
    "student": (("dense1/kernel", ("fsdp",)),),
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def recipe(data_dir, sharding, mesh="data=2,fsdp=4"):
    config = small_config.get_config()
    config.run.data.data_dir = str(data_dir)
    config.run.teacher.steps, config.run.steps = 10, 10
    config.place.mesh = mesh
    for name, rules in sharding.items():
        config.place.sharding[name] = rules
    return config


def trained(config, workdir, monkeypatch):
    """The results, and the shard shape of every kernel that an evaluation saw."""
    seen = {}
    evaluation = distill.build_student_evaluation

    def watched(stage, seeds):
        evaluate = evaluation(stage, seeds)

        def run(state, frozen, batches):
            kernels = {
                "teacher": frozen["teacher"]["dense1"]["kernel"],
                "student": state.params["student"]["dense1"]["kernel"],
                "moment": jax.tree.leaves(state.opt["student"])[1:],
            }
            seen.update(jax.tree.map(lambda x: x.addressable_shards[0].data.shape, kernels))
            return evaluate(state, frozen, batches)

        return run

    with monkeypatch.context() as patched:
        patched.setattr(distill, "build_student_evaluation", watched)
        assert distill.main(config, workdir) == 0
    return read_results(workdir / "results.json"), seen


@pytest.mark.full
def test_a_run_with_rules_for_both_sides_is_the_same_run(data_dir, tmp_path, monkeypatch):
    plain, whole = trained(recipe(data_dir, {}), tmp_path / "plain", monkeypatch)
    sharded, parts = trained(recipe(data_dir, RULES), tmp_path / "sharded", monkeypatch)
    assert whole["teacher"] == (64, 24) and parts["teacher"] == (64, 6)
    assert whole["student"] == (2, 64, 16) and parts["student"] == (2, 16, 16)
    assert (2, 64, 16) in whole["moment"]
    assert (2, 16, 16) in parts["moment"] and (2, 64, 16) not in parts["moment"]
    for mine, theirs in zip(sharded, plain, strict=True):
        np.testing.assert_allclose(mine["metrics"]["nll"], theirs["metrics"]["nll"], rtol=1e-3)


@pytest.mark.parametrize(
    "sharding, message",
    [
        ({"student": (("dense7", ("fsdp",)),)}, "student: rules .'dense7'.*head/kernel"),
        ({"teacher": (("head/kernel", (None, "fsdp")),)}, "fsdp=4 does not divide 10"),
        ({"studend": (("kernel", ("fsdp",)),)}, "'studend'; did you mean 'student'"),
    ],
)
def test_rules_that_do_not_fit_are_refused_before_anything_is_written(
    sharding, message, data_dir, tmp_path
):
    config = recipe(data_dir, {})
    with config.place.sharding.unlocked():
        config.place.sharding.update(sharding)
    with pytest.raises(setup.ConfigError, match=r"config\.place\.sharding.*" + message):
        distill.main(config, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_rules_need_pjit(data_dir, tmp_path):
    config = recipe(data_dir, RULES)
    config.place.how = "pmap"
    with pytest.raises(setup.ConfigError, match="need 'pjit'"):
        distill.main(config, tmp_path / "w")
