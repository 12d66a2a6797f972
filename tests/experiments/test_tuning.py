"""What makes a comparison honest: equal trials, rows in order, shared teachers, cached outputs."""

import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import logits
from experiments import distill, setup, study, train_teacher, tuning
from tools.catalogue import rows

RECIPES = sorted(
    {
        found.groups()
        for row in rows.load()
        if (found := re.search(r"--config=configs/(\w+)\.py:(\w+)", row["command"]))
    }
)


def load(file, argument):
    return importlib.import_module(f"configs.{file}").get_config(argument)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(config, data, networks) of a recipe in its tiny form."""
    config = logits.get_config("born_again,tiny")
    config.run.data.data_dir = str(tmp_path_factory.mktemp("data"))
    data = train_teacher.build_data(config)
    return config, data, distill.build_networks(config, data)


@pytest.mark.parametrize("file, recipe", RECIPES)
def test_a_recipe_of_the_catalogue_gives_every_row_as_many_trials_and_claims_what_it_has(
    file, recipe
):
    for argument in (recipe, f"{recipe},tiny"):
        config = load(file, argument)
        tuning.check_measurement(config)
        assert config.run.claims
    if "study" in config.run:
        assert config.run.study in study.named_studies()
    elif "tune" in config.run:
        assert set(config.run.tune.grid) == set(config.run.rows)
    assert load(file, recipe).run.seeds >= 5


def changed(**changes):
    config = logits.get_config("dot")
    with config.unlocked():
        for key, value in changes.items():
            *path, last = key.split("__")
            node = config.run
            for name in path:
                node = node[name]
            node[last] = value
    return config


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"tune__grid__kd": {"rate": (1.0,)}}, "grid.kd makes 1 trials, every row has 6"),
        ({"tune__seeds": 99}, "run.tune.seeds must be up to run.seeds"),
        ({"tune__metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"claims__dot__row": "dott"}, "run.claims.dot is 'dott'; did you mean 'dot'"),
        ({"claims__dot__direction": "more"}, "run.claims.dot.direction is 'more'"),
        ({"claims__dot__margin": 0.1}, "margin is for 'equal' alone"),
    ],
)
def test_an_unfair_or_empty_measurement_is_refused(changes, message):
    with pytest.raises(setup.ConfigError, match=message):
        tuning.check_measurement(changed(**changes))


def test_a_grid_is_every_combination():
    assert tuning.grid({"b": (1, 2), "a": (3,)}) == [{"a": 3, "b": 1}, {"a": 3, "b": 2}]


def test_a_choice_reaches_the_row_and_its_learning_rate():
    config = logits.get_config("dot")
    chosen = tuning.with_choice(config, "dot", {"rate": 3.0, "weight": 0.9})
    assert chosen.run.rows.dot.weight == 0.9 and config.run.rows.dot.get("weight") is None
    assert chosen.run.rows.dot.optimiser.learning_rate == pytest.approx(0.15)
    plain = tuning.with_choice(config, "kd", {"rate": 0.3, "weight": 0.5})
    assert plain.run.rows.kd.optimiser.learning_rate == pytest.approx(0.015)
    assert plain.run.student.optimiser.learning_rate == config.run.student.optimiser.learning_rate


def test_a_row_comes_after_the_one_that_it_goes_on_from(small):
    order = list(distill.build_stages(*small))
    assert order[0] == "alone"
    places = [order.index(f"generation{k}") for k in (1, 2, 3)]
    assert places == sorted(places)


def test_rows_that_go_on_from_each_other_are_refused():
    run = ConfigDict(
        {
            "baseline": "a",
            "seeds_together": True,
            "rows": {"a": {"after": "b"}, "b": {"after": "a"}},
        }
    )
    with pytest.raises(setup.ConfigError, match="go on from each other"):
        distill._ordered(run)


def test_students_are_handed_on_as_the_generation_before_or_as_the_start(small):
    config, data, nets = small
    (stage, _), *_ = distill.build_stages(config, data, nets)["generation1"]
    own = stage.init({})[0]
    students = jax.tree.map(lambda x: x + 1, own.params["student"])
    state, _ = distill.start_from(stage, students, "row", carry=False).init({})
    assert_equal(state.memory["previous"], students)
    assert_equal(state.params["student"], own.params["student"])
    state, _ = distill.start_from(stage, students, "row", carry=True).init({})
    assert_equal(state.params["student"], students)
    plain, _ = distill.build_stages(config, data, nets)["alone"][0]
    with pytest.raises(setup.ConfigError, match="reads no memory 'previous'"):
        distill.start_from(plain, students, "row", carry=False).init({})


def assert_equal(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def test_cached_outputs_are_those_of_the_teacher_on_the_images_of_the_batch(small):
    _, data, nets = small
    params = nets["teacher"].init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    cached = distill.cache_teachers(data, nets, {"teacher": params}, ["teacher"])
    stream = cached.student["labelled"]
    x = jax.tree.map(lambda leaf: leaf[0], stream.xs(3, 5, 1))
    batch = stream.batch(stream.resident, x, jax.random.key(1))
    live, _ = nets["teacher"].apply({"params": params}, batch["image"], train=False, rngs={})
    np.testing.assert_allclose(batch["teacher/logits"], live.logits, rtol=1e-5, atol=1e-5)


def test_a_teacher_of_some_classes_sees_no_others(small):
    _, data, _ = small
    some = train_teacher.teacher_streams(data, ConfigDict({"classes": (2, 7)}))["labelled"]
    labels = data.source.columns["label"][some.plan.examples_of(0)]
    assert set(labels.tolist()) == {2, 7}
    every = train_teacher.teacher_streams(data, ConfigDict({}))["labelled"]
    assert every is data.teacher["labelled"]


def test_what_is_shared_is_found_by_what_it_depends_on_and_nothing_else(small, tmp_path):
    config, data, _ = small
    config = config.copy_and_resolve_references()
    config.place.shared = str(tmp_path / "shared")

    def folder(config):
        run = setup.open_run(config, tmp_path / "run", data.source.fingerprint)
        return tuning.row_run(config, run, "kd").workdir

    first = folder(config)
    others = {}
    for change in ("claims", "rows.alone.method", "data.manual_dir"):
        others[change] = config.copy_and_resolve_references()
    others["claims"].run.claims.born_again.row = "alone"
    others["rows.alone.method"].run.rows.alone.method = "kd"
    others["data.manual_dir"].run.data.manual_dir = "elsewhere"
    for number, other in enumerate(others.values()):
        run = setup.open_run(other, tmp_path / f"other{number}", data.source.fingerprint)
        assert tuning.row_run(other, run, "kd").workdir == first
    for key, value in (("steps", 41), ("seeds", 3), ("batch", 32)):
        other = config.copy_and_resolve_references()
        other.run[key] = value
        run = setup.open_run(other, tmp_path / f"{key}", data.source.fingerprint)
        assert tuning.row_run(other, run, "kd").workdir != first
