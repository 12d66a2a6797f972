"""Every recipe: it loads, its step has shapes, and one per kind of step takes two real ones."""

import importlib

import jax
import numpy as np
import pytest

from configs import cifar100
from experiments import distill, train_teacher
from kdjax.train import build_train_step, make_mesh, place, scanned

RECIPES = {
    "digits": ["", "tiny"],
    "cifar100": [*cifar100.PAIRS, f"{cifar100.PAIRS[0]},tiny"],
}
SHAPES = {"cifar100": (32, 32, 3, 100)}


def load(file, argument):
    return importlib.import_module(f"configs.{file}").get_config(argument)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A set with the shapes of one that has to be downloaded: noise, three images a class."""

    def make(file):
        height, width, channels, classes = SHAPES[file]
        rng = np.random.default_rng(0)
        path = tmp_path_factory.mktemp("data") / f"{file}.npz"
        for_split = {"train": 3 * classes, "test": classes}
        arrays = {}
        for split, count in for_split.items():
            image = rng.integers(0, 255, (count, height, width, channels))
            arrays[f"{split}/image"] = image.astype(np.uint8)
            arrays[f"{split}/label"] = (np.arange(count) % classes).astype(np.int32)
        np.savez(path, **arrays)
        return str(path)

    return make


def prepared(file, argument, stand_in, tmp_path):
    config = load(file, argument)
    config.run.data.data_dir = str(tmp_path)
    if file in SHAPES:
        config.run.data.name, config.run.data.data_dir = stand_in(file), ""
        config.run.data.validation = 100
        config.run.seeds = 1
    data = train_teacher.build_data(config)
    nets = distill.build_networks(config, data)
    return config, data, nets


@pytest.mark.parametrize("file, argument", [(f, a) for f, names in RECIPES.items() for a in names])
def test_every_recipe_loads_and_says_what_it_is_run_with(file, argument):
    config = load(file, argument)
    assert config.run.baseline in config.run.rows
    text = importlib.import_module(f"configs.{file}").__doc__
    assert "python -m experiments." in text and "tiny" in text


@pytest.mark.parametrize("file", RECIPES)
def test_an_unknown_name_in_the_argument_is_refused(file):
    with pytest.raises(ValueError, match="nothing"):
        load(file, "nothing")


def chunk_of(stage, seeds):
    def builder(axis):
        return build_train_step(stage.networks, stage.method.phases, stage.optimisers, axis=axis)

    replicas = None if isinstance(seeds, int) else ("seed", len(seeds))
    mesh = make_mesh("data=1", jax.devices()[:1])
    chunk = place(scanned(builder, stage.streams), mesh, replicas=replicas, batch_axis=1)
    xs = {name: stream.xs(seeds, 0, 2) for name, stream in stage.streams.items()}
    return chunk, xs


def cases():
    for file, names in RECIPES.items():
        rows = load(file, names[0]).run.rows
        for argument in names:
            for row in sorted(rows):
                kind = (file, argument, row) in {
                    ("digits", "tiny", row),
                    ("cifar100", f"{cifar100.PAIRS[0]},tiny", ""),
                }
                yield pytest.param(file, argument, row, marks=() if kind else pytest.mark.full)


@pytest.mark.parametrize("file, argument, row", list(cases()))
def test_two_real_steps_change_the_student(file, argument, row, stand_in, tmp_path):
    config, data, nets = prepared(file, argument, stand_in, tmp_path)
    config.run.batch = min(config.run.batch, 8)
    data = train_teacher.build_data(config)
    (stage, seeds), *_ = distill.build_stages(config, data, nets)[row]
    teacher = train_teacher.build_stage(config, data, nets["teacher"])
    frozen = teacher.finish(jax.eval_shape(lambda: teacher.init({})[0]), {})
    shapes = jax.eval_shape(lambda: stage.init({})[0])
    assert jax.tree.leaves(shapes.params["student"])
    frozen = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), frozen)
    chunk, xs = chunk_of(stage, seeds)
    state, _ = stage.init(frozen)
    before = jax.device_get(state.params["student"])
    resident = {name: dict(stream.resident) for name, stream in stage.streams.items()}
    state, metrics = chunk(state, {"frozen": frozen, "resident": resident}, xs)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, state.params["student"])
    assert max(jax.tree.leaves(moved)) > 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics))
